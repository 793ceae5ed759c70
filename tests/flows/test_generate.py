"""A file of prompts is completed shard by shard, and a killed flow goes on and ends with the same bytes.

Also tests `tasks.models.generate`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.errors import UserError
from configs.schema import CompletionSettings
from flows.generate import generate
from tasks.models import generate as shards
from tasks.models.sample import Writer
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace

SETTINGS = CompletionSettings(max_new_tokens=4, temperature=0.9, seed=5, samples=2, weights="float32")
KILLED = """
import os, sys
from pathlib import Path
from configs.schema import CompletionSettings
from tasks.models import generate as shards
from flows.generate import generate
write, left = shards._write, [1]
def write_and_die(table, target):
    write(table, target)
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), 9)
shards._write = write_and_die
generate(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], CompletionSettings.model_validate_json(sys.argv[4]), None, 3)
"""


@pytest.fixture(scope="module")
def model(golden: Path) -> str:
    """A model's folder."""
    prepare_databases(Workspace.current().create())
    return str(golden / "openai-tiny" / "models" / "tiny")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Eight prompts, one of them empty."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"id": n, "text": "" if n == 3 else f"Line {n} says"}) + "\n" for n in range(8)))
    return file


def test_the_completions_are_those_of_sample_however_they_are_cut(prompts: Path, model: str, tmp_path: Path) -> None:
    table = pq.read_table(generate(prompts, tmp_path / "a.parquet", model, SETTINGS, None, 3))
    other = pq.read_table(generate(prompts, tmp_path / "b.parquet", model, SETTINGS, None, 100))
    assert table.drop_columns("log_probability").equals(other.drop_columns("log_probability"))
    assert table["log_probability"].to_pylist() == pytest.approx(other["log_probability"].to_pylist())
    texts = ["" if n == 3 else f"Line {n} says" for n in range(8)]
    wanted = list(Writer(Path(model), SETTINGS.model_copy(update={"log_probabilities": True})).complete(texts))
    assert table["completion"].to_pylist() == [each.text for each in wanted]
    assert table["log_probability"].to_pylist() == pytest.approx([sum(each.log_probabilities) for each in wanted])
    assert table["row"].to_pylist() == [n for n in range(8) for _ in range(2)]
    assert set(table["seed"].to_pylist()) == {5}
    assert [path.name for path in tmp_path.iterdir() if ".parts" in path.name or ".tmp" in path.name] == []


def test_a_killed_flow_goes_on_with_what_is_not_done(
    prompts: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.parquet"
    command = [sys.executable, "-c", KILLED, str(prompts), str(output), model, SETTINGS.model_dump_json()]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ, timeout=600)
    assert killed.returncode == -9, killed.stderr
    (parts,) = tmp_path.glob("*.parts")
    made = {path: path.stat().st_mtime_ns for path in parts.glob("completions-*.parquet")}
    assert len(made) == 2
    generate(prompts, output, model, SETTINGS, None, 3)
    undisturbed = generate(prompts, tmp_path / "other.parquet", model, SETTINGS, None, 3)
    assert output.read_bytes() == undisturbed.read_bytes()
    assert "shard        1 of 3" not in capsys.readouterr().out.split("other.parquet")[0].split("out.parquet is written")[0]
    generate(prompts, output, model, SETTINGS, None, 3)
    assert "finished already" in capsys.readouterr().out


def test_an_output_of_something_else_is_kept(prompts: Path, model: str, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    output.write_text("mine")
    with pytest.raises(UserError, match="is there already and is of other prompts"):
        shards.plan_generation.fn(prompts, output, model, SETTINGS, None, 3)
    assert output.read_text() == "mine"


def test_a_prompt_a_line_of_a_text(model: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("One\nTwo\n")
    plan = shards.plan_generation.fn(tmp_path / "p.txt", tmp_path / "o.parquet", model, SETTINGS, None, 1)
    assert plan
    assert plan.shards == 2
    assert pq.read_table(plan.parts / "prompts-00001.parquet")["prompt"].to_pylist() == ["Two"]
