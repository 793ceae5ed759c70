"""The trainer of a run: model, batches and optimizer as the config says, before anything is restored."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.distributed.process_group import ALONE, ProcessGroup
from gpt2core.machine.devices import choose_device
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStore, require_block
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.compilation import keep_compiled_code
from gpt2core.training.nshepperd_batches import CompatBatches, chunks_of
from gpt2core.training.trainer import Trainer
from gpt2core.weights.loading import load_model
from gpt2core.weights.model_folder import sizes_of


def build_trainer(
    compiled: Path,
    config: RunConfig,
    base: Path | None,
    tokenizer: Tokenizer,
    store: TokenStore,
    group: ProcessGroup = ALONE,
) -> Trainer:
    """The trainer at step 0, with `compiled` for its compiled code; raises UserError where text, base and config do not fit."""
    keep_compiled_code(compiled)
    model = _build_model(config, base, tokenizer)
    model.separator = tokenizer.end_of_text if config.data.mask_documents else None
    require_block(store, model.config.n_ctx)
    train, n_ctx = config.train, model.config.n_ctx
    if train.compat:
        batches: Batches = CompatBatches(chunks_of(store, tokenizer), n_ctx, train.batch_size, train.seed)
    else:
        batches = Batches(store.stream("train"), n_ctx, train.batch_size, train.seed, train.order)
    return Trainer(model, batches, config.train, group=group)


def _build_model(config: RunConfig, base: Path | None, tokenizer: Tokenizer) -> GPT2:
    sizes, device = config.model, choose_device(config.train.device)
    if base is None:
        return GPT2(sizes_of(sizes, base, tokenizer.n_vocab)).initialise(config.train.seed).to(device)
    model = load_model(base, device=str(device), n_ctx=sizes.n_ctx, dropout=sizes.dropout)
    if tokenizer.n_vocab > model.config.n_vocab:
        raise UserError(
            f"The vocabulary has {tokenizer.n_vocab:,} entries, but the base model {base} knows {model.config.n_vocab:,}: "
            "use tokenizer.source 'base'."
        )
    return model
