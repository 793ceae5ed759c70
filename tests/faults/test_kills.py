"""Kill a run anywhere, run it again: the same weights, metrics and samples, one MLflow run, one registered version."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from tiny import tiny_run

from configs.retention import RetentionSettings
from configs.schema import RunConfig
from flows.finetune import finetune
from tasks.maintenance.collection import collect
from tasks.runs.run_folder import RunFolder
from tasks.servers.prefect_server import stop_orphans
from tasks.terminal.stop_signals import STOPPING
from tasks.tracking.reconciliation import reconcile
from tasks.workspace.folders import Workspace

STEPS = 12
KILL_AT = """
import importlib, os, signal, sys
from pathlib import Path
place, name, number, when = sys.argv.pop(1).split()
os.environ["GPT2FLOW_HOME"] = sys.argv.pop(1)
import tasks
owner = importlib.import_module(place.split(":")[0])
for part in place.split(":")[1:]:
    owner = getattr(owner, part)
original, calls = getattr(owner, name), []
def dying(*arguments, **options):
    calls.append(1)
    last = len(calls) == int(number)
    if last and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **options)
    if last:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, dying)
from flows.cli.main import main
main()
"""
IN_CI = [
    "gpt2core.checkpoints.checkpoint save_tensors 2 before",  # in the middle of a checkpoint
    "tasks.registry.registration _create_version 1 before",  # the model is logged and not registered
]
IN_LONG_FORM = [
    "mlflow:MlflowClient create_run 1 after",  # MLflow knows the run, the folder does not know that
    "gpt2core.store.encoding check_store 1 before",
    "gpt2core.training.trainer:Trainer _update 6 before",
    "tasks.runs.metrics_log:MetricsLog append 3 before",
    "tasks.finetuning.checkpoint_keeper write_checkpoint 2 after",  # renamed, and not yet evaluated
    "tasks.evaluation.evaluate_step write_text 2 before",
    "tasks.runs.metrics_log:MetricsLog cut_back 2 after",
    "tasks.register_model _log_model 1 after",
    "tasks.registry.registration:MlflowClient set_registered_model_alias 1 before",
    "tasks.runs.run_folder write_sealed 3 before",
    "flows.finetune write_result 1 after",  # finished, and MLflow has not been told
]


WITH_OPTIONS = ["gpt2core.training.trainer:Trainer _update 6 after", "gpt2core.checkpoints.checkpoint save_tensors 4 before"]
OPTIONS: dict[str, dict[str, dict[str, object]]] = {
    "recomputed blocks in bfloat16": {"train": {"recompute_blocks": 2, "dtype": "bfloat16"}},
    "random order, no dropout": {"train": {"order": "random"}, "model": {"dropout": 0.0}},
    "evaluated at every step": {"evaluate": {"every": 1, "lens": True}},
    "muon, noise, blocks alone": {"train": {"trainable": "transformer", "optimizer": "muon", "noise": 0.1}},
    "sgd on a pattern, in bfloat16": {"train": {"trainable": ["h.1.*"], "optimizer": "sgd", "dtype": "bfloat16"}},
    "weights history": {"train": {"checkpoint_every": 1, "keep_checkpoints": 1, "keep_weights_history": True}},
}
"""What else may be switched on, and must be as exact when the run is killed; the plain run has dropout and accumulation."""


def config_of(name: str, text: Path, options: Mapping[str, Mapping[str, object]] = {}) -> RunConfig:
    sections: dict[str, Mapping[str, object]] = {
        "train": {"steps": STEPS, "accumulate": 2, "checkpoint_every": 3},
        "evaluate": {"prompts": ["The ", ""]},
        "registry": {"enabled": True},
    }
    return tiny_run(name, text, **{key: {**sections.get(key, {}), **options.get(key, {})} for key in [*sections, *options]})


@pytest.fixture(scope="module")
def undisturbed(text: Path) -> Path:
    """Folder of a run that nobody disturbed."""
    Workspace.current().create()
    return Path(finetune(config_of("undisturbed", text)).folder)


def command(config: RunConfig, folder: Path) -> list[str]:
    file = folder / f"{config.name}.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return ["run", str(file)]


def run_and_die(place: str, arguments: list[str], **more: str) -> None:
    """`more` is added to the environment."""
    started, environment = [sys.executable, "-c", KILL_AT, place, os.environ["GPT2FLOW_HOME"], *arguments], os.environ | more
    with tempfile.TemporaryFile("w+") as output:  # not a pipe, which a server that outlives its owner would hold open
        died = subprocess.run(started, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False, timeout=600)
        output.seek(0)
        assert died.returncode == -signal.SIGKILL, output.read()


def folder_of(config: RunConfig) -> RunFolder:
    return RunFolder(next(Workspace.current().runs.glob(f"{config.name}-*")))


def assert_undisturbed(folder: Path, undisturbed: Path) -> None:
    last = undisturbed / "checkpoints" / f"step-{STEPS:08d}"
    weights = [str(file.relative_to(undisturbed)) for file in last.glob("*.safetensors")]
    assert len(weights) >= 2
    samples = [f"samples/{file.name}" for file in (undisturbed / "samples").iterdir()]
    assert {file.name for file in (folder / "samples").iterdir()} == {Path(name).name for name in samples}
    for name in ("metrics.jsonl", "evaluations.jsonl", *samples, *weights):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name


def assert_told_once(config: RunConfig) -> None:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(config.name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.steps"] == str(STEPS)
    assert run.inputs is not None
    assert len(run.inputs.dataset_inputs) == 1
    for key, steps in (("loss", range(1, STEPS + 1)), ("val_loss", range(0, STEPS + 1, config.evaluate.every))):
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, key)] == list(steps), key
    assert len(client.search_model_versions(f"name = '{config.name}'")) == 1
    assert len(client.search_logged_models([experiment.experiment_id])) == 1
    assert client.get_model_version_by_alias(config.name, "candidate").run_id == run.info.run_id


def forget_text() -> None:
    """Remove vocabularies and token stores, so that a run encodes again what others have encoded before."""
    for folder in (Workspace.current().tokenizers, Workspace.current().stores):
        shutil.rmtree(folder)
        folder.mkdir()


def finish_and_check(config: RunConfig, undisturbed: Path) -> None:
    """Run again what was killed, and compare."""
    stop_orphans()  # the temporary Prefect server that the killed process left behind
    result = finetune(config)
    reconcile(Workspace.current())
    assert_undisturbed(Path(result.folder), undisturbed)
    assert_told_once(config)


def check(config: RunConfig, places: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Kill one run at each of these places, one after the other, and let it end."""
    arguments = command(config, tmp_path)
    forget_text()
    for place in places:
        run_and_die(place, arguments)
    finish_and_check(config, undisturbed)


