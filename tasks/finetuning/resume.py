"""Where a run goes on: at its start from the newest sound checkpoint, or back there when training has diverged."""

from __future__ import annotations

from collections.abc import Mapping

from configs.errors import UserError
from gpt2core.checkpoints.checkpoint import Checkpoint, newest_valid, read_state, remove_leftovers, restore, set_aside
from gpt2core.checkpoints.frozen_weights import mend_frozen_weights
from gpt2core.checkpoints.state import CheckpointState, LogMark
from gpt2core.machine.durable import remove_folder
from gpt2core.machine.kernel_level import level
from gpt2core.model.gpt2 import GPT2
from gpt2core.training.run_length import length_of
from gpt2core.training.trainer import DivergedError
from tasks.evaluation.checkpoint import steps_in_hand
from tasks.finetuning.finetune_run import FinetuneRun
from tasks.runs.evaluation_files import damaged_evaluation_files
from tasks.runs.run_folder import RunFolder
from tasks.runs.run_record import Change, RunRecord
from tasks.runs.start import Origin
from tasks.terminal.console import say, warn
from tasks.tracking.mlflow_mirror import flatten

REWINDS = 3
KERNELS_CHANGED = (
    "the run computed with kernels of level {before}, and goes on with {now} from step {step}: "
    "its weights are as good, and not those, bit for bit, of a run on one kind of processor"
)

PROCESSES_CHANGED = (
    "the run was trained by {before} processes with train.reduce fast, and goes on with {now} from step {step}: its weights "
    "are as good, and not those, bit for bit, of a run by either number; with train.reduce exact they would be"
)


def start_or_resume(run: FinetuneRun, origin: Origin | None, asked: str) -> None:
    """Fill the trainer from the newest sound checkpoint, or from `origin`, and make folder and logs agree with it."""
    folder, trainer = run.folder, run.trainer
    if folder.is_damaged("run"):
        warn("run", f"{folder.path / 'run.json'} is not what was written: it is made again from the newest checkpoint")
    checkpoint = _newest_sound(folder, trainer.model)
    state = read_state(checkpoint) if checkpoint else None
    if first := checkpoint or (origin.checkpoint if origin else None):
        restore(trainer, first)
    if record := folder.read_record():
        trainer.batch_cuts |= record.batch_cuts
    run.ranks.restore(trainer, first)
    trainer.callbacks.append(run)
    _cut_back(folder, trainer.step, state.logs if state else {})
    (folder.path / "failure.json").unlink(missing_ok=True)
    _describe(run, state, origin, asked)
    _announce(run)


def _newest_sound(folder: RunFolder, model: GPT2) -> Checkpoint | None:
    """What is half-written goes, what is damaged is mended or set aside."""
    remove_leftovers(folder.checkpoints)
    checkpoint, damaged = newest_valid(folder.checkpoints, folder.id)
    if damaged and mend_frozen_weights(folder.checkpoints, model):
        warn("checkpoint", f"frozen weights in {folder.checkpoints} were damaged; they are mended from the base model")
        checkpoint, damaged = newest_valid(folder.checkpoints, folder.id)
    for bad, damage in damaged:
        warn("checkpoint", f"{bad.path} is not used: {damage}; it is kept as {set_aside(bad).name}")
    return checkpoint


def _announce(run: FinetuneRun) -> None:
    """How long the run is, how large, where it stands, and what its checkpoints will take."""
    folder, trainer = run.folder, run.trainer
    train, count = run.config.train, trainer.model.parameter_count()
    length = length_of(train, trainer.model.config.n_ctx, trainer.batches.windows_per_epoch)
    say("length", f"{length}, {train.batch_size} x {train.accumulate} windows a step")
    trained = sum(part.numel() for part in trainer.optimizer.parameters)
    part = "" if trained == count else f", {trained:,} of them trained,"
    size = f"{count:,} parameters{part} on {trainer.model.wte.weight.device}"
    say("run", f"{folder.id} goes on at step {trainer.step}: {size}" if trainer.step else f"{folder.id} is new: {size}")
    run.ranks.announce(train)
    if trainer.compiled:
        say("compile", "the blocks are compiled before the first step, which takes up to a minute unless it was done before")
    run.checkpoints.announce_need(min(run.config.train.checkpoint_every, run.config.evaluate.every))


def _cut_back(folder: RunFolder, step: int, marks: Mapping[str, LogMark] = {}) -> None:
    """Logs and samples as they were when the checkpoint of this step was made; its own evaluation may stay."""
    for name, log in folder.logs().items():
        mark = marks.get(name)
        if mark and log.mark(mark.bytes) != mark:
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
    for damaged in damaged_evaluation_files(folder):
        warn("evaluation", f"{damaged} is not what was written: what is shown of that step may be wrong, the weights are not")


def _describe(run: FinetuneRun, state: CheckpointState | None, origin: Origin | None, asked: str) -> None:
    """run.json: what is known from before stays; a damaged one is restored from the checkpoint's state."""
    config = run.config.model_dump(mode="json")
    new = RunRecord(id=run.folder.id, store=run.store.hash, settings=config)
    if state and state.key:
        new = new.model_copy(update={"key": state.key, "mlflow_run_id": state.mlflow_run_id, "settings": state.settings})
    known = run.folder.read_record() or new
    before, now = flatten(known.settings), flatten(config)
    changes = {name: [before.get(name), now[name]] for name in now if before.get(name) != now[name]}
    kernels = level() if run.trainer.model.wte.weight.device.type == "cpu" else None
    if known.kernels and kernels and known.kernels != kernels:
        changes["kernels"] = [known.kernels, kernels]
        warn("kernels", KERNELS_CHANGED.format(before=known.kernels, now=kernels, step=run.trainer.step))
    if run.config.train.reduce == "fast" and run.trainer.step and "train.processes" in changes:
        by, by_now = changes["train.processes"]
        warn("processes", PROCESSES_CHANGED.format(before=by, now=by_now, step=run.trainer.step))
    change = [Change(step=run.trainer.step, settings=changes)] if changes else []
    update = {
        "settings": config,
        "changes": [*known.changes, *change],
        "origin": origin.recorded() if origin else known.origin,
        "kernels": kernels or known.kernels,
        "asked": asked or known.asked,
    }
    run.folder.write_record(known.model_copy(update=update))


def rewind(run: FinetuneRun, diverged: DivergedError) -> None:
    """Go back to the newest checkpoint and give the diverged update other windows; raises UserError the fourth time."""
    run.checkpoints.wait()
    trainer, (checkpoint, _) = run.trainer, newest_valid(run.folder.checkpoints, run.folder.id)
    times = sum(trainer.replaced.values()) + 1
    if checkpoint is None or times > REWINDS:
        reason = "there is no checkpoint to go back to" if checkpoint is None else f"{REWINDS} rewinds did not help"
        raise UserError(f"{diverged}, and {reason}: lower train.learning_rate or raise train.warmup_steps.") from diverged
    replaced, evaluated = trainer.replaced, run.outside.stop()
    restore(trainer, checkpoint)
    trainer.replaced = {**replaced, diverged.step - 1: replaced.get(diverged.step - 1, 0) + 1}
    run.ranks.restore(trainer, checkpoint)
    _cut_back(run.folder, checkpoint.step)
    run.tracking.begin_again()
    if evaluated is not None:
        run.outside.begin(evaluated)
    warn("divergence", f"{diverged}: back to step {checkpoint.step}, with other windows for that update")
