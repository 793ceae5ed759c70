"""The best checkpoint becomes a registered version, after it has proved in a fresh process that it loads and generates."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import requires
from importlib.metadata import version as package_version
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from packaging.requirements import Requirement
from prefect import task
from prefect.cache_policies import NO_CACHE

import configs
import gpt2core
from configs.errors import UserError
from configs.generation import CompletionSettings
from gpt2core.checkpoints.weights import export_model
from tasks.finetuning.finetune_run import FinetuneRun
from tasks.registry.deletion import remove_logged_model
from tasks.registry.lookup import PINNED, content_hash, find_version, lineage
from tasks.registry.registration import register
from tasks.runs.identity import git_revision
from tasks.runs.models import best_checkpoint, resolve_base
from tasks.terminal.console import begin, say
from tasks.tracking import registered_model
from tasks.tracking.fresh_process import problem_in_fresh_process
from tasks.tracking.model_card import licence_of, model_card
from tasks.tracking.retrying import DELAYS, is_curable

NOT_BY_REQUEST = {"weights", "batch_size", "log_probabilities", "alternatives", "include_prefix"}
NOT_SERVING = {"anyio", "apprise", "cyclopts", "fastapi", "jinja2", "matplotlib", "packaging", "prefect", "python-dotenv"}
NOT_SERVING |= {"rich", "sqlalchemy"}


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(DELAYS),
    retry_delay_seconds=DELAYS,
    retry_condition_fn=is_curable,
)
def register_model(run: FinetuneRun) -> str | None:
    """Register the best checkpoint under the configured name and set the alias; returns the version, None if switched off.

    A version of the same content, by this run or another, is found again and not made twice. Raises UserError if the logged
    model does not work.
    """
    settings = run.config.registry
    if not settings.enabled:
        return None
    best, run_id = best_checkpoint(run.folder), run.tracking.require()
    name = settings.model or run.config.name
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        export_model(best, folder, merge=settings.merge)
        tags, log = _tags(run, best, content_hash(folder)), partial(_logged_model, run, run_id, best, folder)
        version = register(MlflowClient(), name, settings.alias, run_id, tags, log, run.config.promote.wait)
    say("registry", f"{name} version {version} is now '{settings.alias}' ({best.name})")
    return version


def _logged_model(run: FinetuneRun, run_id: str, best: Path, folder: Path) -> str:
    """URI of a logged model that works in a fresh process."""
    begin("registry", f"logging {best.name} as a model and trying it in a fresh process")
    uri = _find_logged_model(MlflowClient(), run_id, best.name) or _log_model(run, run_id, best, folder)
    _try_in_fresh_process(uri, run.config.evaluate.prompts[0] if run.config.evaluate.prompts else "")
    return uri


def _find_logged_model(client: MlflowClient, run_id: str, checkpoint: str) -> str | None:
    """The model that an attempt logged which ended before it was registered; half-logged ones are removed."""
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}' and tags.checkpoint = '{checkpoint}'")
    for model in found:
        if model.status == LoggedModelStatus.READY:
            return str(model.model_uri)
        remove_logged_model(client, model.model_id)
    return None


def _log_model(run: FinetuneRun, run_id: str, best: Path, folder: Path) -> str:
    """Log a folder of model files with card and the code that serves them; returns the logged model's URI.

    No input example is given: MLflow would try it here, with a second model beside the one that has been trained.
    """
    (folder / "README.md").write_text(_card(run, best), encoding="utf-8")
    with _active(run_id):
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(registered_model.__file__)),
            artifacts={"model": str(folder)},
            code_paths=[str(Path(package.__path__[0])) for package in (gpt2core, configs)],
            signature=_signature(),
            pip_requirements=_serving_requirements(),
            tags={"checkpoint": best.name},
            metadata={
                "store": run.store.hash,
                "mask_documents": run.config.data.mask_documents,
                "git_revision": git_revision() or "",
                "run": run.folder.id,
                "config": run.config.model_dump(mode="json"),
            },
        )
    return str(info.model_uri)


@contextmanager
def _active(run_id: str) -> Iterator[None]:
    """Make the run MLflow's active one; MLflow calls it finished afterwards, which it is not yet."""
    with mlflow.start_run(run_id=run_id):
        yield
    MlflowClient().update_run(run_id, status="RUNNING")


def _serving_requirements() -> list[str]:
    """Installed versions of what serving needs: gpt2flow's own requirements without those of pipelines and terminals."""
    needed = [Requirement(line) for line in requires("gpt2flow") or []]
    names = [requirement.name for requirement in needed if requirement.marker is None and requirement.name not in NOT_SERVING]
    return [f"{name}=={package_version(name).split('+')[0]}" for name in names]


def _signature() -> ModelSignature:
    kinds = {int: DataType.long, float: DataType.double, bool: DataType.boolean, str: DataType.string, list: DataType.string}
    defaults = CompletionSettings().model_dump(exclude=NOT_BY_REQUEST)
    shapes = {key: (-1,) if isinstance(value, list) else None for key, value in defaults.items()}
    params = [ParamSpec(key, kinds[type(value)], value, shapes[key]) for key, value in defaults.items()]
    text = DataType.string
    return ModelSignature(Schema([ColSpec(text, "prompt")]), Schema([ColSpec(text, "completion")]), ParamSchema(params))


def _try_in_fresh_process(uri: str, prompt: str) -> None:
    if problem := problem_in_fresh_process(uri, prompt):
        raise UserError(f"The logged model {uri} does not work in a fresh process ({problem}): it was not registered.")


def _tags(run: FinetuneRun, best: Path, content: str) -> dict[str, str]:
    """What is asked about a version without reading its files."""
    return {
        "checkpoint": best.name,
        "run": run.folder.id,
        "store": run.store.hash,
        "content": content,
        "base": run.config.model.base,
    }


def _card(run: FinetuneRun, best: Path) -> str:
    base, client, ancestors = run.config.model.base, MlflowClient(), []
    if match := PINNED.fullmatch(base):
        ancestors = [version.uri for version in lineage(client, find_version(client, match[1], match[2]))]
    licence = f"as on the card of {base}" if match else licence_of(resolve_base(run.config.model))
    step = int(best.name.removeprefix("step-"))
    return model_card(run.folder, run.config, run.store.manifest, step, licence, ancestors)
