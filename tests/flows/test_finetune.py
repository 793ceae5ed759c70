"""The whole pipeline with real Prefect and MLflow, on a text small enough for seconds.

Also tests `tasks.load_dataset`, `tasks.prepare_tokenizer`, `tasks.encode_to_parquet`, `tasks.train_until`,
`tasks.sample_and_evaluate`, `tasks.register_model`, `tasks.write_report`, `tasks.finetuning.build_trainer`,
`tasks.finetuning.finetune_run`, `tasks.finetuning.milestones`, `tasks.finetuning.open_run`, `tasks.finetuning.resume`,
`tasks.finetuning.result`, `tasks.tracking.mlflow_mirror`, `tasks.tracking.registered_model`, `tasks.terminal.stop_signals`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from uuid import UUID

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from tiny import tiny_run

from configs.alerts import AlertSettings
from configs.errors import UserError
from configs.schema import RunConfig
from flows.finetune import finetune
from gpt2core import load_model
from gpt2core.checkpoints.checkpoint import find_checkpoints
from gpt2core.model.gpt2 import GPT2
from tasks.finetuning.result import RunResult
from tasks.runs.run_folder import RunFolder
from tasks.servers.server_process import free_port
from tasks.tracking.mlflow_mirror import NOTE, OUR_NOTE, Tracking, is_our_note
from tasks.workspace.folders import Workspace

SIZES = {"n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 2}


def tiny_config(name: str, source: Path, **train: object) -> RunConfig:
    settings = {"checkpoint_every": 3, "learning_rate": 1e-2, **train}
    return tiny_run(name, source, train=settings, evaluate={"prompts": ["The ", ""], "max_new_tokens": 12})


def with_lens(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"lens": True})})


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two text files."""
    folder = tmp_path_factory.mktemp("text")
    lines = [f"The {i}th line says that {i} times {i} is {i * i}.\n\n" for i in range(400)]
    (folder / "a.txt").write_text("".join(lines[:200]))
    (folder / "b.txt").write_text("".join(lines[200:]))
    return folder


@pytest.fixture(scope="module")
def workspace() -> Workspace:
    return Workspace.current().create()


@pytest.fixture(scope="module")
def registered(text: Path, workspace: Workspace) -> RunResult:
    """A finished run with a registered version, on a disk that is said to be too full."""
    config = with_lens(tiny_config("registered", text))
    alerts = AlertSettings(file=workspace.root / "told.jsonl", disk_below=10**18)
    enabled = config.registry.model_copy(update={"enabled": True})
    return finetune(config.model_copy(update={"registry": enabled, "alerts": alerts}))


def client_run(result: RunResult) -> tuple[MlflowClient, str]:
    return MlflowClient(), RunFolder(Path(result.folder)).read("run")["mlflow_run_id"]


def wait_until_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    pytest.fail(f"{url} did not answer in time")


def test_the_run_is_finished_and_better_than_before(registered: RunResult) -> None:
    assert RunFolder(Path(registered.folder)).state() == "finished"
    assert registered.best.val_loss < registered.before.val_loss - 0.1
    assert registered.tokens > 1000


