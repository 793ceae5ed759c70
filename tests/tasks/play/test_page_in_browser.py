"""The page clicked through in a real browser: everything works with no network, and a phone is wide enough.

Also tests `tasks.play.page`.
"""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import pytest
from browsing import Tab, tab
from mlflow import MlflowClient
from serving import served

from gpt2core.generation.sampling import generate_response
from tasks.play.application import make_play
from tasks.serving.served_model import ServedModel

pytestmark = pytest.mark.slow


@pytest.fixture
def page(browser: list[str], champion: ServedModel, tmp_path: Path) -> Iterator[Tab]:
    """Opened in a window of a usual size; at the end nothing went wrong in it and nothing was fetched from elsewhere."""
    with served(make_play(champion, "float32"), 38511) as address, tab(browser, tmp_path / "chromium") as found:
        found.look_as(1200, dark=False)
        found.open(address)
        yield found
        assert found.errors == []
        assert {request.partition("/play")[0].partition("/v1")[0].rstrip("/") for request in found.requests} == {address}


def rests(page: Tab, button: str) -> None:
    """Wait until what the button began is done."""
    page.wait_for(f"!document.querySelector('{button}').disabled")


def test_writing_is_streamed_coloured_by_probability_and_shows_alternatives(page: Tab) -> None:
    page.click("[data-for=prompt]:nth-child(2)")
    page.write("#seed", "5")
    page.evaluate(
        "(() => { const s = document.querySelector('#length'); s.value = 12; s.dispatchEvent(new Event('input')); })()"
    )
    assert page.text("[data-setting=length] output") == "12"
    page.click("#go")
    page.wait_for("document.querySelector('#written').textContent.startsWith('12 tokens')")
    first = page.text("#output")
    assert "seed 5" in page.text("#written")
    shares = page.evaluate("[...document.querySelectorAll('.token')].map(token => Number(token.style.getPropertyValue('--s')))")
    assert len(set(shares)) > 3
    assert all(0 <= share <= 1 for share in shares)
    page.hover(".token:nth-child(4)")
    lines = page.text("#hint").splitlines()
    assert len(lines) >= 5
    assert all(line.endswith("%") for line in lines)
    page.click("#go")
    rests(page, "#go")
    assert page.text("#output") == first


def test_stop_ends_the_writing(page: Tab) -> None:
    page.evaluate("document.querySelector('#length').value = 400")
    page.click("#go")
    page.wait_for("document.querySelectorAll('.token').length > 2")
    page.evaluate("document.querySelector('#stop').click()")  # a tiny model may be done before a mouse is there
    rests(page, "#go")
    assert page.text("#written").startswith(("stopped", "400 tokens"))


def test_chat_lines_are_answered_and_forgotten(page: Tab, champion: ServedModel) -> None:
    page.click("#tab-chat")
    page.write("#seed", "3")
    page.write("#line", "<b>The</b> king")
    page.click("#send")
    rests(page, "#send")
    loaded = champion.current()
    wanted = generate_response(loaded.model, loaded.tokenizer, "<b>The</b> king\n", 60, 0.8, seed=3).strip()
    assert page.evaluate("[...document.querySelectorAll('#lines p')].map(line => line.textContent)") == [
        "<b>The</b> king",
        wanted or "(nothing)",
    ]
    page.click("#forget")
    assert page.evaluate("document.querySelectorAll('#lines p').length") == 0


def test_the_lens_shows_its_page_and_says_what_cannot_be_watched(page: Tab) -> None:
    page.click("#tab-lens")
    page.write("#seen", "The king")
    page.write("#followed", "4")
    page.click("#look")
    page.wait_for("document.querySelector('iframe').contentDocument?.querySelectorAll('.heat td').length > 10")
    assert "What each layer would say" in page.evaluate("document.querySelector('iframe').contentDocument.body.innerText")
    for width in (390, 1200):
        page.look_as(width, dark=False)
        page.wait_for(
            "(({ contentDocument, offsetHeight }) => Math.abs(contentDocument.body.offsetHeight - offsetHeight) < 8)"
            "(document.querySelector('iframe'))"
        )
    assert page.errors == []
    page.write("#watched", "two words")
    page.click("#look")
    page.wait_for("!document.querySelector('#wrong').hidden")
    assert "the lens watches single ones" in page.text("#wrong")
    page.errors.clear()  # the browser notes that the answer was 400


def test_a_duel_names_nobody_before_the_vote_and_the_vote_is_kept(page: Tab, rivals: str) -> None:
    page.click("#tab-duel")
    page.click("#fight")
    page.wait_for("!document.querySelector('#texts').hidden")
    assert rivals not in page.text("#texts")
    page.click("[data-vote=right]")
    page.wait_for("!document.querySelector('#tally').hidden")
    told = page.text("#name-left") + page.text("#name-right")
    assert all(f"{role}, models:/{rivals}/{number}" in told for number, role in enumerate(("champion", "candidate"), 1))
    experiment = MlflowClient().get_experiment_by_name(f"votes/{rivals}")
    (run,) = MlflowClient().search_runs([experiment.experiment_id])
    assert run.data.metrics["preference"] in (0.0, 1.0)
    assert "Votes so far" in page.text("#tally")


@pytest.mark.parametrize("name", ["write", "chat", "lens", "duel"])
def test_a_phone_is_wide_enough_and_both_themes_are_there(page: Tab, tmp_path: Path, name: str) -> None:
    page.click(f"#tab-{name}")
    found = {}
    for dark in (False, True):
        page.look_as(390, dark)
        page.picture(tmp_path / "phone.png")
        found[dark] = float(matplotlib.image.imread(tmp_path / "phone.png")[..., :3].mean())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert found[True] < 0.35
    assert found[False] > 0.75
