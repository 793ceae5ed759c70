"""`gpt2flow generate`: the same bytes after any interruption, the same completions however the prompts are shared out.

Also tests `tasks.models.prompt_shards`, `tasks.models.complete_shards`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster
from mlflow import MlflowClient

from configs.cluster import ClusterSettings
from configs.errors import UserError
from configs.generation import BatchSettings, CompletionSettings
from flows.generate import generate
from gpt2core import load_model, load_tokenizer
from gpt2core.generation.completion import complete
from gpt2core.weights.loading import save_model
from tasks.models import complete_shards
from tasks.models.prompt_shards import parts_of, plan_shards, writing_alone
from tasks.tracking import registered_model
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

PROMPTS = ["Hello", "", "The end\nof it", "ab", "a", "Hello"]
SETTINGS = BatchSettings(max_new_tokens=6, seed=40, samples=2, batch_size=3, shard_rows=2, weights="float32")


@pytest.fixture(scope="module")
def model(golden: Path) -> Path:
    prepare_databases(Workspace.current().create())
    return golden / "openai-tiny" / "models" / "tiny"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A table in which the prompt is neither the first column nor the longest."""
    file = tmp_path / "prompts.jsonl"
    rows = ({"id": n, "completion": "a long text " * 9, "prompt": prompt} for n, prompt in enumerate(PROMPTS))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def whole(model: Path, prompts: Path, tmp_path: Path) -> bytes:
    """What a generation that nobody disturbs writes."""
    return generate(str(prompts), tmp_path / "whole.parquet", str(model), SETTINGS).read_bytes()


def test_every_row_is_what_its_own_seed_gives(model: Path, prompts: Path, tmp_path: Path) -> None:
    out = generate(str(prompts), tmp_path / "out.parquet", str(model), SETTINGS)
    rows = pq.read_table(out).to_pylist()
    loaded, tokenizer = load_model(model), load_tokenizer(model)
    wanted = []
    for row, prompt in enumerate(PROMPTS):
        alone = CompletionSettings(max_new_tokens=6, seed=40 + row, samples=2, log_probabilities=True)
        for each in complete(loaded, tokenizer, [prompt], alone):
            wanted.append((row, prompt, each.sample, each.text, len(each.tokens), each.ending, 40 + row))
            assert rows[len(wanted) - 1]["log_probability"] == pytest.approx(sum(each.log_probabilities), rel=1e-5)
    names = ("row", "prompt", "sample", "completion", "tokens", "ending", "seed")
    assert [tuple(row[name] for name in names) for row in rows] == wanted
    assert {row["model_version"].split("@")[0] for row in rows} == {"tiny"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "prompts.jsonl"]


def test_a_cluster_writes_the_same_bytes(model: Path, prompts: Path, whole: bytes, tmp_path: Path) -> None:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as workers:
        cluster = ClusterSettings(runner="dask", address=workers.scheduler_address)
        out = generate(str(prompts), tmp_path / "out.parquet", str(model), SETTINGS, cluster)
    assert out.read_bytes() == whole


@pytest.mark.slow
def test_workers_of_ray_write_the_same_bytes(model: Path, prompts: Path, whole: bytes, tmp_path: Path) -> None:
    pytest.importorskip("prefect_ray", reason="Ray is large, so it is no part of the set-up: pip install 'gpt2flow[ray]'")
    out = generate(str(prompts), tmp_path / "out.parquet", str(model), SETTINGS, ClusterSettings(runner="ray", workers=2))
    assert out.read_bytes() == whole


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_completions_do_not_depend_on_shards_or_the_form_of_the_table(
    model: Path, prompts: Path, whole: bytes, tmp_path: Path, form: str
) -> None:
    import pandas

    file = tmp_path / f"others.{form}"
    table = pandas.read_json(prompts, lines=True)
    writers = {"jsonl": lambda: table.to_json(file, orient="records", lines=True), "csv": lambda: table.to_csv(file)}
    writers.get(form, lambda: table.to_parquet(file))()
    out = generate(str(file), tmp_path / "out.parquet", str(model), SETTINGS.model_copy(update={"shard_rows": 5}))
    (tmp_path / "first.parquet").write_bytes(whole)
    shown = ["row", "prompt", "sample", "completion", "seed"]
    assert pq.read_table(out, columns=shown).equals(pq.read_table(tmp_path / "first.parquet", columns=shown))