def test_adapters_are_trained_until_the_loss_stops_falling_and_registered_merged(text: Path, registered: RunResult) -> None:
    base = find_checkpoints(Path(registered.folder) / "checkpoints")[-1].path
    stopping = {"patience": 1, "min_delta": 100.0}
    values = tiny_config("adapted", text, early_stopping=stopping, steps=10**12).model_dump()
    values["train"] |= {"trainable": "lora", "lora": {"rank": 2}}
    values |= {"model": {"base": str(base)}, "tokenizer": {"source": "base"}, "registry": {}}
    result = finetune(RunConfig.model_validate(values))
    assert (result.steps, result.stopped_early) == (4, True)
    assert [checkpoint.step for checkpoint in find_checkpoints(Path(result.folder) / "checkpoints")] == [3, 4]
    folder = Path(mlflow.artifacts.download_artifacts("models:/adapted@candidate")) / "artifacts" / "model"
    assert {file.name for file in folder.iterdir()} == {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    tokens = torch.arange(16)[None]
    best = load_model(Path(result.folder) / "checkpoints" / f"step-{result.best_step:08d}")
    assert torch.equal(load_model(folder)(tokens), best(tokens))
    assert not torch.equal(best(tokens), load_model(base)(tokens))
    (Path(result.folder) / "result.json").unlink()  # as if it had been killed before its end
    again = finetune(RunConfig.model_validate(values))
    assert (again.steps, again.best_step, again.version) == (result.steps, result.best_step, result.version)


def test_mlflow_has_every_step_exactly_once(registered: RunResult) -> None:
    client, run_id = client_run(registered)
    for key in ("loss", "learning_rate", "gradient_norm"):
        assert [metric.step for metric in client.get_metric_history(run_id, key)] == list(range(1, 9))
    for key in ("val_loss", "perplexity", "bits_per_byte"):
        assert [metric.step for metric in client.get_metric_history(run_id, key)] == [0, 4, 8]
    assert client.get_metric_history(run_id, "tokens_per_second")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.steps"] == "8"


def test_mlflow_has_the_token_store_as_input(registered: RunResult) -> None:
    client, run_id = client_run(registered)
    (used,) = client.get_run(run_id).inputs.dataset_inputs
    store = Workspace.current().stores / RunFolder(Path(registered.folder)).read("run")["store"]
    assert str(store) in used.dataset.source
    assert store.name.startswith(used.dataset.digest)


def test_mlflow_has_the_samples_as_text_and_as_a_table(registered: RunResult, tmp_path: Path) -> None:
    client, run_id = client_run(registered)
    names = [Path(artifact.path).name for artifact in client.list_artifacts(run_id, "samples")]
    assert names == [f"step-{step:08d}.txt" for step in (0, 4, 8)]
    table = json.loads(Path(client.download_artifacts(run_id, "samples.json", str(tmp_path))).read_text())
    assert table["columns"] == ["step", "prompt", "completion", "tokens", "ended"]
    assert all(0 <= tokens <= 12 and ended == (tokens < 12) for *_, tokens, ended in table["data"])
    assert [row[:2] for row in table["data"]] == [[step, prompt] for step in (0, 4, 8) for prompt in ("The ", "")]


def test_mlflow_has_the_lens_by_step_and_the_report(registered: RunResult, tmp_path: Path) -> None:
    client, run_id = client_run(registered)
    known = RunFolder(Path(registered.folder)).read("run")
    assert known["mlflow_experiment_id"] == client.get_run(run_id).info.experiment_id
    for step in (0, 4, 8):
        files = {Path(file.path).name for file in client.list_artifacts(run_id, f"lens/step-{step:08d}")}
        assert files == {"prompt-1.html", "prompt-1.json", "prompt-1.png"}
    assert {"lens/across-1.html", "lens/across-1.png"} <= {file.path for file in client.list_artifacts(run_id, "lens")}
    report = Path(client.download_artifacts(run_id, "report.html", str(tmp_path))).read_text()
    assert f"{registered.before.val_loss:.3f} →</s> {registered.best.val_loss:.3f}" in report
    assert "registered version 1 (candidate)" in report


def test_prefect_has_the_short_form_with_a_link_to_the_report(registered: RunResult) -> None:
    from prefect.artifacts import Artifact  # first the workspace must be known, which importing the flow sees to

    artifact = Artifact.get(f"report-{registered.run}")
    assert artifact is not None
    assert f"| validation loss | {registered.before.val_loss:.3f} | {registered.best.val_loss:.3f} |" in artifact.data
    assert Path(registered.folder, "report.html").as_uri() in artifact.data


def test_the_registered_version_generates_through_its_alias(registered: RunResult) -> None:
    model = mlflow.pyfunc.load_model("models:/registered@candidate")
    frame = model.predict(pd.DataFrame({"prompt": ["The ", "4"]}), params={"max_new_tokens": 5, "temperature": 0.0})
    assert list(frame.columns) == ["completion"]
    assert len(frame) == 2
    assert all(frame["completion"])


def test_registering_holds_no_second_model_beside_the_trained_one(registered: RunResult) -> None:
    """MLflow tries an input example, if it is given one, in this very process."""
    assert mlflow.models.get_model_info("models:/registered@candidate").saved_input_example_info is None


WITHOUT_GPT2FLOW = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "gpt2flow" not in getattr(finder, "__module__", "")]
sys.path = [path for path in sys.path if "gpt2flow" not in path]
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
assert model.predict(pandas.DataFrame({"prompt": ["The "]}))["completion"][0]
import gpt2core
print(gpt2core.__file__)
"""


def test_the_registered_version_brings_its_own_code_and_names_what_it_needs(registered: RunResult, tmp_path: Path) -> None:
    uri = "models:/registered@candidate"
    command = [sys.executable, "-c", WITHOUT_GPT2FLOW, uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(Workspace.current().mlflow_artifacts) in done.stdout
    needed = {line.partition("==")[0] for line in Path(mlflow.pyfunc.get_model_dependencies(uri)).read_text().split()}
    assert {"torch", "tokenizers", "safetensors", "google-crc32c", "xxhash", "pydantic"} <= needed
    assert "prefect" not in needed


def test_the_registered_version_is_served_over_http(registered: RunResult) -> None:
    port = free_port(5400)
    serve = ["mlflow", "models", "serve", "-m", "models:/registered@candidate", "--env-manager", "local", "-p", str(port)]
    activated = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # MLflow looks for uvicorn there
    command = [sys.executable, "-m", *serve]
    server = subprocess.Popen(command, env=activated, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until_answers(f"http://127.0.0.1:{port}/ping", server)
        body = json.dumps({"inputs": {"prompt": ["The ", "4"]}, "params": {"max_new_tokens": 3, "temperature": 0.0}})
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body.encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            predictions = json.loads(answer.read())["predictions"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    assert len(predictions) == 2
    assert all(row["completion"] for row in predictions)


def test_the_registered_version_carries_its_lineage(registered: RunResult) -> None:
    client, run_id = client_run(registered)
    version = client.get_model_version_by_alias("registered", "candidate")
    assert str(version.version) == registered.version == "1"
    assert version.run_id == run_id
    assert version.tags["store"] == RunFolder(Path(registered.folder)).read("run")["store"]


def test_the_registered_folder_holds_no_pickle(registered: RunResult) -> None:
    folder = Path(mlflow.artifacts.download_artifacts("models:/registered@candidate"))
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".bin", ".pt", ".pth"}


def test_the_same_config_again_is_recognised_as_finished(
    registered: RunResult, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_lens(tiny_config("registered", text))
    assert finetune(config) == registered
    printed = capsys.readouterr().out
    assert "finished already" in printed
    assert "encoded before" in printed


def test_a_run_that_shall_be_promoted_ends_with_its_version_as_champion(tmp_path: Path, workspace: Workspace) -> None:
    documents = [json.dumps({"text": f"The {i}th line says that {i} times {i} is {i * i}."}) + "\n" for i in range(300)]
    (tmp_path / "lines.jsonl").write_text("".join(documents))
    few = {"samples": 2, "sample_tokens": 8, "rules": {"seconds_per_token": None}}
    values = tiny_config("deserving", tmp_path / "lines.jsonl").model_dump()
    config = RunConfig.model_validate({**values, "registry": {"promote": True}, "promote": few})
    result = finetune(config)
    assert (result.version, result.alias) == ("1", "champion")
    assert result.promotion.startswith("promoted. Better than the untrained model: ")
    assert MlflowClient().get_registered_model("deserving").aliases == {"champion": 1}
    again = finetune(config)
    assert (again.alias, again.promotion) == ("champion", "unchanged. Version 1 is the champion already.")


def test_only_the_newest_checkpoints_and_the_best_are_kept(text: Path, workspace: Workspace) -> None:
    result = finetune(tiny_config("Pruned_at.once", text, keep_checkpoints=1, checkpoint_every=1))
    steps = {checkpoint.step for checkpoint in find_checkpoints(Path(result.folder) / "checkpoints")}
    assert steps == {8, result.best_step}


def test_a_released_model_is_fine_tuned_with_its_own_vocabulary(text: Path, workspace: Workspace, golden: Path) -> None:
    base = golden / "openai-tiny" / "models" / "tiny"
    config = tiny_config("base", text)
    config = config.model_copy(
        update={
            "model": config.model.model_validate({"base": str(base)}),
            "tokenizer": config.tokenizer.model_copy(update={"source": "base"}),
        }
    )
    result = finetune(config)
    assert result.n_vocab == 257
    assert result.best.val_loss < result.before.val_loss
    tuned, released = load_model(result.folder + "/checkpoints/step-00000008"), load_model(base)
    assert tuned.config == released.config
    assert not torch.equal(tuned.wte.weight, released.wte.weight)


def test_a_model_for_which_no_memory_suffices_is_one_sentence(text: Path, workspace: Workspace) -> None:
    config = tiny_config("huge", text)
    huge = config.model.model_copy(update={"n_ctx": 10**13})  # 640 TB of positions: no address space has them
    with pytest.raises(UserError, match="Memory does not suffice for the model, its gradients and the optimizer: "):
        finetune(config.model_copy(update={"model": huge}))
    assert not list(workspace.runs.glob("huge-*"))


def test_text_shorter_than_a_block_is_one_sentence_and_starts_no_run(tmp_path: Path, workspace: Workspace) -> None:
    (tmp_path / "short.txt").write_text("Too short.\n")
    with pytest.raises(UserError, match=r"has \d+ tokens but a block of model.n_ctx 16 needs 17: give more text"):
        finetune(tiny_config("short", tmp_path / "short.txt"))
    assert not list(workspace.runs.glob("short-*"))


def test_a_failed_run_and_a_loss_that_is_nan_are_told(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = GPT2.loss
    monkeypatch.setattr(GPT2, "loss", lambda model, *given: loss(model, *given) * (float("nan") if model.training else 1.0))
    told = tmp_path / "told.jsonl"
    alerts = AlertSettings(commands=[f"cat >> {told}; echo >> {told}"])
    with pytest.raises(UserError, match="no longer finite at step 1"):
        finetune(tiny_config("ill", text, dtype="float32", compile=False).model_copy(update={"alerts": alerts}))
    sentences = [json.loads(line)["sentence"] for line in told.read_text().splitlines()]
    assert "loss (nan)" in sentences[0]
    assert sentences[1].startswith("'ill' has failed: The loss is no longer finite at step 1")


def test_prefect_and_mlflow_lead_to_each_other(registered: RunResult) -> None:
    client, run_id = client_run(registered)
    tags = client.get_run(run_id).data.tags
    with get_client(sync_client=True) as prefect:
        flow_run = prefect.read_flow_run(UUID(tags["prefect.flow_run_id"]))
        mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
        written = sorted(prefect.read_artifacts(artifact_filter=mine), key=lambda artifact: str(artifact.created))
        shown = {artifact.key: artifact for artifact in written}  # of each the newest
    assert is_our_note(tags[NOTE])
    assert f"/runs/flow-run/{flow_run.id})" in tags[NOTE]
    client.set_tag(run_id, NOTE, "The best so far.")
    folder = RunFolder(Path(registered.folder))
    Tracking(folder, {NOTE: f"{OUR_NOTE}another]", "prefect.flow_run_id": "another"}).settle("FINISHED")
    after = client.get_run(run_id).data.tags
    assert (after[NOTE], after["prefect.flow_run_id"]) == ("The best so far.", "another")
    assert tags["prefect.flow_run_url"].endswith(f"/runs/flow-run/{flow_run.id}")
    assert f"/runs/{run_id})" in shown[f"mlflow-{registered.run}"].data
    assert shown[f"progress-{registered.run}"].data == 100.0
    assert [row["step"] for row in json.loads(shown[f"evaluations-{registered.run}"].data)] == [0, 4, 8]


def test_a_state_that_lasts_is_told_once_and_the_run_comes_to_its_end(registered: RunResult, workspace: Workspace) -> None:
    [told] = [json.loads(line) for line in (workspace.root / "told.jsonl").read_text().splitlines()]
    assert (told["kind"], told["subject"]) == ("disk low", "registered")
    assert registered.run in told["sentence"]


def test_a_second_process_on_the_same_run_is_told_who_holds_it(text: Path, registered: RunResult) -> None:
    folder = RunFolder(Path(registered.folder))
    with folder.locked(), pytest.raises(UserError, match=r"is being trained by process \d+ since"), folder.locked():
        pass
    assert folder.state() == "finished"
