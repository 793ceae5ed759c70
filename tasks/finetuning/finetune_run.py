"""One fine-tune in this process: what its stages share.

Not how it is opened (`open_run`), where it goes on (`resume`) or at which steps it does what (`milestones`).
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.store.document_stream import DocumentStream, split_of_store
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.callback import Callback
from gpt2core.training.trainer import Trainer
from tasks.evaluation.copied_passages import CopySearch
from tasks.evaluation.outside import OutsideEvaluation
from tasks.finetuning.checkpoint_keeper import CheckpointKeeper
from tasks.finetuning.prefect_progress import PrefectProgress, tags_of_flow_run
from tasks.finetuning.run_watch import RunWatch
from tasks.finetuning.system_recorder import SystemRecorder
from tasks.processes.ranks import Ranks
from tasks.runs.identity import git_revision
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import warn
from tasks.tracking.mlflow_mirror import Tracking


class FinetuneRun(Callback):
    """One fine-tune in this process. Not a dataclass: Prefect would walk through its fields at every task."""

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        tokenizer: Tokenizer,
        store: TokenStore,
        trainer: Trainer,
        ranks: Ranks,
    ) -> None:
        self.folder = folder
        self.config = config
        self.tokenizer = tokenizer
        self.store = store
        self.trainer = trainer
        self.ranks = ranks
        self.outside = OutsideEvaluation(folder, config.evaluate.where)
        self.checkpoints = CheckpointKeeper(folder, config, trainer, tokenizer, self.state, self.outside, ranks)
        self.tracking = Tracking(folder, tags_of_flow_run())
        self.watch = RunWatch(folder, config)
        tokens = config.train.accumulate * config.train.batch_size * trainer.model.config.n_ctx
        self.progress = PrefectProgress(folder, config.train.steps, tokens)
        trainer.callbacks += [SystemRecorder(folder), self.watch, self.progress]

    @cached_property
    def held_out(self) -> DocumentStream:
        """The validation split with its documents."""
        return split_of_store(self.store, self.tokenizer)

    @cached_property
    def copies(self) -> CopySearch | None:
        """Finds what samples repeat of the training text; None where that is switched off."""
        return CopySearch(self.store, self.tokenizer) if self.config.evaluate.copied_tokens else None

    def state(self) -> dict[str, object]:
        """What a checkpoint records beside weights and step."""
        record = self.folder.record
        return {
            "run": self.folder.id,
            "store": self.store.hash,
            "mlflow_run_id": record.mlflow_run_id,
            "key": record.key,
            "config": self.config.model_dump(mode="json"),
            "git_revision": git_revision(),
        }

    def on_batch_cut(self, batch_size: int, micro_batches: int) -> None:
        """Keep at once, and say, that memory did not suffice: a run that is killed must go on with the same cuts."""
        with suppress(UserError):  # the disk may be full; the next checkpoint holds it too
            self.folder.write_record(self.folder.record.model_copy(update={"batch_cuts": self.trainer.batch_cuts}))
        cut = f"{micro_batches} x {batch_size} a step"
        warn("memory", f"it did not suffice for a batch: training is going on with the same windows, {cut}")
