"""The live run that the flow's stages share: folder, model, trainer, tracking; new, resumed or finished."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.checkpoints.checkpoint import find_checkpoints, newest_valid, read_state, remove_leftovers, restore, set_aside
from gpt2core.checkpoints.frozen_weights import mend_frozen_weights
from gpt2core.machine.devices import choose_device
from gpt2core.machine.durable import file_hash, remove_folder
from gpt2core.machine.memory import naming_lack_of_memory
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.document_stream import DocumentStream, split_of_store
from gpt2core.store.token_store import TokenStore, require_block
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.callback import Callback
from gpt2core.training.compilation import keep_compiled_code
from gpt2core.training.nshepperd_batches import CompatBatches, chunks_of
from gpt2core.training.ranking import FIGURE_NAMES, cost, evaluations_without_improvement
from gpt2core.training.run_length import length_of
from gpt2core.training.trainer import DivergedError, Trainer
from gpt2core.weights.loading import load_model
from gpt2core.weights.model_folder import weight_files
from tasks.evaluation.by_worker import WorkerEvaluation, hand_to_worker
from tasks.evaluation.checkpoint import Row, steps_in_hand
from tasks.evaluation.copied_passages import CopySearch
from tasks.evaluation.in_process import ProcessEvaluation
from tasks.finetuning.checkpoint_keeper import CheckpointKeeper
from tasks.finetuning.step_recorder import StepRecorder
from tasks.runs.evaluation_files import damaged_files
from tasks.runs.run_folder import RunFolder, run_id
from tasks.runs.start import Origin, begin_afresh
from tasks.terminal.console import say, warn
from tasks.terminal.stop_signals import Interrupted, note_advice
from tasks.tracking.mlflow_mirror import Tracking, flatten
from tasks.workspace.folders import Workspace

REWINDS = 3


class FinetuneRun(Callback):
    """One fine-tune in this process. Not a dataclass: Prefect would walk through its fields at every task."""

    def __init__(self, folder: RunFolder, config: RunConfig, tokenizer: Tokenizer, store: TokenStore, trainer: Trainer) -> None:
        self.folder = folder
        self.config = config
        self.tokenizer = tokenizer
        self.store = store
        self.trainer = trainer
        self.checkpoints = CheckpointKeeper(folder, config, trainer, tokenizer, self.state)
        self.tracking = Tracking(folder)
        self._outside: ProcessEvaluation | WorkerEvaluation | None = None

    @cached_property
    def held_out(self) -> DocumentStream:
        """The validation split with its documents."""
        return split_of_store(self.store, self.tokenizer)

    @cached_property
    def copies(self) -> CopySearch | None:
        """Finds what samples repeat of the training text; None where that is switched off."""
        return CopySearch(self.store, self.tokenizer) if self.config.evaluate.copied_tokens else None

    def milestones(self) -> Iterator[int]:
        """Steps at which something happens (evaluation, checkpoint), from where the run stands to its end."""
        last, intervals = self.config.train.steps, (self.config.train.checkpoint_every, self.config.evaluate.every)
        for step in range(self.trainer.step, last + 1):
            if step == last or any(step % interval == 0 for interval in intervals):
                yield step

    def evaluates_at(self, step: int) -> bool:
        """Whether this milestone is sampled and evaluated, and has not been yet."""
        due = step % self.config.evaluate.every == 0 or step == self.config.train.steps
        return due and step not in {row["step"] for row in self.folder.evaluations.rows()}

    def missed_evaluations(self) -> list[int]:
        """Steps before this one whose checkpoint is there and whose figures are not."""
        return [
            checkpoint.step
            for checkpoint in find_checkpoints(self.folder.checkpoints)
            if checkpoint.step < self.trainer.step and self.evaluates_at(checkpoint.step)
        ]

    def evaluate_outside(self, step: int) -> None:
        """Begin to evaluate the step's checkpoint in another process or by a worker; at most one at a time."""
        assert self._outside is None
        self.checkpoints.reading = True
        begin = hand_to_worker if self.config.evaluate.where == "worker" else ProcessEvaluation
        self._outside = begin(self.folder, step)

    def outside_row(self) -> Row | None:
        """The figures from outside, which are waited for; None where none were asked for."""
        if self._outside is None:
            return None
        row, self._outside = self._outside.join(), None
        self.checkpoints.reading = False
        return row

    def stop_outside(self) -> int | None:
        """Give up what is evaluated outside, if anything is; returns its step."""
        if self._outside is None:
            return None
        self._outside.stop()
        step, self._outside = self._outside.step, None
        return step

    def stops_early(self) -> bool:
        """Whether evaluate.best_by has not improved for as many evaluations as `train.early_stopping` waits; says so."""
        stopping, rows, best_by = self.config.train.early_stopping, self.folder.evaluations.rows(), self.config.evaluate.best_by
        waited = evaluations_without_improvement((cost(row, best_by) for row in rows), stopping.min_delta)
        if not stopping.patience or waited < stopping.patience or self.trainer.step >= self.config.train.steps:
            return False
        best = min(rows, key=lambda row: (cost(row, best_by), -row["step"]))  # of equals the last, as it will be registered
        say(
            "early stop",
            f"{waited} evaluations without improvement: best {FIGURE_NAMES[best_by]} {best[best_by]:.3f} "
            f"at step {best['step']:,}, stopped at step {self.trainer.step:,} of {self.config.train.steps:,}",
        )
        return True

    def rewind(self, diverged: DivergedError) -> None:
        """Go back to the newest checkpoint and give the diverged update other windows; raises UserError the fourth time."""
        self.checkpoints.wait()
        checkpoint, _ = newest_valid(self.folder.checkpoints, self.folder.id)
        times = sum(self.trainer.replaced.values()) + 1
        if checkpoint is None or times > REWINDS:
            reason = "there is no checkpoint to go back to" if checkpoint is None else f"{REWINDS} rewinds did not help"
            raise UserError(f"{diverged}, and {reason}: lower train.learning_rate or raise train.warmup_steps.") from diverged
        replaced, evaluated = self.trainer.replaced, self.stop_outside()
        restore(self.trainer, checkpoint)
        self.trainer.replaced = {**replaced, diverged.step - 1: replaced.get(diverged.step - 1, 0) + 1}
        _cut_back(self.folder, checkpoint.step, {})
        self.tracking.begin_again()
        if evaluated is not None:
            self.evaluate_outside(evaluated)
        warn("divergence", f"{diverged}: back to step {checkpoint.step}, with other windows for that update")

    def state(self) -> dict[str, object]:
        """What a checkpoint records beside weights and step."""
        return {
            "run": self.folder.id,
            "store": self.store.hash,
            "mlflow_run_id": self.folder.read("run").get("mlflow_run_id"),
            "key": self.folder.read("run").get("key"),
            "config": self.config.model_dump(),
            "git_revision": git_revision(),
        }

    def on_batch_cut(self, batch_size: int, micro_batches: int) -> None:
        """Keep at once, and say, that memory did not suffice: a run that is killed must go on with the same cuts."""
        with suppress(UserError):  # the disk may be full; the next checkpoint holds it too
            self.folder.write("run", {**self.folder.read("run"), "splits": self.trainer.batch_cuts})
        cut = f"{micro_batches} x {batch_size} a step"
        warn("memory", f"it did not suffice for a batch: training is going on with the same windows, {cut}")


