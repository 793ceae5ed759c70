"""A workspace that version 0.1.0 wrote before its modules had rooms: its run, store and checkpoints are used as they are."""

import shutil
from pathlib import Path

import pytest
import torch

from configs.loading import load_config
from configs.schema import RunConfig
from flows.finetune import finetune
from gpt2core import load_model
from gpt2core.store.token_store import open_store
from tasks.runs.find import find_run
from tasks.workspace.folders import Workspace

RUN = "old-84cb25e2"


@pytest.fixture
def earlier(golden: Path) -> RunConfig:
    """The config of that run, whose files lie in this workspace as they were written."""
    written, workspace = golden / "run-0.1.0", Workspace.current().create()
    for part in ("runs", "stores", "tokenizers"):
        shutil.copytree(written / part, workspace.root / part, dirs_exist_ok=True)
    config = load_config(written / "old.yaml")
    return config.model_copy(update={"data": config.data.model_copy(update={"source": [str(written / "text")]})})


def test_its_finished_run_is_found_by_the_same_config(earlier: RunConfig) -> None:
    result = finetune(earlier)
    assert (Path(result.folder).name, result.steps, result.best_step) == (RUN, 20, 20)
    store = find_run(Workspace.current(), RUN).read("run")["store"]
    assert open_store(Workspace.current().stores / store).hash == store


def test_its_interrupted_run_goes_on_to_the_weights_that_it_had_then(earlier: RunConfig, golden: Path) -> None:
    folder = find_run(Workspace.current(), RUN)
    shutil.rmtree(folder.checkpoint_path(20))
    (folder.path / "result.json").unlink()
    assert Path(finetune(earlier).folder).name == RUN
    assert [row["step"] for row in folder.metrics.rows()] == list(range(1, 21))
    now, then = (
        load_model(path / "checkpoints" / "step-00000020") for path in (folder.path, golden / "run-0.1.0" / "runs" / RUN)
    )
    for name, weights in then.state_dict().items():
        torch.testing.assert_close(now.state_dict()[name], weights, msg=lambda text, name=name: f"{name}: {text}")
