"""The report on a run: what stands on the page, for runs of every state, and that it needs nothing but itself."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from configs.errors import UserError
from tasks.reports.charts import Chart, Series, chart, series, smoothed
from tasks.reports.facts import gather_facts
from tasks.reports.figures import evenly, figure_charts, text_of
from tasks.reports.page import render_report, write_page
from tasks.runs.run_folder import RunFolder


class Page(HTMLParser):
    """Visible texts and what the page points to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def test_the_page_is_whole_in_itself(folder: RunFolder) -> None:
    page = render_report(gather_facts(folder))
    assert not re.search(r"https?:|@import|url\(", page)
    parsed = Page(page)
    assert all(link.startswith("#") for link in parsed.links)
    assert {link.removeprefix("#") for link in parsed.links} <= set(re.findall(r'id="(\w+)"', page))
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_page_shows_what_the_run_has_written(folder: RunFolder) -> None:
    texts = Page(render_report(gather_facts(folder))).texts
    shown = " ".join(texts)
    for expected in (
        "tale-1234",
        "stopped, step 20 of 30; best at step 10",
        "5.500 → 3.250",  # validation loss, first and best
        "perplexity 244.7 25.790 33.115",
        "invented share 25.0% 25.0% 25.0%",
        "loss by length: 1-64 6.500 4.250 4.500",
        "step 10 7 tokens, ended, repeats 31 tokens of book.txt",
        "By source name validation loss book.txt 3.250",
        "and 25 more",
        "copied <words>",
        "</script>20 times",
        "·a 1% ·a 11% ·a 21%",  # the lens: the embedding's guess at the three steps
        "4,444",
        "0" * 32,
        "4,321 tokens a second",
        "n_embd: 16",
        "gpt2flow run run.yaml",
    ):
        assert expected in shown, expected


def test_what_a_model_wrote_can_break_nothing(folder: RunFolder) -> None:
    page = render_report(gather_facts(folder))
    assert "<b>upon" not in page
    assert Page(page).tags.count("script") == page.count("</script>") == 2


def test_a_rising_validation_loss_is_a_warning(folder: RunFolder) -> None:
    (warning,) = gather_facts(folder).warnings
    assert warning == "The validation loss has risen from 3.250 to 3.500 at step 20: the model overfits."


def test_a_sample_that_copies_is_a_warning(folder: RunFolder) -> None:
    folder.evaluations.append([{"step": 30, "val_loss": 3.0, "sample_longest_copy": 51.0}])
    assert gather_facts(folder).warnings == ["At step 30 a sample repeats 51 tokens of the training text word for word."]


def test_a_finished_run_names_its_version(folder: RunFolder) -> None:
    folder.write("result", {"steps": 30, "model": "tale", "version": "3", "alias": "candidate", "parameters": 1234567})
    shown = " ".join(Page(render_report(gather_facts(folder))).texts)
    assert "finished, 30 steps, tale version 3 (candidate)" in shown
    assert "models:/tale/3" in shown
    assert "1,234,567" in shown


