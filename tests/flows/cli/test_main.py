"""The command line: quick where nothing heavy is needed, plain where something is wrong."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import gpt2flow

from tasks.servers.prefect_server import PATIENCE

VERBS = [
    "run",
    "sweep",
    "plan",
    "resume",
    "stop",
    "report",
    "checkpoints",
    "encode",
    "data",
    "sample",
    "export",
    "evaluate",
    "lens",
    "dashboard",
    "worker",
    "runs",
    "alerts",
    "status",
    "doctor",
    "promote",
    "rollback",
    "history",
    "models",
]


def in_a_process(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=cwd)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "demo", "--train.steps", "x"]], ids=" ".join)
def test_a_light_question_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from flows.cli.main import main\n"
        "sys.argv = ['gpt2flow', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'prefect', 'mlflow', 'pyarrow', 'pandera'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = gpt2flow(capsys, verb, "--help")
    assert done.code == 0
    assert f"gpt2flow {verb}" in done.out
    assert "Example" in done.out


def test_help_of_run_lists_every_setting_as_the_yaml_spells_it(capsys: pytest.CaptureFixture[str]) -> None:
    shown = gpt2flow(capsys, "run", "--help").out
    for setting in ("--data.source", "--train.batch_size", "--model.n_embd", "--evaluate.max_new_tokens", "--registry.alias"):
        assert setting in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "demo", "--train.stepz", "3"], "Unknown option: --train.stepz. Did you mean --train.steps?"),
        (["run", "demo", "--train.steps", "-3"], "--train.steps is '-3' but should be greater than or equal to 0."),
        (["run", "demo", "--model.n_head", "3"], "model.n_embd 128 is not divisible by model.n_head 3: change one of them."),
        (["run", "nowhere.yaml"], "The config nowhere.yaml does not exist: give a YAML file, or one of"),
        (["run", "demo", "--data.source", "nowhere/"], "nowhere/ does not exist"),
        (["run", "demo", "--registry.enabled", "false"], "false belongs to no option: write a switch as --option=false"),
        (["frun"], 'Unknown command "frun". Did you mean "run"?'),
        (["sample", "--temperature", "-1"], "--temperature is '-1' but should be greater than or equal to 0."),
        (["evaluate", "--task", "lambada"], "--task lambada names no file: write --task lambada=FILE."),
        (["evaluate", "--text", "a", "--config", "demo"], "Give one of --text, --config and --data.source"),
        (["evaluate", "--stride", "-1"], "--stride is '-1' but should be greater than or equal to 0."),
        (["evaluate", "--task", "lambada=a", "--against", "b"], "--task brings its own text and has no --against"),
        (["evaluate", "--output", "nowhere/a.json"], "The folder nowhere does not exist: create it"),
        (["sample", "--model", "nobody"], "There is no run, folder or registry URI 'nobody'."),
        (["sample", "--model", "models:/nobody@candidate", "x"], "models:/nobody@candidate is not in the registry"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gpt2flow(capsys, *arguments)
    assert done.code == 2
    assert sentence in done.err
    assert "Traceback" not in done.err + done.out


def test_a_mistake_in_the_config_is_answered_in_about_a_second() -> None:
    before = os.times()
    done = in_a_process("run", "demo", "--train.steps", "-3")
    after = os.times()  # of processor time, since a shared machine may be slow
    assert after.children_user + after.children_system - before.children_user - before.children_system < 3
    assert (done.returncode, "--train.steps is '-3'" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_no_runs_yet_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPT2FLOW_HOME", str(tmp_path / "empty"))
    assert "gpt2flow run configs/demo.yaml" in gpt2flow(capsys, "runs").out


def test_a_prefect_server_that_is_not_there_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    started = time.perf_counter()
    done = in_a_process("run", "demo", cwd=tmp_path)
    assert time.perf_counter() - started < PATIENCE  # so long a server of our own is waited for
    assert done.returncode == 2
    assert "Prefect's server http://127.0.0.1:9/api does not answer: start it, or unset PREFECT_API_URL." in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_plan_in_a_new_workspace_says_that_it_does_not_fit_and_warns_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2FLOW_HOME", str(tmp_path / "new"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "new" / "prefect"))
    done = in_a_process("plan", "demo", "--train.memory_limit", "100MB")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "4 blocks of width 128" in done.stdout
    assert "Warning" not in done.stderr
