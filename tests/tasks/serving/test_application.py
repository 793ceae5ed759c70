"""The application answers as OpenAI's does, follows the alias, and lives whatever comes in.

Also tests `tasks.serving.completion_answer`, `tasks.serving.refusal`, `tasks.serving.request_body`.
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from fastapi.testclient import TestClient
from mlflow import MlflowClient

from configs.generation import CompletionSettings
from gpt2core import load_model, load_tokenizer
from gpt2core.generation.completion import complete
from gpt2core.weights.loading import save_model
from tasks.serving import application, served_model, turnstile
from tasks.serving.application import make_application
from tasks.serving.served_model import ServedModel
from tasks.tracking import registered_model
from tasks.tracking.mlflow_mirror import create_experiment
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    """A model's folder."""
    return golden / "openai-tiny" / "models" / "tiny"


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    """Asks an application that serves the folder."""
    with TestClient(make_application(ServedModel(str(folder), "float32")), raise_server_exceptions=False) as found:
        yield found


def test_completions_are_those_of_the_model(client: TestClient, folder: Path) -> None:
    body = {"prompt": ["Hello", "The"], "max_tokens": 6, "temperature": 0.8, "seed": 3, "n": 2, "logprobs": 1}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200
    settings = CompletionSettings(max_new_tokens=6, temperature=0.8, top_k=0, seed=3, samples=2, log_probabilities=True)
    wanted = list(complete(load_model(folder), load_tokenizer(folder), ["Hello", "The"], settings))
    choices = answer.json()["choices"]
    assert [choice["text"] for choice in choices] == [each.text for each in wanted]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert choices[0]["logprobs"]["token_logprobs"] == pytest.approx(wanted[0].log_probabilities)
    assert answer.json()["usage"]["completion_tokens"] == sum(len(each.tokens) for each in wanted)


def choices_of(client: TestClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of all events of a stream, which ends as OpenAI's does."""
    lines = client.post("/v1/completions", json={**body, "stream": True}).text.split("\n\n")
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event)["choices"][0] for event in events[:-1]]


@pytest.mark.parametrize(
    "given", [{}, {"stop": ["e"], "max_tokens": 60}, {"prompt": "é", "max_tokens": 40, "temperature": 1.5}]
)
def test_the_pieces_of_a_stream_are_the_whole_answer(client: TestClient, given: dict[str, Any]) -> None:
    body = {"prompt": "Hello", "max_tokens": 12, "temperature": 0.9, "seed": 5, "echo": True, "logprobs": 3, **given}
    (whole,) = client.post("/v1/completions", json=body).json()["choices"]
    found = choices_of(client, body)
    assert "".join(choice["text"] for choice in found) == whole["text"]
    assert [choice["finish_reason"] for choice in found] == [None] * (len(found) - 1) + [whole["finish_reason"]]
    for name, values in whole["logprobs"].items():
        assert [value for choice in found for value in choice["logprobs"][name]] == values


def test_the_likeliest_tokens_stand_beside_the_drawn_one(client: TestClient, folder: Path) -> None:
    body = {"prompt": "He", "max_tokens": 9, "temperature": 1.0, "seed": 8, "logprobs": 4, "echo": True}
    logs = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    (same,) = complete(model, tokenizer, ["He"], CompletionSettings(max_new_tokens=9, temperature=1.0, top_k=0, seed=8))
    ids = tokenizer.encode("He") + same.tokens
    assert (logs["token_logprobs"][0], logs["top_logprobs"][0]) == (None, None)
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).log_softmax(-1)[0]
    for place in range(1, len(ids)):
        found, best = logs["top_logprobs"][place], wanted[place - 1].topk(4)
        assert logs["token_logprobs"][place] == pytest.approx(float(wanted[place - 1, ids[place]]), abs=1e-4)
        assert list(found.values())[:4] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert found[logs["tokens"][place]] == logs["token_logprobs"][place]
        assert len(found) == (4 if ids[place] in best.indices else 5)


def test_without_an_echo_places_begin_behind_the_prompt_and_none_may_be_asked_for(client: TestClient) -> None:
    body = {"prompt": "Hello", "max_tokens": 3, "seed": 8, "logprobs": 0}
    (choice,) = client.post("/v1/completions", json=body).json()["choices"]
    assert choice["logprobs"]["text_offset"][0] == len("Hello")
    assert [len(found) for found in choice["logprobs"]["top_logprobs"]] == [1, 1, 1]
    assert client.post("/v1/completions", json={"prompt": "Hello", "max_tokens": 3}).json()["choices"][0]["logprobs"] is None