def test_a_run_that_has_just_begun_has_a_page_too(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    folder.path.mkdir()
    shown = " ".join(Page(render_report(gather_facts(folder))).texts)
    assert "No step has been made yet." in shown
    assert "Nothing has been evaluated yet." in shown


def test_files_that_are_damaged_or_lost_are_left_out(folder: RunFolder, prompt: str) -> None:
    (folder.lens_folder(10) / "prompt-1.json").write_text("{")
    folder.sample_files(0)[0].unlink()
    facts = gather_facts(folder)
    assert facts.lens[0].guesses.columns == ["0", "20"]
    assert [sample.step for sample in facts.samples[prompt]] == [10, 20]


def test_the_page_goes_where_it_is_asked_to(folder: RunFolder, tmp_path: Path) -> None:
    assert write_page(folder) == folder.path / "report.html"
    assert write_page(folder, tmp_path / "x.html").read_text() == folder.report_page.read_text()
    with pytest.raises(UserError, match="nowhere does not exist: create it"):
        write_page(folder, tmp_path / "nowhere" / "x.html")


def test_smoothing_is_the_mean_weighted_by_powers_of_the_decay() -> None:
    values = [3.0, 1.0, 4.0, math.nan, 1.0, 5.0]
    seen = [3.0, 1.0, 4.0, 1.0, 5.0]
    weights = [0.75**age for age in range(4, -1, -1)]
    expected = sum(w * v for w, v in zip(weights, seen, strict=True)) / sum(weights)
    assert smoothed(values, window=4)[-1] == pytest.approx(expected)
    assert smoothed([2.0] * 9, window=3) == pytest.approx([2.0] * 9)


def test_a_curve_fills_its_plot_and_its_ticks_stand_at_their_values() -> None:
    made = Chart("loss", [Series("a", [0, 50, 100], [2.0, 1.0, 0.0])])
    (left, top), middle, (right, bottom) = made.places(made.series[0])
    assert (left, right) == (0.0, 100.0)
    assert middle == pytest.approx((50.0, 50.0))
    assert 0 < top < 10
    assert 90 < bottom < 100
    for tick in made.y_ticks:
        assert tick.at == pytest.approx(bottom + (top - bottom) * float(tick.label) / 2.0)
    assert [(tick.label, tick.at) for tick in made.x_ticks] == [(str(at), at) for at in (0, 20, 40, 60, 80, 100)]


def test_a_curve_leaves_out_what_is_no_number_and_keeps_its_ends_when_it_is_thinned() -> None:
    assert series("x", [(1, math.nan), (2, math.inf)]) is None
    assert chart("x", None, None) is None
    long = series("x", [(step, float(step)) for step in range(100_001)])
    assert long is not None
    assert len(long.steps) <= 402
    assert (long.steps[0], long.steps[-1]) == (0, 100_000)


def test_ticks_are_written_with_the_digits_that_they_need() -> None:
    made = Chart("x", [Series("a", [0, 1], [0.0, 1.0])])
    assert [tick.label for tick in made.y_ticks] == ["0.00", "0.25", "0.50", "0.75", "1.00"]


def test_a_smoothed_curve_has_the_colour_of_its_raw_one() -> None:
    curve = [0], [1.0]
    assert Chart("x", [Series("a", *curve, faint=True), Series("b", *curve), Series("c", *curve)]).colours == [0, 0, 1]


def test_a_chart_of_one_point_or_a_flat_line_can_be_drawn() -> None:
    for values in ([3.0], [0.0, 0.0]):
        made = Chart("flat", [Series("a", list(range(len(values))), values)])
        assert all(0 <= place <= 100 for point in made.places(made.series[0]) for place in point)
        assert made.y_ticks


def test_ends_of_an_interval_and_parts_of_a_whole_share_a_chart() -> None:
    row = {"gain": 1.0, "gain_low": 0.5, "gain_high": 1.5, "loss_by_source/a": 1.0, "loss_by_source/b": 2.0, "other": 3.0}
    charts = figure_charts([{"step": 0, **row}, {"step": 5, **{key: value + 1 for key, value in row.items()}, "same": 1.0}])
    assert [len(found.series) for found in charts] == [3, 2, 1]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("perplexity", 1025.64, "1,026"),
        ("perplexity", 51.0312, "51.031"),
        ("perplexity", 162.362, "162.4"),
        ("val_tokens", 16377, "16,377"),
        ("sample_repetition", 0.0773, "7.7%"),
        ("calibration_error", 0.00213, "0.0021"),
        ("anything", None, ""),
    ],
)
def test_figures_are_written_for_people(key: str, value: float | None, text: str) -> None:
    assert text_of(key, value) == text


def test_of_many_evaluations_the_first_the_last_and_the_best_are_shown() -> None:
    shown = evenly(range(0, 10_000, 100), 10, always=300)
    assert len(shown) == 10
    assert {0, 300, 9900} <= set(shown)
    assert evenly([1, 2], 10) == [1, 2]
