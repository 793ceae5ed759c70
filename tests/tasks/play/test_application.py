"""What the page asks for: strict requests, the same texts as elsewhere, blind duels and votes that are kept.

Also tests `tasks.play.play_request`, `tasks.play.duels`, `tasks.play.votes`, `tasks.play.lens`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from configs.generation import CompletionSettings, SampleSettings
from gpt2core.generation.completion import complete
from gpt2core.generation.inference import InferenceModel
from gpt2core.generation.sampling import generate_response
from gpt2core.lens.pages import render_reading
from gpt2core.lens.reading import read_lens
from tasks.play import duels
from tasks.play.application import make_play
from tasks.play.duels import Arena
from tasks.play.play_request import DuelRequest
from tasks.serving.refusal import RefusedRequestError
from tasks.serving.served_model import ServedModel
from tasks.serving.turnstile import ClientGoneError


@pytest.fixture
def page(champion: ServedModel) -> Iterator[TestClient]:
    with TestClient(make_play(champion, "float32"), base_url="http://127.0.0.1", raise_server_exceptions=False) as found:
        yield found


def ask(page: TestClient, what: str, **body: object) -> Any:
    answer = page.post(f"/play/{what}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_chat_line_is_answered_by_generate_response(page: TestClient, champion: ServedModel) -> None:
    found = ask(page, "chat", lines=["The king", "and I"], length=9, temperature=0.6, seed=4)
    loaded = champion.current()
    wanted = generate_response(loaded.model, loaded.tokenizer, "The king\nand I\n", 9, 0.6, seed=4)
    assert found == {"text": wanted}


def test_the_lens_page_is_that_of_the_lens_whatever_weights_are_served(
    page: TestClient, champion: ServedModel, rivals: str
) -> None:
    body = {"prompt": "The king", "tokens": 3, "watch": ["a"]}
    found, loaded = ask(page, "lens", **body)["page"], champion.current()
    settings = SampleSettings(max_new_tokens=3, temperature=0.0)
    reading = read_lens(loaded.model, loaded.tokenizer, "The king", settings, ["a"], top_k=5)
    assert found == render_reading(reading, f"The lens: {loaded.name}")
    small = ServedModel(f"models:/{rivals}@champion", "bfloat16")
    assert isinstance(small.current().model, InferenceModel)
    with TestClient(make_play(small), base_url="http://127.0.0.1") as other:
        assert ask(other, "lens", **body)["page"] == found


def test_a_duel_is_blind_and_its_vote_names_both_and_is_kept(page: TestClient, rivals: str, champion: ServedModel) -> None:
    sampling = {"max_tokens": 8, "temperature": 0.9, "top_k": 0, "seed": 6}
    first = ask(page, "duel", prompt="The king", **sampling)
    assert not re.search(f"champion|candidate|{rivals}", json.dumps(first))
    told = ask(page, "vote", duel=first["duel"], choice="left")
    loaded = champion.current()
    settings = CompletionSettings(max_new_tokens=8, temperature=0.9, top_k=0, seed=6)
    (wanted,) = complete(loaded.model, loaded.tokenizer, ["The king"], settings)
    own, other = first["texts"] if told["left"] == "champion" else reversed(first["texts"])
    assert own == wanted.text != other
    assert (told["champion"], told["candidate"]) == (f"models:/{rivals}/1", f"models:/{rivals}/2")
    assert told["votes"] == {"champion": 0, "candidate": 0, "equal": 0} | {told["left"]: 1}
    second = ask(page, "duel", prompt="The king", **sampling)
    votes = ask(page, "vote", duel=second["duel"], choice="equal")["votes"]
    assert votes == told["votes"] | {"equal": 1}

    client = MlflowClient()
    experiment = client.get_experiment_by_name(f"votes/{rivals}")
    (run,) = client.search_runs([experiment.experiment_id])
    value = 1.0 if told["left"] == "candidate" else 0.0
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "preference")] == [value, 0.5]
    assert run.data.metrics["candidate_share"] == (value + 0.5) / 2
    files = [file.path for file in client.list_artifacts(run.info.run_id, "votes")]
    assert sorted(files) == sorted(f"votes/{each['duel']}.json" for each in (first, second))
    kept = json.loads(Path(client.download_artifacts(run.info.run_id, f"votes/{first['duel']}.json")).read_text())
    assert (kept["preferred"], kept["prompt"], kept["seed"], kept["choice"]) == (told["left"], "The king", 6, "left")
    assert kept["texts"] == {told["left"]: first["texts"][0]} | kept["texts"]


def test_a_duel_has_one_vote_and_one_that_mlflow_did_not_take_may_be_given_again(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    duel = ask(page, "duel", prompt="The king", max_tokens=1)["duel"]
    with monkeypatch.context() as away:
        away.setattr(MlflowClient, "log_dict", lambda *_: (_ for _ in ()).throw(MlflowException("the server is away")))
        lost = page.post("/play/vote", json={"duel": duel, "choice": "right"})
    assert lost.status_code == 503
    assert "the server is away" in lost.json()["error"]["message"]
    ask(page, "vote", duel=duel, choice="right")
    assert page.post("/play/vote", json={"duel": duel, "choice": "right"}).status_code == 409


def test_sides_are_drawn_and_the_oldest_open_duels_are_forgotten(rivals: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duels, "MOST_OPEN", 30)
    arena = Arena(f"models:/{rivals}@champion", "float32")
    fought = [arena.fight(DuelRequest(prompt="The", max_tokens=1), lambda: None) for _ in range(40)]
    assert {duel.left for duel in fought} == {"champion", "candidate"}
    for duel in fought[:10]:
        with pytest.raises(RefusedRequestError, match="no such duel"):
            arena.take(duel.number)
    assert [arena.take(duel.number) for duel in fought[10:]] == fought[10:]


def test_chat_and_duel_end_at_the_token_behind_which_nobody_waits(rivals: str, champion: ServedModel) -> None:
    computed: list[None] = []

    def require_client() -> None:
        computed.append(None)
        if len(computed) == 3:
            raise ClientGoneError

    loaded = champion.current()
    with pytest.raises(ClientGoneError):
        generate_response(loaded.model, loaded.tokenizer, "The", 30, after_step=require_client)
    assert len(computed) == 3
    computed.clear()
    with pytest.raises(ClientGoneError):
        Arena(f"models:/{rivals}@champion", "float32").fight(DuelRequest(prompt="The"), require_client)
    assert len(computed) == 3


@pytest.mark.parametrize(
    ("what", "body", "words"),
    [
        ("chat", {"lines": []}, "lines is"),
        ("chat", {"lines": ["a"], "length": 401}, "length is 401"),
        ("chat", {"lines": ["a"], "top_k": 4}, "'top_k' is not a parameter"),
        ("lens", {"prompt": "a", "tokens": 25}, "tokens is 25"),
        ("lens", {"prompt": "a " * 300}, "more than 200 tokens"),
        ("lens", {"prompt": "a", "watch": ["The king"]}, "the lens watches single ones"),
        ("duel", {"prompt": "a", "seed": -1}, "seed is -1"),
        ("duel", {"prompt": "\ud800"}, "prompt"),
        ("vote", {"duel": "a", "choice": "mine"}, "choice is 'mine'"),
        ("vote", {"duel": "never", "choice": "left"}, "no such duel"),
        ("vote", [], "no JSON object"),
    ],
)
def test_what_cannot_be_is_one_sentence(page: TestClient, what: str, body: object, words: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = page.post(f"/play/{what}", content=json.dumps(body), headers=headers)
    assert 400 <= answer.status_code < 500
    assert words in answer.json()["error"]["message"]


def test_without_two_versions_a_duel_says_what_is_missing(rivals: str, champion: ServedModel) -> None:
    MlflowClient().delete_registered_model_alias(rivals, "candidate")
    try:
        with TestClient(make_play(champion), base_url="http://localhost") as page:
            answer = page.post("/play/duel", json={"prompt": "a"})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith(f"No version of '{rivals}' is 'candidate'")
    finally:
        MlflowClient().set_registered_model_alias(rivals, "candidate", "2")


def test_other_pages_and_other_names_of_this_machine_get_nothing(page: TestClient) -> None:
    assert page.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert page.post("/v1/completions", content=b'{"prompt": "a"}', headers={"Content-Type": "text/plain"}).status_code == 415
    assert page.options("/play/duel", headers={"Origin": "http://evil.example"}).status_code == 405


def test_the_page_may_fetch_nothing_from_elsewhere(page: TestClient) -> None:
    answer = page.get("/")
    assert 'data-prompt="The"' in answer.text  # by which the model's run was evaluated
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["'](https?:)?//|@import|url\(""", answer.text)
