"""A workspace with a registry, made by hand in a second: real token stores, models and databases, and nothing trained."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from mlflow import MlflowClient
from tiny import SMALLEST

from configs.schema import DataSettings, RunConfig
from gpt2core.checkpoints.checkpoint import write_checkpoint_manifest
from gpt2core.machine.durable import file_hash
from gpt2core.machine.sealed_json import write_sealed
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.encoding import encode_store
from gpt2core.text.documents import find_files
from gpt2core.text.tokenizer import Tokenizer, train_tokenizer
from gpt2core.weights.loading import save_model
from tasks.registry.lookup import content_hash
from tasks.runs.run_folder import RunFolder
from tasks.runs.run_record import RecordedOrigin, RunRecord
from tasks.tracking.mlflow_mirror import KEY, create_experiment
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace


@contextmanager
def being_in(workspace: Workspace) -> Iterator[Workspace]:
    """Inside, this workspace with its own MLflow database is the current one."""
    wanted = {
        "GPT2FLOW_HOME": str(workspace.root),
        "MLFLOW_TRACKING_URI": workspace.mlflow_database,
        "PREFECT_API_URL": "http://127.0.0.1:9/api",  # so that MLflow's database alone is made
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        prepare_databases(workspace)
        yield workspace
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class MadeWorkspace:
    """Makes what a test needs in the current workspace."""

    def __init__(self, texts: Path) -> None:
        self.workspace = Workspace.current().create()
        self.client = MlflowClient()
        self._texts = texts
        self._tokenizer = vocabulary()

    def store(self, documents: Sequence[str]) -> str:
        """A token store of these documents, a quarter of them held out."""
        folder = self._texts / hashlib.sha256("\n".join(documents).encode()).hexdigest()[:8]
        folder.mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(documents):
            (folder / f"{number}.txt").write_text(text)
        data = DataSettings(source=[str(folder)], validation=0.25)
        return encode_store(find_files(data), data, self._tokenizer, self.workspace.stores).name

    def run(
        self,
        name: str,
        store: str,
        base: str = "scratch",
        *,
        state: str = "finished",
        registered: str | None = None,
        pinned: bool = False,
        origin: Path | None = None,
        steps: Sequence[int] = (4, 8),
    ) -> RunFolder:
        """A run's folder and its run in MLflow."""
        number = len(list(self.workspace.runs.iterdir()))
        folder = RunFolder(self.workspace.runs / f"{name}-{number:08d}")
        sizes = {} if base != "scratch" else SMALLEST
        config = RunConfig.model_validate({"name": name, "model": {"base": base, **sizes}})
        record = RunRecord.model_validate({"id": folder.id, "store": store, "config": config.model_dump(mode="json")})
        ended = {"finished": "FINISHED"}.get(state, "KILLED")
        run_id = self._mlflow_run(name, record.key, folder.id, base, ended)
        update = {"mlflow_run_id": run_id, "origin": origin and RecordedOrigin(path=str(origin), step=4, checksum="")}
        folder.path.mkdir()
        folder.write_record(record.model_copy(update=update))
        (folder.path / "lock").touch()
        os.utime(folder.path / "lock", (number, number))
        for step in steps:
            self._checkpoint(folder, step, store)
        if pinned:
            folder.checkpoint_path(steps[0]).with_suffix(".pin").touch()
        if state == "finished":
            folder.write("result", {"run": folder.id, "model": name, "version": registered})
        return folder

    def version(self, model: str, store: str, base: str = "scratch", *, aliases: Sequence[str] = (), run: str = "") -> str:
        """A version as `register_model` makes it, with different weights each time; returns its number."""
        experiment = self._experiment(model)
        run_id = self._mlflow_run(model, "", run or "elsewhere", base, "FINISHED")
        checkpoint = {"checkpoint": "step-00000008"}
        logged = self.client.create_logged_model(experiment, "model", run_id, checkpoint)
        place = Path(logged.artifact_location.removeprefix("file://"))
        seed = len(list(place.parents[1].iterdir())) if place.parents[1].is_dir() else 0
        save_model(GPT2(GPT2Config(self._tokenizer.n_vocab, 8, 8, 1, 1)).initialise(seed), place / "artifacts" / "model")
        self._tokenizer.save(place / "artifacts" / "model")
        config = RunConfig.model_validate({"name": model, "model": SMALLEST}).model_dump(mode="json")
        (place / "MLmodel").write_text(yaml.safe_dump({"metadata": {"store": store, "config": config}}))
        self.client.finalize_logged_model(logged.model_id, "READY")
        tags = {"store": store, "run": run, "base": base, "content": content_hash(place / "artifacts" / "model"), **checkpoint}
        if not self.client.search_registered_models(f"name = '{model}'"):
            self.client.create_registered_model(model)
        uri, identity = f"models:/{logged.model_id}", {"model_id": logged.model_id}
        number = str(self.client.create_model_version(model, uri, run_id, {**tags, **identity}, **identity).version)
        for alias in aliases:
            self.client.set_registered_model_alias(model, alias, number)
        return number

    def _checkpoint(self, folder: RunFolder, step: int, store: str) -> None:
        path = folder.checkpoint_path(step)
        save_model(GPT2(GPT2Config(self._tokenizer.n_vocab, 8, 8, 1, 1)).initialise(step), path)
        torch.save({}, path / "optimizer.safetensors")
        write_sealed(path / "state.json", {"step": step, "run": folder.id, "store": store})
        write_checkpoint_manifest(path, {file.name: file_hash(file) for file in path.iterdir()})

    def _mlflow_run(self, name: str, key: str, run_name: str, base: str, status: str) -> str:
        run = self.client.create_run(self._experiment(name), tags={KEY: key}, run_name=run_name)
        self.client.log_param(run.info.run_id, "model.base", base)
        self.client.log_text(run.info.run_id, "said", "samples/step.txt")
        self.client.set_terminated(run.info.run_id, status)
        return str(run.info.run_id)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id) if found else create_experiment(self.client, name)


def vocabulary() -> Tokenizer:
    """A vocabulary of 300 entries."""
    return train_tokenizer(["the text of the night and the day, number by number"], 300)


def copy_of(workspace: Workspace, root: Path) -> Workspace:
    """The same workspace at another place, as if somebody had copied its folder."""
    shutil.copytree(workspace.root, root)
    return Workspace(root)


def everything_in(workspace: Workspace) -> dict[str, Any]:
    """Contents of all files that are no database and no lock, by path."""
    passing = (".sqlite", ".db", ".lock", "databases.json", "databases.log", "-wal", "-shm")
    files = (path for path in workspace.root.rglob("*") if path.is_file() and not path.name.endswith(passing))
    return {path.relative_to(workspace.root).as_posix(): path.read_bytes() for path in files}
