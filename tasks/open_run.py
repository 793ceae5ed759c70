"""The live run that the flow's stages share: folder, model, trainer, tracking; new, resumed or finished."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.batches import Batches
from gpt2core.checkpoint import find_checkpoints, newest_valid, prune, restore
from gpt2core.config import GPT2Config
from gpt2core.devices import choose_device
from gpt2core.durable import file_hash
from gpt2core.model import GPT2
from gpt2core.model_folder import weight_files
from gpt2core.token_store import TokenStore, require_block
from gpt2core.tokenizer import Tokenizer
from gpt2core.trainer import StepsDone, Trainer
from gpt2core.weights import load_model
from tasks.console import say, warn
from tasks.model_sources import best_checkpoint
from tasks.run_folder import RunFolder, run_id
from tasks.tracking import Tracking
from tasks.workspace import Workspace


class FinetuneRun:
    """One fine-tune in this process. Not a dataclass: Prefect would walk through its fields at every task."""

    def __init__(self, folder: RunFolder, config: RunConfig, tokenizer: Tokenizer, store: TokenStore, trainer: Trainer) -> None:
        self.folder = folder
        self.config = config
        self.tokenizer = tokenizer
        self.store = store
        self.trainer = trainer
        self.tracking: Tracking | None = None

    def milestones(self) -> list[int]:
        """Steps at which something happens (evaluation, checkpoint), from where the run stands to its end."""
        train, evaluate = self.config.train, self.config.evaluate
        steps = {0, train.steps, *range(0, train.steps, train.checkpoint_every), *range(0, train.steps, evaluate.every)}
        return sorted(step for step in steps if step >= self.trainer.step)

    def evaluates_at(self, step: int) -> bool:
        """Whether this milestone is sampled and evaluated, and has not been yet."""
        due = step % self.config.evaluate.every == 0 or step == self.config.train.steps
        return due and step not in {row["step"] for row in self.folder.evaluations.rows()}

    def prune_checkpoints(self) -> None:
        """Remove all checkpoints but the newest ones and the best."""
        if find_checkpoints(self.folder.checkpoints):
            best = int(best_checkpoint(self.folder).name.removeprefix("step-"))
            prune(self.folder.checkpoints, self.config.train.keep_checkpoints, frozenset({best}))

    def state(self) -> dict[str, object]:
        """What a checkpoint records beside weights and step."""
        return {
            "run": self.folder.id,
            "store": self.store.hash,
            "mlflow_run_id": self.folder.read("run").get("mlflow_run_id"),
            "config": self.config.model_dump(),
            "git_revision": git_revision(),
        }


def run_folder_of(config: RunConfig, base: Path | None, store: TokenStore) -> RunFolder:
    """Folder of the run that belongs to this config, this text and these base weights; it may not exist yet."""
    return RunFolder(Workspace.current().runs / run_id(config, store.hash, weights_hash(base)))


@contextmanager
def open_run(
    folder: RunFolder, config: RunConfig, base: Path | None, tokenizer: Tokenizer, store: TokenStore
) -> Iterator[FinetuneRun]:
    """Start the run or resume it from its newest checkpoint; inside, it is locked and mirrored to MLflow.

    Raises UserError where text or base model do not fit the config, or another process works on the run.
    """
    trainer = _build_trainer(folder, config, base, tokenizer, store)
    folder.samples.mkdir(parents=True, exist_ok=True)
    with folder.locked():
        run = FinetuneRun(folder, config, tokenizer, store, trainer)
        _start_or_resume(run)
        try:
            with Tracking(folder, config, store) as run.tracking:
                yield run
        except Exception as error:
            folder.write("failure", {"error": str(error), "step": trainer.step})
            raise


def _build_trainer(folder: RunFolder, config: RunConfig, base: Path | None, tokenizer: Tokenizer, store: TokenStore) -> Trainer:
    model = _build_model(config, base, tokenizer)
    require_block(store, model.config.n_ctx)
    batches = Batches(store.stream("train"), model.config.n_ctx, config.train.batch_size, config.train.seed)

    def record(done: StepsDone) -> None:
        folder.metrics.append(asdict(update) for update in done.updates)
        folder.timing.append([{"step": done.updates[-1].step, "tokens_per_second": done.tokens_per_second}])

    return Trainer(model, batches, config.train, [record])


def _build_model(config: RunConfig, base: Path | None, tokenizer: Tokenizer) -> GPT2:
    sizes, device = config.model, choose_device(config.train.device)
    if base is None:
        assert sizes.n_ctx and sizes.n_embd and sizes.n_head and sizes.n_layer  # RunConfig has checked it
        shape = GPT2Config(tokenizer.n_vocab, sizes.n_ctx, sizes.n_embd, sizes.n_head, sizes.n_layer, sizes.dropout)
        return GPT2(shape).initialise(config.train.seed).to(device)
    model = load_model(base, device=str(device), n_ctx=sizes.n_ctx, dropout=sizes.dropout)
    for name in ("n_embd", "n_head", "n_layer"):
        wanted, found = getattr(sizes, name), getattr(model.config, name)
        if wanted is not None and wanted != found:
            raise UserError(f"model.{name} is {wanted}, but the base model {base} has {found}: leave model.{name} out.")
    if tokenizer.n_vocab > model.config.n_vocab:
        raise UserError(
            f"The vocabulary has {tokenizer.n_vocab:,} entries, but the base model {base} knows {model.config.n_vocab:,}: "
            "use tokenizer.source 'base'."
        )
    return model


def _start_or_resume(run: FinetuneRun) -> None:
    folder, trainer = run.folder, run.trainer
    checkpoint, warnings = newest_valid(folder.checkpoints)
    for warning in warnings:
        warn("checkpoint", warning)
    if checkpoint is not None:
        restore(trainer, checkpoint)
    for log in (folder.metrics, folder.timing, folder.evaluations):
        log.cut_back(trainer.step)
    (folder.path / "failure.json").unlink(missing_ok=True)
    started = folder.read("run").get("started", datetime.now().isoformat(timespec="seconds"))
    description = {"id": folder.id, "started": started, "store": run.store.hash, "config": run.config.model_dump()}
    folder.write("run", {**folder.read("run"), **description})
    size = f"{trainer.model.parameter_count():,} parameters on {trainer.model.wte.weight.device}"
    say("run", f"{folder.id} goes on at step {trainer.step}: {size}" if trainer.step else f"{folder.id} is new: {size}")


def weights_hash(base: Path | None) -> str:
    """Hash of the base model's weight files; empty from scratch."""
    return "" if base is None else "-".join(file_hash(path) for path in weight_files(base))


def git_revision() -> str | None:
    """Commit of the working directory, if it is a git checkout."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