def run_folder_of(config: RunConfig, base: Path | None, store: TokenStore, origin: Origin | None = None) -> RunFolder:
    """Folder of the run that belongs to this config, text, base weights and first state; it may not exist yet."""
    checksum = origin.checksum if origin else ""
    folder = RunFolder(Workspace.current().runs / run_id(config, store.hash, weights_hash(base), checksum))
    if config.train.restore_from == "fresh":
        begin_afresh(folder)
    return folder


@contextmanager
def open_run(
    folder: RunFolder,
    config: RunConfig,
    base: Path | None,
    tokenizer: Tokenizer,
    store: TokenStore,
    origin: Origin | None = None,
    asked: str = "",
) -> Iterator[FinetuneRun]:
    """Start the run or resume it from its newest checkpoint; inside, it is locked and mirrored to MLflow.

    Raises UserError where text or base model do not fit the config, or another process works on the run.
    """
    with naming_lack_of_memory():
        trainer = _build_trainer(folder, config, base, tokenizer, store)
    for made in (folder.samples, folder.reports):
        made.mkdir(parents=True, exist_ok=True)
    with folder.locked():
        run = FinetuneRun(folder, config, tokenizer, store, trainer)
        _start_or_resume(run, origin, asked)
        try:
            with run.tracking, naming_lack_of_memory(), _saving_what_is_under_way(run):
                yield run
        except Interrupted:
            say("stopped", _advice(folder), mark="[yellow]■[/]")
            note_advice()
            raise
        except Exception as error:
            with suppress(UserError):  # the disk may be full
                folder.write("failure", {"error": str(error), "step": trainer.step})
            raise