def test_an_interrupted_generation_goes_on_to_the_same_bytes(
    model: Path, prompts: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, begun = tmp_path / "whole.parquet", []
    out.unlink()

    def fail_at_the_second(*arguments: object) -> object:
        begun.append(arguments)
        if len(begun) == 2:
            raise OSError("the disk is gone")
        return complete(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(complete_shards, "complete", fail_at_the_second)
    with pytest.raises(OSError, match="the disk is gone"):
        generate(str(prompts), out, str(model), SETTINGS)
    assert not out.exists()
    assert len(begun) == 3
    assert generate(str(prompts), out, str(model), SETTINGS).read_bytes() == whole
    assert len(begun) == 4
    assert generate(str(prompts), out, str(model), SETTINGS).read_bytes() == whole
    assert len(begun) == 4


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_bytes(model: Path, prompts: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "killed.parquet"
    options = [f"--{name}={value}" for name, value in SETTINGS.model_dump(exclude_unset=True).items()]
    command = [sys.executable, "-m", "flows.cli", "generate", str(prompts), str(out), "--model", str(model), *options]
    environment = os.environ | {"GPT2FLOW_HOME": str(tmp_path / "home")}
    begun = time.perf_counter()
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0
    length, draw = time.perf_counter() - begun, random.Random(1)
    for _ in range(6):
        out.unlink(missing_ok=True)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            time.sleep(length * draw.uniform(0.5, 1.0))
            process.send_signal(signal.SIGKILL)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "settings", "sentence"),
    [
        ('{"prompt": "a"}\n{"prompt"\n', {}, "line 2 is not JSON"),
        ('{"a": "b", "c": "d"}\n', {"text_column": "e"}, "no column 'e': set --text_column to one of a, c"),
        ('{"prompt": 5}\n', {"text_column": "prompt"}, "line 1: prompt is no text but the number 5"),
        ("\n", {}, "There is no prompt in bad.jsonl"),
    ],
)
def test_what_is_wrong_with_prompts_is_one_sentence(
    model: Path, tmp_path: Path, content: str, settings: dict[str, str], sentence: str
) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(UserError) as caught:
        plan_shards(str(tmp_path / "bad.jsonl"), tmp_path / "out", str(model), BatchSettings(**settings))
    assert sentence in str(caught.value)
    assert "data." not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_a_file_that_is_no_table_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("Hello")
    with pytest.raises(UserError, match=r"prompts.txt is no table: give .jsonl"):
        plan_shards(str(tmp_path / "prompts.txt"), tmp_path / "out", str(model), SETTINGS)


def test_marks_inside_a_prompt_stay_in_it(model: Path, tmp_path: Path) -> None:
    (tmp_path / "marks.jsonl").write_text('{"prompt": "<|startoftext|>one<|endoftext|>two"}\n')
    plan_shards(str(tmp_path / "marks.jsonl"), tmp_path / "out", str(model), SETTINGS)
    held = pq.read_table(parts_of(tmp_path / "out") / "prompts-00000.parquet").to_pylist()
    assert held == [{"prompt": "<|startoftext|>one<|endoftext|>two"}]


def test_an_output_of_another_request_is_left_as_it_is(model: Path, prompts: Path, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "whole.parquet"
    with pytest.raises(UserError, match="was begun with other seed, samples: give what it was begun with"):
        generate(str(prompts), out, str(model), SETTINGS.model_copy(update={"seed": 7, "samples": 1}))
    prompts.write_text('{"prompt": "other"}\n')
    with pytest.raises(UserError, match="was begun with other prompts"):
        generate(str(prompts), out, str(model), SETTINGS)
    assert out.read_bytes() == whole
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UserError, match="notes exists and was not written by gpt2flow generate: choose another name"):
        generate(str(prompts), tmp_path / "notes", str(model), SETTINGS)
    with writing_alone(out), pytest.raises(UserError, match="is being written by another gpt2flow generate"):
        generate(str(prompts), out, str(model), SETTINGS)


def test_the_version_of_the_beginning_is_kept_when_the_alias_moves(model: Path, prompts: Path, tmp_path: Path) -> None:
    registry, tokenizer = MlflowClient(), load_tokenizer(model)
    experiment = registry.create_experiment("generates", (Workspace.current().root / "generates").as_uri())
    registry.create_registered_model("generates")
    for number in (1, 2):
        folder = tmp_path / str(number) / "model"
        save_model(load_model(model).initialise(number), folder, end_of_text=tokenizer.end_of_text)
        tokenizer.save(folder)
        with mlflow.start_run(experiment_id=experiment):
            code = str(Path(registered_model.__file__))
            logged = mlflow.pyfunc.log_model(
                name="model", python_model=code, artifacts={"model": str(folder)}, pip_requirements=[]
            )
        registry.create_model_version("generates", logged.model_uri)
    registry.set_registered_model_alias("generates", "champion", "1")
    asked = (str(prompts), tmp_path / "out.parquet", "models:/generates@champion", SETTINGS)
    plan_shards(*asked)
    registry.set_registered_model_alias("generates", "champion", "2")
    rows = pq.read_table(generate(*asked)).to_pylist()
    assert {row["model_version"] for row in rows} == {"models:/generates/1"}
