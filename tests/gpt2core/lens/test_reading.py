"""A lens reading as values, pages and pictures."""

import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from configs.errors import UserError
from configs.generation import LensSettings
from configs.schema import TrainSettings
from gpt2core import GPT2, load_model, load_tokenizer
from gpt2core.lens import pictures
from gpt2core.lens.lens import Lens
from gpt2core.lens.maps import (
    guesses_across,
    predictions_map,
    rankings_across,
    rankings_map,
    saliency_map,
    strength_of_rank,
    watched_across,
    watched_map,
)
from gpt2core.lens.pages import render_across, render_reading
from gpt2core.lens.pictures import draw_maps, drawable
from gpt2core.lens.reading import LensReading, load_reading, read_lens, read_lens_greedily, save_reading
from gpt2core.model.config import GPT2Config
from gpt2core.store.token_store import TokenStore
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import Trainer

SETTINGS = LensSettings(max_new_tokens=5)
PROMPT = "<b>不 & x</b>"


@pytest.fixture(scope="module")
def tiny(golden: Path) -> tuple[GPT2, Tokenizer]:
    folder = golden / "openai-tiny" / "models" / "tiny"
    return load_model(folder), load_tokenizer(folder)


@pytest.fixture(scope="module")
def reading(tiny: tuple[GPT2, Tokenizer]) -> LensReading:
    return read_lens(*tiny, PROMPT, SETTINGS, watch=["a", "<"])


@pytest.fixture(scope="module")
def history(tiny: tuple[GPT2, Tokenizer], reading: LensReading) -> dict[int, LensReading]:
    """The model before and after its last block was taken away, as if it were two steps of one run."""
    model = load_model(Path(__file__).parents[2] / "golden" / "openai-tiny" / "models" / "tiny")
    for parameter in model.h[-1].parameters():
        parameter.data.zero_()
    return {0: read_lens(model, tiny[1], PROMPT, SETTINGS, watch=["a", "<"]), 1500: reading}


def visible_text(page: str) -> list[str]:
    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_data = seen.append  # type: ignore[method-assign]
    parser.feed(page)
    return [text.strip() for text in seen if text.strip()]


def require_self_contained(page: str) -> None:
    assert not re.search(r"https?:|src=|@import|<link|url\(", page)


def test_every_picture_has_a_row_for_the_embedding_and_each_layer(reading: LensReading) -> None:
    assert reading.layer_names == ["embedding", "layer 1", "layer 2", "layer 3"]
    for map_ in (predictions_map(reading), rankings_map(reading), watched_map(reading)):
        assert map_.rows == reading.layer_names
        assert len(map_.cells) == 4


def test_greedy_text_is_the_last_layers_first_choice(reading: LensReading) -> None:
    assert reading.rankings[-1] == [1] * 5
    assert [reading.best(3, column).text for column in range(5)] == reading.columns


def test_a_guess_and_a_rank_tell_the_same(reading: LensReading) -> None:
    for column, layers in enumerate(reading.predictions):
        for layer, guesses in enumerate(layers):
            rank = reading.rankings[layer][column]
            assert rank > len(guesses) or guesses[rank - 1].text == reading.columns[column]


def test_saliency_shares_of_all_tokens_before_sum_to_one(reading: LensReading) -> None:
    for column, shares in enumerate(reading.saliency):
        assert len(shares) == len(reading.before) + column
        assert sum(shares) == pytest.approx(1.0, abs=1e-5)


def test_the_prompts_own_tokens_can_be_looked_at(tiny: tuple[GPT2, Tokenizer], reading: LensReading) -> None:
    earlier = read_lens(*tiny, PROMPT, SETTINGS, position=4)
    assert earlier.before + earlier.columns == reading.before + reading.columns
    assert len(earlier.before) == 4
    assert [ranks[-5:] for ranks in earlier.rankings] == reading.rankings


def test_a_reading_survives_its_file(reading: LensReading, tmp_path: Path) -> None:
    save_reading(reading, tmp_path / "lens.json")
    assert load_reading(tmp_path / "lens.json") == reading
    (tmp_path / "lens.json").write_text("{}")
    with pytest.raises(UserError, match="is no lens reading"):
        load_reading(tmp_path / "lens.json")


def test_the_page_needs_no_network_escapes_what_it_shows_and_holds_every_value(reading: LensReading) -> None:
    page = render_reading(reading, "Layers of <mine>")
    require_self_contained(page)
    assert "<b>不" not in page
    assert "Layers of &lt;mine&gt;" in page
    text = visible_text(page)
    assert all(str(rank) in text for ranks in reading.rankings for rank in ranks)
    for layers in reading.predictions:
        for guess in layers[2]:
            assert f"{guess.text} {guess.probability:.0%}".strip() in text


def test_the_page_across_training_holds_the_pictures_of_every_step(history: dict[int, LensReading]) -> None:
    page = render_across(history, "Across")
    require_self_contained(page)
    text = visible_text(page)
    assert {"step 0", "step 1,500"} <= set(text)
    guesses = guesses_across(history)
    assert guesses.columns == ["0", "1,500"]
    for layer in range(4):
        for column, reading in enumerate(history.values()):
            assert guesses.cells[layer][column].label.startswith(reading.predictions[0][layer][0].text)
            assert watched_across(history)[1].cells[layer][column].label == str(reading.watched_rankings[layer][1])


def test_a_step_whose_last_block_does_nothing_shows_the_same_in_the_last_two_rows(history: dict[int, LensReading]) -> None:
    first, _ = rankings_across(history)
    assert [cell.label for cell in first.cells[2]] == [cell.label for cell in first.cells[3]]


