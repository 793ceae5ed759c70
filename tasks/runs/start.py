"""Where a run takes its first state from, when `train.restore_from` names a checkpoint of another run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.checkpoints.checkpoint import Checkpoint, find_checkpoints, find_damage, read_state
from gpt2core.store.token_store import TokenStore
from tasks.runs.find import all_runs
from tasks.runs.models import best_checkpoint
from tasks.runs.run_folder import HARMLESS, RunFolder
from tasks.terminal.console import say
from tasks.workspace.folders import Workspace

NOT_A_CHECKPOINT = ("latest", "fresh", "models:/")


@dataclass(frozen=True)
class Origin:
    """A checkpoint of an earlier run; its checksum is part of the new run's id, since it decides about the weights."""

    checkpoint: Checkpoint
    checksum: str

    def as_dict(self) -> dict[str, str | int]:
        """For run.json."""
        return {"path": str(self.checkpoint.path), "step": self.checkpoint.step, "checksum": self.checksum}


def find_origin(config: RunConfig, store: TokenStore) -> Origin | None:
    """The checkpoint that `train.restore_from` names; None for latest, fresh and registry URIs.

    Raises UserError where there is none, it is damaged, or config or text do not fit it; then every difference is listed.
    """
    wanted = config.train.restore_from
    if wanted.startswith(NOT_A_CHECKPOINT):
        return None
    if known := _recorded(config):
        return known
    checkpoint = _named(config, wanted)
    if damage := find_damage(checkpoint):
        raise UserError(f"train.restore_from: {checkpoint.path} cannot be used: {damage}. Choose another checkpoint.")
    state = read_state(checkpoint)
    if differences := _differences(config, store, state):
        raise UserError(
            f"train.restore_from: the config does not fit {checkpoint.path}: {'; '.join(differences)}. Use the checkpoint's "
            "values, or give the folder as model.base to start with its weights and a new optimizer."
        )
    manifest = json.loads((checkpoint.path / "manifest.json").read_text(encoding="utf-8"))
    return Origin(checkpoint, manifest["checksum"])


def begin_afresh(folder: RunFolder) -> None:
    """Put an existing run of the same id away under another name, so that it begins again; raises UserError if it runs."""
    if not folder.path.is_dir():
        return
    with folder.locked():
        target = folder.path.with_name(f"{folder.id}-until-{datetime.now():%Y%m%d-%H%M%S}")
        folder.path.rename(target)
    say("run", f"the run that was there is kept as {target.name}")


def _recorded(config: RunConfig) -> Origin | None:
    """The origin that a run of this very config has begun with: it goes on, whatever checkpoints there are by now."""
    for run in all_runs(Workspace.current()):
        known = run.read("run")
        if known.get("origin") and known["config"] == config.model_dump():
            origin = known["origin"]
            return Origin(Checkpoint(Path(origin["path"]), origin["step"]), origin["checksum"])
    return None


def _named(config: RunConfig, wanted: str) -> Checkpoint:
    """A step or the best one of the latest run of this name that has it, or a folder."""
    runs = [run for run in all_runs(Workspace.current()) if run.read("run")["config"]["name"] == config.name]
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


def _differences(config: RunConfig, store: TokenStore, state: dict[str, object]) -> list[str]:
    """What decides about the weights and is not as it was; total steps may change, and so may what only looks on."""
    before, now = state["config"], config.model_dump()
    assert isinstance(before, dict)
    free = {"train": HARMLESS | {"steps", "early_stopping", "restore_from"}, "model": {"base"}}
    found = [
        f"{section}.{key} is {now[section][key]}, was {before[section][key]}"
        for section, left_out in free.items()
        for key in now[section].keys() & before[section].keys() - left_out
        if now[section][key] != before[section][key]
    ]
    if state["store"] != store.hash:
        found.append("data or tokenizer give another text")
    return sorted(found)
