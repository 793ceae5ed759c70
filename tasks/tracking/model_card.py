"""The model card of a registered version: what it is for, what it learnt from, how good it is, where it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from configs.schema import RunConfig
from gpt2core.store.manifest import Manifest
from tasks.runs.run_folder import RunFolder

LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")
FIGURES = {
    "val_loss": "validation loss",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
    "accuracy": "accuracy",
    "calibration_error": "calibration error",
    "sample_repetition": "repetition in samples",
    "sample_copied_share": "share of samples copied from the training text",
    "sample_longest_copy": "longest copied passage, in tokens",
    "canary_exposure": "canary exposure, in bits",
}
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def model_card(folder: RunFolder, config: RunConfig, text: Manifest, step: int, licence: str, ancestors: Iterable[str]) -> str:
    """The card in Markdown; `licence` is the base model's, `ancestors` are its registered versions, nearest first."""
    rows = folder.evaluations.rows()
    chosen = min(rows, key=lambda row: abs(row["step"] - step), default={})
    parts = {
        "Intended use": (
            "Continuing text of the kind that it was trained on. It states what is likely in such text, not what is true; have "
            "a person read what it writes before it reaches others, and keep it away from decisions about people."
        ),
        "Training text": _text(config, text),
        "Evaluation": _table(chosen, folder),
        "Curve": _curve(rows),
        "Lineage": _lineage(folder, config, ancestors),
        "Licence": _licence(config, licence),
    }
    title = f"# {config.registry.model or config.name}\n\nGPT-2, fine-tuned by gpt2flow: run `{folder.id}`, step {step:,}."
    return "\n\n".join([title, *(f"## {name}\n\n{content}" for name, content in parts.items())]) + "\n"


def _text(config: RunConfig, text: Manifest) -> str:
    sides = [f"| {side} | {n.documents:,} | {n.bytes:,} | {n.tokens:,} |" for side, n in text.counts.items()]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in text.dropped.items() if count) or "none"
    lines = [
        f"{', '.join(config.data.source)}; token store `{text.hash}`, a vocabulary of {text.n_vocab:,}. "
        f"Documents left out: {dropped}. Held-out documents were never trained on.",
        "",
        "| side | documents | bytes | tokens |",
        "|---|---|---|---|",
        *sides,
    ]
    return "\n".join(lines)


def _table(row: dict[str, float], folder: RunFolder) -> str:
    if not row:
        return "Nothing was evaluated."
    known = [f"| {title} | {row[name]:.4f} |" for name, title in FIGURES.items() if name in row]
    return "\n".join(["On the held-out documents of its own run.", "", "| figure | value |", "|---|---|", *known]) + (
        f"\n\nAll figures by source and length, and samples by step, are in the report of run `{folder.id}`."
    )


def _curve(rows: list[dict[str, float]]) -> str:
    if not rows:
        return "Nothing was evaluated."
    lines = [f"| {row['step']:,.0f} | {row['val_loss']:.4f} | {row['bits_per_byte']:.4f} |" for row in rows]
    return "\n".join(["| step | validation loss | bits per byte |", "|---|---|---|", *lines])


def _lineage(folder: RunFolder, config: RunConfig, ancestors: Iterable[str]) -> str:
    if config.model.base == "scratch":
        return f"Run `{folder.id}`, from random weights (seed {config.train.seed})."
    chain = list(dict.fromkeys([config.model.base, *ancestors]))
    return f"Run `{folder.id}` ← " + " ← ".join(f"`{name}`" for name in chain)


def _licence(config: RunConfig, licence: str) -> str:
    own = "The rights in the training text are yours to know."
    return f"No base model. {own}" if config.model.base == "scratch" else f"Of the base `{config.model.base}`: {licence}. {own}"


def licence_of(base: Path | None) -> str:
    """What the files beside a model's weights say of its licence."""
    if base is None:
        return "none"
    card = base / "README.md"
    if card.is_file() and (match := FRONT_MATTER.match(card.read_text(encoding="utf-8", errors="replace"))):
        try:
            stated = (yaml.safe_load(match[1]) or {}).get("license")
        except (yaml.YAMLError, AttributeError):
            stated = None
        if stated:
            return str(stated)
    for name in LICENCE_FILES:
        if (base / name).is_file():
            lines = (base / name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return f"{lines[0].strip()} (file {name})" if lines else f"file {name}"
    return "not recorded beside its weights"
