"""Where a run begins: in its folder, if it is there, or with a checkpoint of another run that `train.restore_from` names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.checkpoints.checkpoint import Checkpoint, find_checkpoints, find_damage, identity_of, read_state
from gpt2core.checkpoints.state import CheckpointState
from gpt2core.store.token_store import TokenStore
from tasks.runs.find import all_runs
from tasks.runs.identity import differences, run_id, run_id_of_0_1, weights_hash
from tasks.runs.models import best_checkpoint
from tasks.runs.run_folder import RunFolder
from tasks.runs.run_record import RecordedOrigin
from tasks.terminal.console import say
from tasks.workspace.folders import Workspace

NOT_A_CHECKPOINT = ("latest", "fresh", "models:/")
LENGTH = ("train.steps ", "train.early_stopping.")
"""Settings of where a run ends."""


@dataclass(frozen=True)
class Origin:
    """A checkpoint of an earlier run; its checksum is part of the new run's id, since it decides about the weights."""

    checkpoint: Checkpoint
    checksum: str

    def recorded(self) -> RecordedOrigin:
        """For run.json."""
        return RecordedOrigin(path=str(self.checkpoint.path), step=self.checkpoint.step, checksum=self.checksum)


def find_origin(config: RunConfig, store: TokenStore) -> Origin | None:
    """The checkpoint that `train.restore_from` names; None for latest, fresh and registry URIs.

    Raises UserError where there is none, it is damaged, or config or text do not fit it; then every difference is listed.
    """
    wanted = config.train.restore_from
    if wanted.startswith(NOT_A_CHECKPOINT):
        return None
    if known := _recorded(config, store):
        return known
    checkpoint = _named(config, wanted)
    if damage := find_damage(checkpoint):
        raise UserError(f"train.restore_from: {checkpoint.path} cannot be used: {damage}. Choose another checkpoint.")
    state = read_state(checkpoint)
    if unfit := _unfit(config, store, state):
        raise UserError(
            f"train.restore_from: the config does not fit {checkpoint.path}: {'; '.join(unfit)}. Use the checkpoint's "
            "values, or give the folder as model.base to start with its weights and a new optimizer."
        )
    return Origin(checkpoint, identity_of(checkpoint))


def run_folder_of(config: RunConfig, base: Path | None, store: TokenStore, origin: Origin | None = None) -> RunFolder:
    """Folder of the run that belongs to this config, text, base weights and first state; it may not exist yet.

    Raises UserError where a run of this id was made with other settings, which were the defaults then.
    """
    ingredients = config, store.hash, weights_hash(base), origin.checksum if origin else ""
    folder, earlier = (RunFolder(Workspace.current().runs / made(*ingredients)) for made in (run_id, run_id_of_0_1))
    if not folder.path.is_dir() and earlier.path.is_dir() and not _other_settings(earlier, config):
        folder = earlier
    if config.train.restore_from == "fresh":
        _begin_afresh(folder)
    if other := _other_settings(folder, config):
        raise UserError(
            f"The run {folder.id} was made with other settings, the defaults then: {'; '.join(other)}. Set them as they were "
            "to go on with it, or choose another name."
        )
    return folder


def _other_settings(folder: RunFolder, config: RunConfig) -> list[str]:
    """What a run was made with and the config says otherwise; nothing where that is not known."""
    record = folder.read_record()
    return differences(config, record.settings) if record else []


def _begin_afresh(folder: RunFolder) -> None:
    """Put an existing run of the same id away under another name, so that it begins again; raises UserError if it runs."""
    if not folder.path.is_dir():
        return
    with folder.locked():
        target = folder.path.with_name(f"{folder.id}-until-{datetime.now():%Y%m%d-%H%M%S}")
        folder.path.rename(target)
    say("run", f"the run that was there is kept as {target.name}")


def _recorded(config: RunConfig, store: TokenStore) -> Origin | None:
    """The origin that a run of the same settings and text has begun with: it goes on, whatever checkpoints there are by now."""
    for run in all_runs(Workspace.current()):
        record = run.record
        if (origin := record.origin) and record.store == store.hash and _begins_as(config, record.settings):
            return Origin(Checkpoint(Path(origin.path), origin.step), origin.checksum)
    return None


def _begins_as(config: RunConfig, before: dict[str, Any]) -> bool:
    named = before["name"], before["model"]["base"], before["train"]["restore_from"]
    return named == (config.name, config.model.base, config.train.restore_from) and not differences(config, before)


def _named(config: RunConfig, wanted: str) -> Checkpoint:
    """A step or the best one of the latest run of this name that has it, or a folder."""
    runs = [run for run in all_runs(Workspace.current()) if run.record.name == config.name]
    if wanted == "best" and runs:
        path = best_checkpoint(runs[0])
        return Checkpoint(path, int(path.name.removeprefix("step-")))
    if wanted.isdigit():
        for run in runs:
            for checkpoint in find_checkpoints(run.checkpoints):
                if checkpoint.step == int(wanted):
                    return checkpoint
    if (path := Path(wanted)).is_dir() and path.name.removeprefix("step-").isdigit():
        return Checkpoint(path.absolute(), int(path.name.removeprefix("step-")))
    raise UserError(
        f"train.restore_from '{wanted}' is no checkpoint of a run named '{config.name}' and no step-N folder: "
        "gpt2flow runs and gpt2flow checkpoints RUN list what there is."
    )


def _unfit(config: RunConfig, store: TokenStore, state: CheckpointState) -> list[str]:
    """What decides about the weights and is not as in the checkpoint; where the run ends may change."""
    found = [text for text in differences(config, state.settings) if not text.startswith(LENGTH)]
    return found + (["data or tokenizer give another text"] if state.store != store.hash else [])
