"""`gpt2flow sample` from its options to what it prints and writes, on the tiny model.

Also tests `tasks.models.sample`.
"""

import io
import json
import threading
import time
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from configs.generation import CompletionSettings
from flows.cli.main import app
from flows.pages.samples import DELIMITER
from gpt2core import load_model, load_tokenizer
from gpt2core.generation.completion import complete
from gpt2core.weights.loading import save_model
from tasks.models.sample import follow_run
from tasks.runs.run_folder import RunFolder
from tasks.runs.run_record import RunRecord
from tasks.workspace.folders import Workspace

SETTINGS = CompletionSettings(max_new_tokens=12, seed=3)


@pytest.fixture(scope="module")
def tiny(golden: Path) -> Path:
    return golden / "openai-tiny" / "models" / "tiny"


def expected(tiny: Path, prompt: str, samples: int = 1) -> list[str]:
    settings = SETTINGS.model_copy(update={"samples": samples})
    return [one.text for one in complete(load_model(tiny), load_tokenizer(tiny), [prompt], settings)]


def run(tiny: Path, *arguments: str) -> None:
    import flows.cli.main  # noqa: F401

    given = [] if "--max_new_tokens" in arguments else ["--max_new_tokens", "12"]
    command = ["sample", "--model", str(tiny), "--seed", "3", *given, *arguments]
    app(command, exit_on_error=False, print_error=False, result_action="return_value")


def test_one_prompt_is_printed_with_its_completion(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny, "Hello")
    assert capsys.readouterr().out == "Hello" + expected(tiny, "Hello")[0] + "\n"


def test_include_prefix_false_leaves_the_prompt_out(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny, "lo", "--prefix", "Hel", "--include_prefix=false")
    assert capsys.readouterr().out == expected(tiny, "Hello")[0] + "\n"


def test_several_samples_are_divided_as_gpt_2_simple_does(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny, "Hello", "--samples", "3")
    shown = capsys.readouterr().out.removesuffix("\n").split(f"\n{DELIMITER}\n")
    assert shown == ["Hello" + text for text in expected(tiny, "Hello", 3)]


def test_prompts_come_from_arguments_a_file_and_the_standard_input(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("third é\n\nfourth\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"second\r\n")))
    run(tiny, "first", "--file", "-", "--format", "jsonl", "--log_probabilities")
    run(tiny, "--file", str(tmp_path / "prompts.txt"), "--format", "jsonl", "--log_probabilities")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prompt"] for row in rows] == ["first", "second", "third é", "fourth"]
    assert [row["text"] for row in rows] == [expected(tiny, row["prompt"])[0] for row in rows]
    assert all(len(row["tokens"]) == len(row["log_probabilities"]) for row in rows)


def test_the_output_file_holds_what_would_be_printed(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny, "Hello", "You", "--format", "table")
    printed = capsys.readouterr().out
    run(tiny, "Hello", "You", "--format", "table", "--output", str(tmp_path / "samples.txt"))
    assert (tmp_path / "samples.txt").read_text(encoding="utf-8") == printed
    assert "Hello" in printed


def test_a_conversation_goes_on_until_there_is_no_more_input(
    tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nYou\n"))
    run(tiny, "--interactive")
    shown = capsys.readouterr().out
    assert shown == "".join(f"> {prompt}{expected(tiny, prompt)[0]}\n" for prompt in ("Hello", "You")) + "> \n"


def test_text_beyond_the_context_is_announced_once(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tiny, "Hello", "You", "--max_new_tokens", "60")
    assert capsys.readouterr().err.count("Text beyond the context of 32 tokens goes on from its newest 16 to 32.") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--file", "nowhere.txt"], "nowhere.txt cannot be read (No such file or directory)"),
        (["ab\udcff"], "The prompt's character 3 is half of a pair"),
        (["x", "--output", "a.txt", "--interactive"], "--output waits for the last sample"),
        (["x", "--output", "nowhere/a.txt"], "The folder nowhere does not exist"),
        (["x", "--samples", "1000000000"], "1,000,000,000 samples of up to 12 tokens need 1.48 TB"),
        (["x", "--follow", "demo"], "--follow demo takes that run's checkpoints"),
        (["x", "--weights", "int8"], "weights 'int8' need a CPU, a C compiler and an n_embd that is a multiple of 64"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_sentence(tiny: Path, arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        run(tiny, *arguments)
    assert sentence in str(caught.value)


def test_an_empty_or_damaged_prompt_file_is_refused(tiny: Path, tmp_path: Path) -> None:
    for content, sentence in ((b"\n\n", "holds no prompt"), (b"ab\xff", "is not UTF-8 at byte 2")):
        (tmp_path / "prompts.txt").write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            run(tiny, "--file", str(tmp_path / "prompts.txt"))


def test_each_new_checkpoint_of_a_run_is_sampled_until_the_run_ends(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2FLOW_HOME", str(tmp_path))
    folder = RunFolder(Workspace.current().create().runs / "followed-00000000")
    folder.path.mkdir()
    folder.write_record(RunRecord(id=folder.id, store="", settings={"name": "followed", "model": {"base": str(tiny)}}))
    model, tokenizer = load_model(tiny), load_tokenizer(tiny)

    def save(step: int) -> None:
        with torch.no_grad():
            model.wte.weight.add_(0.01)
        unfinished = folder.checkpoints / f"step-{step:08d}.tmp"
        save_model(model, unfinished)
        tokenizer.save(unfinished)
        (unfinished / "manifest.json").write_text("{}")
        unfinished.rename(folder.checkpoints / f"step-{step:08d}")

    def train() -> None:
        with folder.locked():
            started.set()
            for step in (20, 30):
                time.sleep(1.5)
                save(step)
            time.sleep(0.5)

    save(5)
    save(10)
    started, found = threading.Event(), []
    training = threading.Thread(target=train)
    training.start()
    started.wait()
    for step, completions in follow_run("followed", ["Hello"], SETTINGS):
        found.append((step, completions[0].text))
    training.join()
    assert [step for step, _ in found] == [10, 20, 30]
    assert found[-1][1] == next(complete(model, tokenizer, ["Hello"], SETTINGS)).text
