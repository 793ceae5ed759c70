"""Finding runs in a workspace by id or by name."""

from __future__ import annotations

from configs.errors import UserError
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace


def all_runs(workspace: Workspace) -> list[RunFolder]:
    """The workspace's runs, the one that was worked on last first."""
    folders = [RunFolder(path.parent) for path in workspace.runs.glob("*/run.json")]
    return sorted((run for run in folders if run.read_record()), key=last_worked_on, reverse=True)


def last_worked_on(run: RunFolder) -> float:
    """When somebody has taken the run's lock last, in seconds since 1970."""
    lock = run.path / "lock"  # a folder that was copied from elsewhere may have none
    return (lock if lock.exists() else run.path).stat().st_mtime


def find_run(workspace: Workspace, name: str) -> RunFolder:
    """The run of that id, or the latest whose id starts so; raises UserError that lists what there is."""
    runs = all_runs(workspace)
    for run in runs:
        if run.id == name:
            return run
    for run in runs:
        if run.id.startswith(name):
            return run
    known = ", ".join(run.id for run in runs[:8]) or "none yet: start one with gpt2flow run configs/demo.yaml"
    raise UserError(f"There is no run, folder or registry URI '{name}'. Runs: {known}.")
