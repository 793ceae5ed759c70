"""From what a user calls a model (a run, a folder, a registry or hub reference) to a folder that gpt2core loads."""

from __future__ import annotations

import math
from pathlib import Path

from configs.addresses import shown
from configs.errors import UserError
from configs.evaluation import EvaluateSettings
from configs.schema import ModelSettings
from gpt2core.checkpoints.checkpoint import find_checkpoints, find_damage
from gpt2core.training.ranking import costs_by_step
from gpt2core.weights import hub
from gpt2core.weights.model_folder import is_model_path, read_config
from tasks.runs.find import all_runs, find_run
from tasks.runs.run_folder import RunFolder
from tasks.workspace.folders import Workspace
from tasks.workspace.relocation import follow_move


def resolve_model(reference: str | None) -> Path:
    """Where the model called `reference` lies: models:/NAME@ALIAS or models:/NAME/VERSION, hub:OWNER/NAME, a path, a run.

    None is the latest run. Of a run the best checkpoint is taken. Raises UserError that says what there is.
    """
    if reference is None:
        return best_checkpoint(latest_run())
    if reference.startswith("models:/"):
        return _from_registry(reference)
    if reference.startswith("hub:") or is_model_path(Path(reference).expanduser()):
        return hub.find_base_model(reference)
    return best_checkpoint(find_run(Workspace.current(), reference))


def latest_run() -> RunFolder:
    """The run that was worked on last; raises UserError where there is none."""
    runs = all_runs(Workspace.current())
    if not runs:
        raise UserError("There is no run yet: start one with gpt2flow run configs/demo.yaml, or give --model.")
    return runs[0]


def resolve_base(settings: ModelSettings) -> Path | None:
    """Folder of the base model to fine-tune; None from scratch. Raises UserError where it is not of the sizes that are set."""
    if settings.base == "scratch":
        return None
    base = resolve_model(settings.base)
    sizes = read_config(base)
    for name in ("n_embd", "n_head", "n_layer"):
        wanted, found = getattr(settings, name), getattr(sizes, name)
        if wanted is not None and wanted != found:
            raise UserError(f"model.{name} is {wanted}, but the base model {base} has {found}: leave model.{name} out.")
    if settings.n_ctx and settings.n_ctx > sizes.n_ctx:
        raise UserError(f"model.n_ctx is {settings.n_ctx}, but the base model {base} has {sizes.n_ctx}: give at most that.")
    return base


def best_checkpoint(run: RunFolder) -> Path:
    """The run's best checkpoint by its setting evaluate.best_by, or its newest one before any evaluation.

    Damaged ones do not count. Raises UserError where there is none.
    """
    record = run.read_record()
    settings = record.config.evaluate if record else EvaluateSettings()
    costs = costs_by_step(run.evaluations.rows(), settings.best_by)
    ranked = sorted(find_checkpoints(run.checkpoints), key=lambda c: (costs.get(c.step, math.inf), -c.step))
    for checkpoint in ranked:
        if not find_damage(checkpoint):
            return checkpoint.path
    if version := (result := run.read("result")).get("version"):
        raise UserError(
            f"Run {run.id} has no checkpoint any more: use what it registered, models:/{result['model']}/{version}."
        )
    raise UserError(f"Run {run.id} has no checkpoint yet: wait for its first one, or choose another run.")


def _from_registry(uri: str) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    from tasks.runs.fetched_models import registered_model_folder

    follow_move(Workspace.current())
    try:
        folder = registered_model_folder(Workspace.current(), uri)
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0].removeprefix("RESOURCE_DOES_NOT_EXIST: ")
        place = shown(mlflow.get_tracking_uri())
        raise UserError(f"{uri} is not in the registry at {place} ({reason}): see gpt2flow runs.") from None
    model = folder / "artifacts" / "model"
    if not model.is_dir():
        raise UserError(f"{uri} was not registered by gpt2flow: give the folder of its weights instead.")
    return model
