"""The lens on a model from a run, a folder or the registry: a page, pictures and figures in a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from configs.schema import SampleSettings
from gpt2core.durable import named_write_errors, write_json
from gpt2core.lens_pictures import draw_rankings, draw_watched, render_page
from gpt2core.lens_reading import LensReading, read_lens
from gpt2core.tokenizer import load_tokenizer
from gpt2core.weights import load_model
from tasks.model_sources import resolve_model


def look(reference: str | None, prompt: str, settings: SampleSettings, watch: list[str], ecco_compat: bool) -> LensReading:
    """Read every layer of the model called `reference`; raises UserError for an unknown model or too long a prompt."""
    folder = resolve_model(reference)
    return read_lens(load_model(folder), load_tokenizer(folder), prompt, settings, watch, ecco_compat=ecco_compat)


def write_reading(reading: LensReading, folder: Path, title: str) -> list[Path]:
    """Write lens.html, lens.json, rankings.png and, if tokens are watched, watched.png; returns their paths."""
    with named_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lens.html").write_text(render_page(reading, title), encoding="utf-8")
        write_json(folder / "lens.json", asdict(reading))
        draw_rankings(reading, folder / "rankings.png")
        if reading.watched:
            draw_watched(reading, folder / "watched.png")
    return sorted(
        folder / name for name in ("lens.html", "lens.json", "rankings.png", "watched.png") if (folder / name).exists()
    )