def test_what_is_wrong_with_a_stream_is_said_by_its_status(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"prompt": "a " * 4000, "stream": True})
    assert answer.status_code == 400
    assert "context" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"{", 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b'{"prompt": "\xff"}', 400, "not JSON in UTF-8"),
        (b"[" * 200_000, 400, "not JSON"),
        (b'{"prompt": ' + b"9" * 9000 + b"}", 400, ""),
        (b'{"prompt": "\\ud800"}', 400, "prompt"),
        (b'{"prompt": "' + b"a " * 300_000 + b'"}', 400, "context"),
        (b'{"prompt": "' + b"a" * (1 << 20) + b'"}', 413, "more than 1,048,576 bytes"),
        (b'{"prompt": "a", "best_of": 3}', 400, "'best_of' is not a parameter"),
        (b'{"prompt": "a", "model": "another"}', 404, "'another' is not served here"),
    ],
)
def test_bad_requests_get_a_sentence_and_the_next_one_is_answered(
    client: TestClient, content: bytes, status: int, words: str
) -> None:
    answer = client.post("/v1/completions", content=content)
    assert answer.status_code == status, answer.text
    message = answer.json()["error"]["message"]
    assert words in message
    assert "Traceback" not in message and "/" not in message
    assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_other_paths_and_methods_are_named(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/v1/nothing").json()["error"]["message"].startswith("Not Found: GET /v1/nothing")
    assert client.get("/v1/completions").status_code == 405


def test_a_key_is_asked_for_where_there_is_one(folder: Path) -> None:
    asks = TestClient(make_application(ServedModel(str(folder), "float32"), key="secret"))
    assert asks.post("/v1/completions", json={"prompt": "a"}).status_code == 401
    assert asks.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert asks.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_too_many_who_wait_are_sent_away_and_the_others_are_answered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnstile, "WAITING", 2)
    entered, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> dict[str, str]:
        entered.set()
        go_on.wait(60)
        return {"done": "yes"}

    monkeypatch.setattr(application, "whole_answer", slow)
    found: list[int] = []
    with TestClient(make_application(ServedModel(str(folder), "float32"))) as asks:

        def ask() -> None:
            found.append(asks.post("/v1/completions", json={"prompt": "a"}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(6)]
        threads[0].start()
        assert entered.wait(60)
        for thread in threads[1:]:
            thread.start()
        while len(found) < 3:
            threads[1].join(0.01)
        go_on.set()
        for thread in threads:
            thread.join(60)
    assert sorted(found) == [200, 200, 200, 503, 503, 503]


def test_a_served_alias_is_followed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_model, "LOOK_INTERVAL", -1.0)
    prepare_databases(Workspace.current().create())
    registry, tokenizer = MlflowClient(), load_tokenizer(folder)
    registry.create_registered_model("followed")
    for number in (1, 2):
        model = load_model(folder).initialise(number)
        save_model(model, tmp_path / str(number) / "model", end_of_text=tokenizer.end_of_text)
        tokenizer.save(tmp_path / str(number) / "model")
        with mlflow.start_run(experiment_id=_experiment(registry)):
            artifacts, code = {"model": str(tmp_path / str(number) / "model")}, str(Path(registered_model.__file__))
            logged = mlflow.pyfunc.log_model(name="model", python_model=code, artifacts=artifacts, pip_requirements=[])
        registry.create_model_version("followed", logged.model_uri)
    registry.set_registered_model_alias("followed", "champion", "1")
    asks = TestClient(make_application(ServedModel("models:/followed@champion", "float32")))
    body = {"prompt": "Hello", "max_tokens": 8, "seed": 1}
    before = asks.post("/v1/completions", json=body).json()
    registry.set_registered_model_alias("followed", "champion", "2")
    after = asks.post("/v1/completions", json=body).json()
    assert (before["model"], after["model"]) == ("models:/followed/1", "models:/followed/2")
    assert before["choices"] != after["choices"]
    registry.delete_registered_model_alias("followed", "champion")
    assert asks.post("/v1/completions", json=body).json()["choices"] == after["choices"]


def _experiment(registry: MlflowClient) -> str:
    found = registry.get_experiment_by_name("served")
    return str(found.experiment_id) if found else create_experiment(registry, "served")
