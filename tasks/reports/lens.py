"""The lens in a run's folder and on disk: pages, pictures and values, at one step and across training."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from configs.errors import UserError
from configs.evaluation import EvaluateSettings
from gpt2core.lens import maps
from gpt2core.lens.maps import ReadingsByStep
from gpt2core.lens.pages import render_across, render_reading
from gpt2core.lens.reading import LensReading, load_reading, read_lens_greedily, save_reading
from gpt2core.machine.durable import named_write_errors, write_text
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer
from tasks.runs.run_folder import RunFolder
from tasks.terminal.console import warn


def record_lens(folder: RunFolder, model: GPT2, tokenizer: Tokenizer, settings: EvaluateSettings, step: int) -> None:
    """Read the configured prompts at this step: a page, a picture and the values of each into the run's folder.

    A watched text that is not a single token of this vocabulary is left out, which step 0 says.
    """
    watch = [text for text in settings.lens_watch if len(tokenizer.encode(text)) == 1]
    if missing := [repr(text) for text in settings.lens_watch if text not in watch and step == 0]:
        warn("lens", f"not watched, since the vocabulary has no such single token: {', '.join(missing)}")
    prompts = lens_prompts(settings) if model.config.n_ctx > 1 else []
    for number, prompt in enumerate(prompts, 1):
        reading = read_lens_greedily(model, tokenizer, prompt, settings.lens_tokens, watch)
        file = folder.lens_folder(step) / f"prompt-{number}"
        _make(file.parent)
        drawn = [maps.predictions_map(reading), maps.rankings_map(reading)]
        drawn += [maps.watched_map(reading)] if reading.watched else []
        _draw(drawn, file.with_suffix(".png"), f"{folder.id}, step {step:,}: {reading.prompt!r}")
        write_text(file.with_suffix(".html"), render_reading(reading, f"{folder.id}, step {step:,}"))
        save_reading(reading, file.with_suffix(".json"))


def lens_prompts(settings: EvaluateSettings) -> list[str]:
    """What the lens looks at while a run goes on."""
    return (settings.lens_prompts or settings.prompts[:1] or [""]) if settings.lens else []


def recorded_histories(folder: RunFolder, steps: Iterable[int]) -> list[ReadingsByStep]:
    """For each prompt that the lens looked at in the run, its readings at these steps; damaged files are left out."""
    histories: dict[str, ReadingsByStep] = {}
    for step in steps:
        for file in sorted(folder.lens_folder(step).glob("*.json")):
            with suppress(UserError):
                reading = load_reading(file)
                histories.setdefault(reading.prompt, {})[step] = reading
    return list(histories.values())


def write_reading(reading: LensReading, folder: Path, title: str) -> list[Path]:
    """Write lens.html, lens.json and a PNG of each picture; returns their paths."""
    pictures = {
        "predictions": maps.predictions_map(reading),
        "rankings": maps.rankings_map(reading),
        "saliency": maps.saliency_map(reading),
    }
    if reading.watched:
        pictures["watched"] = maps.watched_map(reading)
    _make(folder)
    write_text(folder / "lens.html", render_reading(reading, title))
    save_reading(reading, folder / "lens.json")
    for name, map_ in pictures.items():
        _draw([map_], folder / f"{name}.png")
    return [folder / name for name in ("lens.html", "lens.json", *(f"{name}.png" for name in pictures))]


def write_across(history: ReadingsByStep, folder: Path, title: str, name: str = "across") -> list[Path]:
    """Write a page and a PNG with the readings side by side; returns their paths."""
    page, picture = folder / f"{name}.html", folder / f"{name}.png"
    _make(folder)
    write_text(page, render_across(history, title))
    drawn = [maps.guesses_across(history), *maps.watched_across(history), *maps.rankings_across(history)]
    _draw(drawn, picture, title)
    return [page, picture]


def _draw(drawn: list[maps.HeatMap], path: Path, title: str = "") -> None:
    """matplotlib takes half a second to import, so only drawing code imports it."""
    from gpt2core.lens.pictures import draw_maps

    with named_write_errors(path):
        draw_maps(drawn, path, title)


def _make(folder: Path) -> None:
    with named_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