@contextmanager
def _saving_what_is_under_way(run: FinetuneRun) -> Iterator[None]:
    try:
        yield
    except BaseException:
        run.stop_outside()
        with suppress(UserError):  # what ended the run is what the user must read
            run.checkpoints.wait()
        raise
    run.checkpoints.finish()


def _advice(folder: RunFolder) -> str:
    saved = find_checkpoints(folder.checkpoints)
    where = f"the checkpoint of step {saved[-1].step} is saved" if saved else "before the first checkpoint"
    return f"{where}; the same command goes on from there"


def _build_trainer(folder: RunFolder, config: RunConfig, base: Path | None, tokenizer: Tokenizer, store: TokenStore) -> Trainer:
    keep_compiled_code(folder.path / "compiled")
    model = _build_model(config, base, tokenizer)
    model.separator = tokenizer.end_of_text if config.data.mask_documents else None
    require_block(store, model.config.n_ctx)
    train, n_ctx = config.train, model.config.n_ctx
    if train.compat:
        batches: Batches = CompatBatches(chunks_of(store, tokenizer), n_ctx, train.batch_size, train.seed)
    else:
        batches = Batches(store.stream("train"), n_ctx, train.batch_size, train.seed, train.order)
    return Trainer(model, batches, config.train, [StepRecorder(folder)])


def _build_model(config: RunConfig, base: Path | None, tokenizer: Tokenizer) -> GPT2:
    sizes, device = config.model, choose_device(config.train.device)
    if base is None:
        assert sizes.n_ctx and sizes.n_embd and sizes.n_head and sizes.n_layer  # RunConfig has checked it
        shape = GPT2Config(tokenizer.n_vocab, sizes.n_ctx, sizes.n_embd, sizes.n_head, sizes.n_layer, sizes.dropout)
        return GPT2(shape).initialise(config.train.seed).to(device)
    model = load_model(base, device=str(device), n_ctx=sizes.n_ctx, dropout=sizes.dropout)
    if tokenizer.n_vocab > model.config.n_vocab:
        raise UserError(
            f"The vocabulary has {tokenizer.n_vocab:,} entries, but the base model {base} knows {model.config.n_vocab:,}: "
            "use tokenizer.source 'base'."
        )
    return model


