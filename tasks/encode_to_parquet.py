"""Text to the token store: Parquet shards that training reads by memory map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from rich.markup import escape

from configs.cluster import HERE, ClusterSettings
from configs.schema import DataSettings
from gpt2core.store.contracts import ContractError
from gpt2core.store.encoding import ShardWork, encode_store, encode_work
from gpt2core.store.token_store import TokenStore, open_store
from gpt2core.text.documents import SourceFile
from gpt2core.text.tokenizer import Tokenizer
from tasks.clusters.mapping import map_task
from tasks.runs.flow_run_locks import note_progress
from tasks.terminal.console import begin, encoding_bar, say, warn
from tasks.terminal.prefect_page import shown_if_served
from tasks.workspace.folders import Workspace


@task(cache_policy=NO_CACHE, persist_result=False)
def encode_to_parquet(
    files: list[SourceFile], settings: DataSettings, tokenizer: Tokenizer, cluster: ClusterSettings = HERE
) -> TokenStore:
    """The corpus's token store, verified; one that holds the same text in the same vocabulary is not encoded again."""
    stores = Workspace.current().stores
    before = {path.name for path in stores.iterdir()}
    begin("token store", "encoding, or finding what is encoded already")
    with encoding_bar() as bar, _broken_contract_shown():
        row = bar.add_task("", total=None)

        def show(stage: str, done: int, total: int) -> None:
            note_progress()
            bar.update(row, description=stage, completed=done, total=total)

        def share_out(works: list[ShardWork]) -> None:
            map_task(encode_shards, cluster, computes=False, work=works)

        path = encode_store(files, settings, tokenizer, stores, show, share_out)
    store = open_store(path, verify=False)  # encode_store has just verified it
    for note in store.manifest.findings.get("notes", []):
        say("read", escape(note))
    for warning in store.manifest.findings.get("warnings", []):
        warn("read", escape(warning))
    counts = store.manifest.counts
    documents = sum(split.documents for split in counts.values())
    tokens = sum(split.tokens for split in counts.values())
    known = "encoded before, verified" if store.path.name in before else "encoded and verified"
    say("token store", f"{documents:,} documents, {tokens:,} tokens ({counts['validation'].tokens:,} for validation), {known}")
    return store


@task(task_run_name="encode_shards_{work.first}_to_{work.last}", cache_policy=NO_CACHE, persist_result=False)
def encode_shards(work: ShardWork) -> None:
    """Encode neighbouring shards of a store in the making, on any machine that sees the same files."""
    encode_work(work)


@contextmanager
def _broken_contract_shown() -> Iterator[None]:
    """A row that breaks its contract becomes a table in Prefect's page, then the error goes on."""
    try:
        yield
    except ContractError as error:
        if TaskRunContext.get():
            with shown_if_served("the row that breaks its contract"):
                create_table_artifact([asdict(error.failure)], key="broken-contract", description=str(error))
        raise
