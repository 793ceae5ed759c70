"""The data half of the pipeline on its own: load, encode, report."""

from pathlib import Path

from prefect import flow

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.store.contracts import damaged_store_files
from gpt2core.store.encoding import name_of_store
from gpt2core.store.report import CorpusReport
from gpt2core.store.token_store import TokenStore, open_store
from tasks.encode_to_parquet import encode_to_parquet
from tasks.load_dataset import load_dataset
from tasks.prepare_tokenizer import prepare_tokenizer
from tasks.report_data import print_epoch, report_data
from tasks.runs.models import resolve_base
from tasks.terminal.console import console
from tasks.workspace.folders import Workspace


@flow(persist_result=False, validate_parameters=True)
def encode(config: RunConfig) -> CorpusReport:
    """Make or update the token store of a config and report on it."""
    return report_data(encode_text(config), config, resolve_base(config.model))


def encode_text(config: RunConfig) -> TokenStore:
    """The stages that make the token store, inside whichever flow calls them."""
    files = load_dataset(config.data)
    tokenizer = prepare_tokenizer(files, config.data, config.tokenizer, resolve_base(config.model))
    return encode_to_parquet(files, config.data, tokenizer, config.cluster)


def show_data(config: RunConfig, price: float | None) -> None:
    """Print the report of the store that the config's text has; raises UserError if it is not encoded."""
    base = resolve_base(config.model)
    report = report_data.fn(open_store(_store_of(config)), config, base)
    print_epoch(config, base, report.tokens["train"], price)


def verify_data(config: RunConfig) -> bool:
    """Check every file of the config's store, name those that are damaged, and say whether all is sound."""
    store = _store_of(config)
    found = damaged_store_files(store)
    for name, problem in found:
        console.print(f" [red]✗[/] [bold]{name}[/] {problem}", soft_wrap=True)
    if found:
        console.print(f"   Run gpt2flow encode again: of {store} it keeps what is sound and encodes the rest.", soft_wrap=True)
    else:
        console.print(f" [green]✓[/] {store} is sound: hashes, page checksums, offsets, ids, splits", soft_wrap=True)
    return not found


def _store_of(config: RunConfig) -> Path:
    """Where the store of this text and vocabulary lies."""
    files = load_dataset.fn(config.data)
    tokenizer = prepare_tokenizer.fn(files, config.data, config.tokenizer, resolve_base(config.model))
    store = Workspace.current().stores / name_of_store(files, config.data, tokenizer)
    if not store.is_dir():
        raise UserError("The text is not encoded as it is now: run gpt2flow encode with the same config first.")
    return store