def test_pictures_are_drawn_without_a_word_of_warning(
    reading: LensReading, history: dict[int, LensReading], tmp_path: Path
) -> None:
    maps = [predictions_map(reading), rankings_map(reading), watched_map(reading), saliency_map(reading)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_maps(maps, tmp_path / "one.png", title="$x$ 中 😀")
        draw_maps([guesses_across(history), *rankings_across(history)], tmp_path / "across.png")
    for name in ("one.png", "across.png"):
        picture = matplotlib.image.imread(tmp_path / name)
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.05


def test_a_long_prompt_goes_on_below_instead_of_beyond_the_picture(tiny: tuple[GPT2, Tokenizer], tmp_path: Path) -> None:
    long = read_lens(*tiny, "x" * 27, SETTINGS, position=1)
    columns = rankings_map(long)
    wide = type(columns)("wide", columns.rows, columns.columns * 7, [row * 7 for row in columns.cells])
    draw_maps([columns], tmp_path / "short.png")
    draw_maps([wide], tmp_path / "long.png")
    short, long_picture = (matplotlib.image.imread(tmp_path / name).shape for name in ("short.png", "long.png"))
    assert long_picture[1] < 16 * 130  # pixels; 217 columns side by side would take four times as many
    assert long_picture[0] > 3 * short[0]


def test_characters_without_a_glyph_are_shown_by_their_code_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "families", lambda: (pictures.OWN,))
    assert drawable("an 中 x") == "an U+4E2D x"


def test_a_chinese_font_that_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    font_manager.fontManager.addfont(font_with("中", "SimHei", tmp_path / "one.ttf"))
    added = font_manager.fontManager.ttflist[-1]
    pictures.families.cache_clear()
    try:
        assert drawable("an 中 國") == "an 中 U+570B"
    finally:
        font_manager.fontManager.ttflist.remove(added)
        pictures.families.cache_clear()


def font_with(character: str, name: str, path: Path) -> Path:
    """A font of one square."""
    pen = TTGlyphPen(None)
    for number, corner in enumerate([(0, 0), (0, 700), (700, 700), (700, 0)]):
        (pen.lineTo if number else pen.moveTo)(corner)
    pen.closePath()
    glyph = pen.glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "square"])
    font.setupCharacterMap({ord(character): "square"})
    font.setupGlyf({".notdef": glyph, "square": glyph})
    font.setupHorizontalMetrics({".notdef": (800, 0), "square": (800, 0)})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": name, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


def test_colour_falls_with_the_logarithm_of_the_rank() -> None:
    assert strength_of_rank(1) == 1.0
    assert strength_of_rank(5000) == strength_of_rank(9999) == 0.0
    assert strength_of_rank(10) - strength_of_rank(100) == pytest.approx(strength_of_rank(100) - strength_of_rank(1000))


@pytest.mark.parametrize(
    ("prompt", "options", "sentence"),
    [
        ("x" * 30, {}, "The prompt has 30 tokens and the context 32, so the lens can follow 2"),
        ("a\ud83d", {}, "The prompt's character 2 is half of a pair"),
        ("x", {"watch": ["ab"]}, "'ab' is 2 tokens"),
        ("x", {"watch": [""]}, "'' is 0 tokens"),
        ("xyz", {"position": 0}, "Position 0 cannot be looked at: give 1 .* to 3"),
        ("xyz", {"position": 4}, "Position 4 cannot be looked at"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    tiny: tuple[GPT2, Tokenizer], prompt: str, options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        read_lens(*tiny, prompt, SETTINGS, **options)  # type: ignore[arg-type]


def test_weights_that_are_no_numbers_are_named(golden: Path, tiny: tuple[GPT2, Tokenizer]) -> None:
    model = load_model(golden / "openai-tiny" / "models" / "tiny")
    model.h[1].mlp.c_proj.bias.data[3] = float("nan")
    with pytest.raises(UserError, match=r"h\.1\.mlp\.c_proj\.bias"):
        read_lens_greedily(model, tiny[1], "x", 3)
    with pytest.raises(UserError, match="What layer 2 computes is not finite"):
        Lens(model, [1, 2])


def test_an_empty_prompt_is_the_beginning_of_a_document(tiny: tuple[GPT2, Tokenizer]) -> None:
    assert read_lens(*tiny, "", SETTINGS).before == ["<|endoftext|>"]


def test_looking_while_a_run_goes_on_changes_no_bit_of_its_weights(store: TokenStore, tokenizer: Tokenizer) -> None:
    def trained(look: bool) -> GPT2:
        settings = TrainSettings(steps=6, batch_size=2, learning_rate=1e-2, warmup_steps=1)
        model = GPT2(GPT2Config(300, 16, 16, 2, 2, dropout=0.1)).initialise(0)
        trainer = Trainer(model, Batches(store.stream("train"), 16, 2, 0), settings)
        for step in range(7):
            trainer.run_until(step)
            if look:
                read_lens_greedily(trainer.model, tokenizer, "The function", 4)
        return model

    for one, other in zip(trained(look=True).parameters(), trained(look=False).parameters(), strict=True):
        assert torch.equal(one, other)


def test_while_a_run_goes_on_a_long_prompt_counts_with_its_end(tiny: tuple[GPT2, Tokenizer]) -> None:
    reading = read_lens_greedily(*tiny, "a" * 100 + "xyz", new=40)
    assert len(reading.columns) == 16
    assert reading.before == ["a"] * 13 + ["x", "y", "z"]
