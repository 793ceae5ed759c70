"""Zero-shot tasks, against scoring each answer by a forward pass of its own and against lm-evaluation-harness."""

import json
import math
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from gpt2core.evaluation.likelihood import Question, question_of, score_questions
from gpt2core.evaluation.zero_shot import TASKS, run_task
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer
from gpt2core.weights.loading import load_model

FILES = {"lambada": "lambada.jsonl", "hellaswag": "hellaswag.jsonl", "cbt": "cbt.txt", "wikitext2": "text.txt"}


@pytest.fixture(scope="module")
def released(golden: Path) -> tuple[GPT2, Tokenizer]:
    folder = golden / "openai-tiny" / "models" / "tiny"
    return load_model(folder), load_tokenizer(folder)


def nats_of(model: GPT2, context: list[int], target: list[int]) -> float:
    """One forward pass for each token of the target, with what fits before the whole target."""
    ids = [*context, *target][-model.config.n_ctx - 1 :]
    first, nats = len(ids) - min(len(target), len(ids) - 1), 0.0
    for place in range(first, len(ids)):
        nats -= model(torch.tensor([ids[:place]]))[0, -1].double().log_softmax(-1)[ids[place]].item()
    return nats


def test_answers_are_scored_as_by_a_pass_for_each_token(released: tuple[GPT2, Tokenizer]) -> None:
    model, _ = released
    pairs = [Question([1, 2, 3], [4]), Question([7], [8, 9, 10, 11]), Question(list(range(60)), [5, 6])]
    pairs += [Question([1], list(range(100, 150))), *[Question([3, n], [n]) for n in range(20)]]
    with torch.no_grad():
        for pair, score in zip(pairs, score_questions(model, pairs), strict=True):
            assert score.nats == pytest.approx(nats_of(model, list(pair.context), list(pair.target)), rel=1e-5)


def test_spaces_at_the_cut_belong_to_the_answer(released: tuple[GPT2, Tokenizer]) -> None:
    _, tokenizer = released
    one, two = question_of(tokenizer, "the cat ", "sat"), question_of(tokenizer, "the cat", " sat")
    assert one == two
    assert [*one.context, *one.target] == tokenizer.encode("the cat sat")
    assert question_of(tokenizer, "", "x").context == [tokenizer.end_of_text]


def test_the_figures_are_those_of_lm_evaluation_harness(released: tuple[GPT2, Tokenizer], golden: Path) -> None:
    expected = json.loads((golden / "zero_shot" / "harness.json").read_text())
    for task, figures in expected.items():
        found = run_task(*released, task, golden / "zero_shot" / FILES[task]).figures
        assert {name: found[name] for name in figures} == pytest.approx(figures, rel=1e-4)


@torch.no_grad()
def test_cbt_takes_the_word_that_makes_the_sentence_likeliest(released: tuple[GPT2, Tokenizer], golden: Path) -> None:
    model, tokenizer = released
    file = golden / "zero_shot" / FILES["cbt"]
    right = []
    for block in file.read_text().strip().split("\n\n"):
        lines = [line.split(" ", 1)[1] for line in block.splitlines()]
        query, answer, _, words = lines[-1].split("\t")
        context = tokenizer.encode((" ".join(lines[:-1]) + " " + query.split("XXXXX")[0]).rstrip())
        tails = {word: tokenizer.encode(" " + word + query.split("XXXXX")[1]) for word in words.split("|")}
        right.append(min(tails, key=lambda word: nats_of(model, context, tails[word])) == answer)
    found = run_task(model, tokenizer, "cbt", file)
    assert found.items == len(right) == 3
    assert found.figures["accuracy"] == sum(right) / 3


@torch.no_grad()
def test_the_last_token_is_counted_as_openai_did(released: tuple[GPT2, Tokenizer], golden: Path) -> None:
    model, tokenizer = released
    file = golden / "zero_shot" / FILES["lambada"]
    encoded = [tokenizer.encode(json.loads(line)["text"]) for line in file.read_text().splitlines()]
    nats = [nats_of(model, ids[:-1], ids[-1:]) for ids in encoded]
    found = run_task(model, tokenizer, "lambada", file).figures
    assert found["last_token_perplexity"] == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_a_file_of_another_form_is_refused_in_a_sentence(released: tuple[GPT2, Tokenizer], tmp_path: Path, task: str) -> None:
    file = tmp_path / "file"
    file.write_text('{"no": 1}\n' if task in ("lambada", "hellaswag") else "21 no tabs\n" if task == "cbt" else " \n")
    with pytest.raises(UserError, match=f"does not have the form of {task}"):
        run_task(*released, task, file)


def test_unknown_tasks_and_missing_files_are_named(released: tuple[GPT2, Tokenizer], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no task 'lambda': known are lambada, hellaswag"):
        run_task(*released, "lambda", tmp_path)
    with pytest.raises(UserError, match="nothing is fetched"):
        run_task(*released, "lambada", tmp_path / "nowhere")
