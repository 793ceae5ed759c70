"""Opening a run for the flow's stages: locked, started or resumed, mirrored to MLflow, and closed whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.checkpoints.checkpoint import find_checkpoints
from gpt2core.machine.devices import keeping_threads
from gpt2core.machine.memory import naming_lack_of_memory
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from tasks.finetuning.build_trainer import build_trainer
from tasks.finetuning.finetune_run import FinetuneRun
from tasks.finetuning.resume import start_or_resume
from tasks.finetuning.step_recorder import StepRecorder
from tasks.processes.ranks import ranks_of
from tasks.runs.run_folder import RunFolder
from tasks.runs.start import Origin
from tasks.terminal.console import say
from tasks.terminal.stop_signals import Interrupted, note_advice


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
    with keeping_threads(), ranks_of(folder, config.train) as ranks:
        with naming_lack_of_memory():
            ranks.build(config, base, tokenizer, store)
            trainer = build_trainer(folder.path / "compiled", config, base, tokenizer, store, ranks.group)
        trainer.callbacks.append(StepRecorder(folder))
        for made in (folder.samples, folder.reports):
            made.mkdir(parents=True, exist_ok=True)
        with folder.locked():
            run = FinetuneRun(folder, config, tokenizer, store, trainer, ranks)
            start_or_resume(run, origin, asked)
            try:
                with run.watch, run.progress, run.tracking, naming_lack_of_memory(), _saving_what_is_under_way(run):
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
        run.outside.stop()
        with suppress(UserError):  # what ended the run is what the user must read
            run.checkpoints.wait()
        raise
    run.checkpoints.finish()


def _advice(folder: RunFolder) -> str:
    saved = find_checkpoints(folder.checkpoints)
    where = f"the checkpoint of step {saved[-1].step} is saved" if saved else "before the first checkpoint"
    return f"{where}; the same command goes on from there"
