"""`gpt2flow gc`: everything that nothing needs any more, shown with its size, then removed so that a kill loses nothing.

While it is looked for and taken out of use, no flow run begins and no text is encoded; files go afterwards. References go
before the files that they name: what a kill leaves is found the next time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.addresses import shown
from configs.errors import UserError
from configs.retention import RetentionSettings
from configs.schema import RunConfig
from gpt2core.machine.lock import is_held, locked
from gpt2core.machine.quantities import bytes_text
from tasks.maintenance.backup import MAINTENANCE
from tasks.maintenance.leftover import Leftover, empty_trash, freed_by
from tasks.maintenance.old_records import forgotten_runs, record_leftover
from tasks.maintenance.registry_in_use import all_versions, bases_of, look_at_registry
from tasks.maintenance.registry_leftovers import artifact_leftovers, going_versions, version_leftovers
from tasks.maintenance.run_leftovers import run_leftovers
from tasks.maintenance.runs_in_use import KnownRun, look_at_runs
from tasks.maintenance.store_leftovers import store_leftovers
from tasks.registry.lookup import server
from tasks.runs.flow_run_locks import all_locks, none_may_begin
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import say, warn
from tasks.workspace.folders import Workspace


@dataclass(frozen=True)
class Leftovers:
    """What may go, and what could go if a person says so."""

    rows: list[Leftover]
    unfinished: list[KnownRun]

    @property
    def bytes(self) -> int:
        """In all."""
        return sum(row.bytes for row in self.rows)

    @property
    def held_by_unfinished(self) -> int:
        """Bytes of checkpoints that runs which may still be resumed keep."""
        return freed_by(run.folder.checkpoints for run in self.unfinished)


def find_leftovers(settings: RetentionSettings, name: str | None = None, model: str | None = None) -> Leftovers:
    """What nothing needs: of all runs and models, or of the runs of one name and one registered model. Changes nothing.

    Raises UserError where MLflow does not answer.
    """
    workspace, client = Workspace.current(), MlflowClient()
    with _naming_what_does_not_answer("Nothing was removed"):
        versions = all_versions(client)
        runs = look_at_runs(workspace, settings)
        registry = look_at_registry(client, versions, runs, settings.keep_versions)
        going = going_versions(registry, settings, model)
        staying = [version for version in versions if version not in going]
        runs = look_at_runs(workspace, settings, bases_of(staying))
        lineages = [registry.stores_of(version) for version in staying]
        needed = runs.stores | {lineage[0] for lineage in lineages if lineage}
        forgotten = forgotten_runs(runs, staying, settings, name)
        named = {version.logged_model or "" for version in versions}
        rows = [
            *version_leftovers(client, registry, going, settings.keep_versions),
            *run_leftovers(workspace, [run for run in runs.runs if run not in forgotten], runs.reasons, settings, name),
            *(record_leftover(workspace, client, run) for run in forgotten),
            *store_leftovers(workspace, needed, lineages, settings),
            *artifact_leftovers(workspace, client, named, runs, settings, name),
        ]
    return Leftovers(rows, runs.unfinished)


def collect(
    settings: RetentionSettings,
    name: str | None = None,
    model: str | None = None,
    show: Callable[[Leftovers], None] | None = None,
) -> Leftovers:
    """Remove what `find_leftovers` finds; what a kill has left of an earlier time goes too.

    With `show` only what it was told of before, which still may go: nobody waits while a person reads.
    Raises UserError where somebody has begun and not yet said what they need, or a backup is under way.
    """
    workspace = Workspace.current()
    with _alone(workspace):
        empty_trash(workspace)
        shown = find_leftovers(settings, name, model) if show else None
        if show and shown:
            show(shown)
        with excluding_others(workspace):
            found = find_leftovers(settings, name, model)
            if shown:
                known = {(row.kind, row.name) for row in shown.rows}
                found = replace(found, rows=[row for row in found.rows if (row.kind, row.name) in known])
            with _naming_what_does_not_answer("Not everything was removed, and the next gc goes on"):
                for row in found.rows:
                    row.detach()
        empty_trash(workspace)
        with _naming_what_does_not_answer("Not all files were removed, and the next gc goes on"):
            for row in found.rows:
                row.delete()
    return found


@task(cache_policy=NO_CACHE, persist_result=False)
def collect_after_night(config: RunConfig) -> None:
    """As the config's section gc says; a night that has ended well does not fail by what cannot be removed."""
    try:
        found = collect(config.gc, config.name, config.registry.model or config.name)
    except UserError as error:
        warn("gc", str(error))
    else:
        say("gc", f"{len(found.rows)} things that nothing needs are gone, {bytes_text(found.bytes)}")


@contextmanager
def _naming_what_does_not_answer(so_far: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, OSError) as error:
        reason = shown((str(error).splitlines() or [type(error).__name__])[0])[:200]
        raise UserError(f"{so_far}: MLflow at {server()} or a file did not answer ({reason}).") from error


@contextmanager
def _alone(workspace: Workspace) -> Iterator[None]:
    """One backup, restore or gc at a time."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(workspace.root / MAINTENANCE, wait=False))
        except BlockingIOError:
            raise UserError(f"A backup, restore or gc of {workspace.root} is under way: try again when it is done.") from None
        yield


@contextmanager
def excluding_others(workspace: Workspace) -> Iterator[None]:
    """Inside, no flow run begins, nothing is encoded, and all that is under way is known by a run's folder."""
    with none_may_begin(workspace), ExitStack() as stack:
        try:
            stack.enter_context(locked(workspace.stores, wait=False))
        except BlockingIOError:
            raise UserError("Text is being encoded: try again when that is done.") from None
        _require_known(workspace)
        yield


def _require_known(workspace: Workspace) -> None:
    """Raises UserError where a process may need what nothing on disk says yet."""
    held = [RunFolder(lock.parent) for lock in workspace.runs.glob("*/lock") if is_held(lock)]
    training = {run.holder() for run in held if run.read_record()}
    for run in held:
        if run.read_record() is None:
            raise UserError(f"Run {run.id} has just begun: try again in a minute.")
    for lock in all_locks(workspace):
        process = lock.read().process
        if lock.is_held and process != os.getpid() and process not in training:
            raise UserError(
                f"Flow run {lock.flow_run} (process {process}) is under way and trains nothing, so nobody can say what it "
                "needs: try again when it trains or has ended."
            )
