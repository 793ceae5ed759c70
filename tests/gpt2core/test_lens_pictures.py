"""A lens reading as values, page and pictures."""

import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest

from configs.errors import UserError
from configs.schema import SampleSettings
from gpt2core import load_model, load_tokenizer
from gpt2core.lens_pictures import draw_rankings, draw_watched, drawable, render_page, strength
from gpt2core.lens_reading import LensReading, read_lens

SETTINGS = SampleSettings(max_new_tokens=5, temperature=0.0)
PROMPT = "<b>不 & x</b>"


@pytest.fixture(scope="module")
def reading(golden: Path) -> LensReading:
    return read(golden, PROMPT, watch=["a", "<"])


def read(golden: Path, prompt: str, **options: object) -> LensReading:
    folder = golden / "openai-tiny" / "models" / "tiny"
    return read_lens(load_model(folder), load_tokenizer(folder), prompt, SETTINGS, **options)  # type: ignore[arg-type]


def test_every_picture_has_a_row_for_the_embedding_and_each_layer(reading: LensReading) -> None:
    assert reading.layer_names == ["embedding", "layer 1", "layer 2", "layer 3"]
    for rows in (reading.predictions, reading.rankings, reading.guesses, reading.watched_rankings):
        assert len(rows) == 4


def test_greedy_text_is_the_last_layers_first_choice(reading: LensReading) -> None:
    assert reading.rankings[-1] == [1] * 5
    assert [guess.text for guess in reading.guesses[-1]] == reading.generated
    assert reading.predictions[-1][0].text == reading.generated[0]


def test_saliency_shares_of_all_tokens_before_sum_to_one(reading: LensReading) -> None:
    for column, shares in enumerate(reading.saliency):
        assert len(shares) == len(reading.prompt) + column
        assert sum(shares) == pytest.approx(1.0, abs=1e-5)


def test_the_page_needs_no_network_and_escapes_what_it_shows(reading: LensReading) -> None:
    page = render_page(reading, "Layers of <mine>")
    assert not re.search(r"https?:|src=|@import|<script|<link", page)
    assert "<b>" not in page
    assert "Layers of &lt;mine&gt;" in page
    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_data = seen.append  # type: ignore[method-assign]
    parser.feed(page)
    text = "".join(seen)
    for layer in reading.rankings:
        for rank in layer:
            assert str(rank) in text


def test_pictures_are_drawn_with_a_cell_for_each_rank(reading: LensReading, tmp_path: Path) -> None:
    for draw, name in ((draw_rankings, "rankings.png"), (draw_watched, "watched.png")):
        draw(reading, tmp_path / name)
        picture = matplotlib.image.imread(tmp_path / name)
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.05


def test_characters_without_a_glyph_are_shown_by_their_code_point() -> None:
    assert drawable("an 中 x") == "an U+4E2D x"


def test_colour_falls_with_the_logarithm_of_the_rank() -> None:
    assert strength(1) == 1.0
    assert strength(5000) == strength(9999) == 0.0
    assert strength(10) - strength(100) == pytest.approx(strength(100) - strength(1000))


@pytest.mark.parametrize(
    ("prompt", "watch", "sentence"),
    [
        ("x" * 30, [], "The prompt has 30 tokens and the context 32, so the lens can follow 2"),
        ("x", ["ab"], "'ab' is 2 tokens"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(golden: Path, prompt: str, watch: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read(golden, prompt, watch=watch)


def test_an_empty_prompt_starts_from_the_end_of_text(golden: Path) -> None:
    assert read(golden, "").prompt == ["<|endoftext|>"]