def test_a_run_that_was_killed_again_and_again_ends_as_if_nobody_had_though_gc_came_by(
    text: Path, undisturbed: Path, tmp_path: Path, prefect_url: str
) -> None:
    """The first process leaves a server behind, the second one uses that of the tests."""
    nothing_spared = RetentionSettings(keep_versions=0, older_than=0)
    config = config_of("killed", text)
    arguments = command(config, tmp_path)
    forget_text()
    run_and_die(IN_CI[0], arguments)
    collect(nothing_spared, config.name, config.name)
    run_and_die(IN_CI[1], arguments, PREFECT_API_URL=prefect_url)
    collect(nothing_spared, config.name, config.name)
    finish_and_check(config, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("place", IN_LONG_FORM)
def test_a_kill_at_this_place_changes_nothing(place: str, text: Path, undisturbed: Path, tmp_path: Path) -> None:
    check(config_of(re.sub(r"\W+", "-", place)[-60:].strip("-"), text), [place], undisturbed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_with_these_options_too_a_killed_run_ends_as_if_nobody_had(options: str, text: Path, tmp_path: Path) -> None:
    name = re.sub(r"\W+", "-", options)
    expected = finetune(config_of(f"{name}-undisturbed", text, OPTIONS[options]))
    check(config_of(name, text, OPTIONS[options]), WITH_OPTIONS, Path(expected.folder), tmp_path)


@pytest.mark.slow
def test_adapters_too_end_as_if_nobody_had_killed_their_run(text: Path, undisturbed: Path, tmp_path: Path) -> None:
    base = str(undisturbed / "checkpoints" / f"step-{STEPS:08d}")
    train = {"trainable": "lora", "lora": {"rank": 2, "dropout": 0.1}, "optimizer": "muon", "noise": 0.1}
    options = {"train": train, "model": {"base": base}, "tokenizer": {"source": "base"}}
    expected = finetune(config_of("adapters-undisturbed", text, options))
    places = [*WITH_OPTIONS, "gpt2core.checkpoints.weights link_file 1 before"]
    check(config_of("adapters", text, options), places, Path(expected.folder), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_a_kill_at_a_random_moment_changes_nothing(number: int, text: Path, undisturbed: Path, tmp_path: Path) -> None:
    chance = random.Random(number)
    stage = ("token store", "is new", "step 4", "step 8", "registry")[number % 5]
    config = config_of(f"random-{number}", text)
    started = [sys.executable, "-u", "-m", "flows.cli", *command(config, tmp_path)]
    forget_text()
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if stage in line)
        time.sleep(chance.random() * (6.0 if stage == "registry" else 0.5))
        process.kill()
    finish_and_check(config, undisturbed)


@pytest.mark.parametrize(("number", "stage", "code"), [(STOPPING[0], "is new", 130)])
def test_a_signal_ends_the_run_with_a_word_and_a_status(
    number: int, stage: str, code: int, text: Path, undisturbed: Path, tmp_path: Path
) -> None:
    config = config_of(f"signal-{code}", text)
    config = config.model_copy(update={"train": config.train.model_copy(update={"steps": 100_000})})
    started = [sys.executable, "-u", "-m", "flows.cli", *command(config, tmp_path)]
    with subprocess.Popen(
        started, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if stage in line)
        time.sleep(1)
        os.killpg(process.pid, number)  # a terminal's Ctrl-C reaches everything that the run has started
        rest = process.stdout.read()
    assert process.returncode == code, rest
    assert "Traceback" not in rest
    assert "the same command goes on from there" in rest
    folder = folder_of(config)
    assert folder.state() == "stopped"
    assert MlflowClient().get_run(folder.read("run")["mlflow_run_id"]).info.status == "KILLED"


@pytest.mark.slow
def test_sigterm_while_the_model_is_registered_leaves_one_version(text: Path, undisturbed: Path, tmp_path: Path) -> None:
    config = config_of("registering", text)
    started = [sys.executable, "-u", "-m", "flows.cli", *command(config, tmp_path)]
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "registry" in line)
        process.terminate()
        rest = process.stdout.read()
    assert process.returncode == 143, rest
    assert "Traceback" not in rest
    assert f"the checkpoint of step {STEPS} is saved; the same command goes on from there" in rest
    assert folder_of(config).state() == "stopped"
    finish_and_check(config, undisturbed)