def _start_or_resume(run: FinetuneRun, origin: Origin | None, asked: str) -> None:
    folder, trainer = run.folder, run.trainer
    if folder.is_damaged("run"):
        warn("run", f"{folder.path / 'run.json'} is not what was written: it is made again from the newest checkpoint")
    remove_leftovers(folder.checkpoints)
    checkpoint, damaged = newest_valid(folder.checkpoints, folder.id)
    if damaged and mend_frozen_weights(folder.checkpoints, trainer.model):
        warn("checkpoint", f"frozen weights in {folder.checkpoints} were damaged; they are mended from the base model")
        checkpoint, damaged = newest_valid(folder.checkpoints, folder.id)
    for bad, damage in damaged:
        warn("checkpoint", f"{bad.path} is not used: {damage}; it is kept as {set_aside(bad).name}")
    state = read_state(checkpoint) if checkpoint else {}
    if first := checkpoint or (origin.checkpoint if origin else None):
        restore(trainer, first)
    trainer.batch_cuts |= {int(update): pieces for update, pieces in folder.read("run").get("splits", {}).items()}
    trainer.callbacks.append(run)
    _cut_back(folder, trainer.step, state)
    (folder.path / "failure.json").unlink(missing_ok=True)
    _describe(run, state, origin, asked)
    train, count = run.config.train, trainer.model.parameter_count()
    length = length_of(train, trainer.model.config.n_ctx, trainer.batches.windows_per_epoch)
    say("length", f"{length}, {train.batch_size} x {train.accumulate} windows a step")
    trained = sum(part.numel() for part in trainer.optimizer.parameters)
    part = "" if trained == count else f", {trained:,} of them trained,"
    size = f"{count:,} parameters{part} on {trainer.model.wte.weight.device}"
    say("run", f"{folder.id} goes on at step {trainer.step}: {size}" if trainer.step else f"{folder.id} is new: {size}")
    if trainer.compiled:
        say("compile", "the blocks are compiled before the first step, which takes up to a minute unless it was done before")
    run.checkpoints.announce_need(min(run.config.train.checkpoint_every, run.config.evaluate.every))


def _cut_back(folder: RunFolder, step: int, state: dict[str, Any]) -> None:
    """Logs and samples as they were when the checkpoint of this step was made; its own evaluation may stay."""
    for name, log in folder.logs().items():
        mark = state.get("logs", {}).get(name)
        if mark and log.mark(mark["bytes"]).as_dict() != mark:
            warn("run", f"{log.path} is not what was written up to step {step}: its curves are incomplete, the weights are not")
    for log in (folder.metrics, folder.timing, folder.evaluations):
        log.cut_back(step)
    steps = [int(row["step"]) for row in folder.evaluations.rows()]
    in_hand = {f"step-{number:08d}" for number in steps_in_hand(folder) if number <= step}  # a worker may still be writing
    evaluated = {file for step in steps for file in (*folder.sample_files(step), *folder.report_files(step))}
    for file in (*folder.samples.iterdir(), *folder.reports.iterdir()):
        if file not in evaluated and file.name.split(".")[0] not in in_hand:
            file.unlink(missing_ok=True)
    pictured = {folder.lens_folder(step).name for step in steps} | in_hand
    for made in folder.lens.glob("step-*"):
        if made.name not in pictured:
            remove_folder(made)
    for damaged in damaged_files(folder):
        warn("evaluation", f"{damaged} is not what was written: what is shown of that step may be wrong, the weights are not")


def _describe(run: FinetuneRun, state: dict[str, Any], origin: Origin | None, asked: str) -> None:
    """run.json: what is known from before stays; a damaged one is restored from the checkpoint's state."""
    known = run.folder.read("run") or {name: state[name] for name in ("mlflow_run_id", "key", "config") if state.get(name)}
    config = run.config.model_dump()
    before, now = flatten(known.get("config", config)), flatten(config)
    changes = {name: [before.get(name), now[name]] for name in now if before.get(name) != now[name]}
    first = {"key": uuid4().hex, "started": datetime.now().isoformat(timespec="seconds"), "changes": []}
    written = {**first, **known, "id": run.folder.id, "store": run.store.hash, "config": config}
    if origin is not None:
        written["origin"] = origin.as_dict()
    if asked:
        written["asked"] = asked
    if changes:
        written["changes"] = [*written["changes"], {"step": run.trainer.step, "settings": changes}]
    run.folder.write("run", written)


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
