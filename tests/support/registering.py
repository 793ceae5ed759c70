"""Versions in the registry for tests that need nothing else of a run."""

from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.weights.loading import save_model
from tasks.tracking import registered_model
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace


def register(name: str, model: GPT2, tokenizer: Tokenizer, folder: Path, alias: str | None = None) -> str:
    """A version of the registered model `name`, which is made if it is not there; returns its number."""
    prepare_databases(Workspace.current().create())
    registry, place = MlflowClient(), folder / f"{name}-{alias}" / "model"
    save_model(model, place, end_of_text=tokenizer.end_of_text)
    tokenizer.save(place)
    found = registry.get_experiment_by_name(f"experiment of {name}")
    experiment = found.experiment_id if found else registry.create_experiment(f"experiment of {name}", folder.as_uri())
    with mlflow.start_run(experiment_id=experiment):
        code = str(Path(registered_model.__file__))
        logged = mlflow.pyfunc.log_model(name="model", python_model=code, artifacts={"model": str(place)}, pip_requirements=[])
    try:
        registry.get_registered_model(name)
    except MlflowException:
        registry.create_registered_model(name)
    version = str(registry.create_model_version(name, logged.model_uri).version)
    if alias:
        registry.set_registered_model_alias(name, alias, version)
    return version
