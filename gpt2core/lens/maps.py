"""The lens's pictures as heat maps of plain values, for pages and PNG files. L layers with the embedding, N columns."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpt2core.lens.reading import Guess, LensReading

PALEST = 5000
"""Rank at which the colour ends, as in Ecco."""
ReadingsByStep = dict[int, LensReading]
"""Readings of one prompt by training step, in order."""


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, how strongly it is coloured (0 to 1), and what hovering shows."""

    label: str
    strength: float
    hint: str


@dataclass(frozen=True)
class HeatMap:
    """Cells by row and column, with their names."""

    title: str
    rows: list[str]
    columns: list[str]
    cells: list[list[Cell]]


def strength_of_rank(rank: int) -> float:
    """Colour of a rank: 1 for rank 1, falling with its logarithm to 0 for rank 5,000 and beyond."""
    return max(0.0, 1.0 - math.log(rank) / math.log(PALEST))


def rankings_map(reading: LensReading, title: str = "Rank of each token at each layer") -> HeatMap:
    """[L][N]: the rank that each layer gives the token that stands there."""
    cells = [
        [
            Cell(f"{rank:,}", strength_of_rank(rank), _rank_hint(reading, layer, column, rank))
            for column, rank in enumerate(ranks)
        ]
        for layer, ranks in enumerate(reading.rankings)
    ]
    return HeatMap(title, reading.layer_names, reading.columns, cells)


def watched_map(reading: LensReading) -> HeatMap:
    """[L][watched token]: its rank where the first column's token stands."""
    cells = [
        [
            Cell(f"{rank:,}", strength_of_rank(rank), f"{token}: rank {rank:,} at {name}")
            for token, rank in zip(reading.watched, ranks, strict=True)
        ]
        for name, ranks in zip(reading.layer_names, reading.watched_rankings, strict=True)
    ]
    return HeatMap(f"Rank after {_tail(reading)}____", reading.layer_names, reading.watched, cells)


def predictions_map(reading: LensReading, column: int = 0) -> HeatMap:
    """[L][rank]: each layer's likeliest tokens where the column's token stands."""
    rows = reading.predictions[column]
    names = [str(rank) for rank in range(1, len(rows[0]) + 1)]
    cells = [
        [_guess_cell(guess, f"choice {rank} of {layer}") for rank, guess in enumerate(row, 1)]
        for layer, row in zip(reading.layer_names, rows, strict=True)
    ]
    return HeatMap(f"What each layer would say instead of {reading.columns[column]}", reading.layer_names, names, cells)


def saliency_map(reading: LensReading) -> HeatMap:
    """[N][token before]: its share in the column's token, in percent; the colour is relative to the row's largest."""
    columns = (reading.before + reading.columns)[:-1]
    cells = []
    for token, shares in zip(reading.columns, reading.saliency, strict=True):
        most = max(shares)
        padded = shares + [0.0] * (len(columns) - len(shares))
        cells.append([_share_cell(share, most, token, name) for share, name in zip(padded, columns, strict=True)])
    return HeatMap("What each token rests on, in percent", reading.columns, columns, cells)


def guesses_across(history: ReadingsByStep) -> HeatMap:
    """[L][step]: each layer's likeliest token after the prompt, as training goes on."""
    last = list(history.values())[-1]
    cells = [
        [_guess_cell(reading.best(layer, 0), f"step {step:,}, {name}") for step, reading in history.items()]
        for layer, name in enumerate(last.layer_names)
    ]
    return HeatMap(f"What each layer would say after {_tail(last)}", last.layer_names, _steps(history), cells)


def watched_across(history: ReadingsByStep) -> list[HeatMap]:
    """For each watched token [L][step]: its rank after the prompt, as training goes on."""
    last = list(history.values())[-1]
    return [_watched_across(history, last, number) for number in range(len(last.watched))]


def rankings_across(history: ReadingsByStep) -> list[HeatMap]:
    """For each step the map of `rankings_map`."""
    return [rankings_map(reading, f"step {step:,}") for step, reading in history.items()]


def _watched_across(history: ReadingsByStep, last: LensReading, number: int) -> HeatMap:
    cells = []
    for layer, name in enumerate(last.layer_names):
        ranks = {step: reading.watched_rankings[layer][number] for step, reading in history.items()}
        hints = {step: f"step {step:,}, {name}: rank {rank:,}" for step, rank in ranks.items()}
        cells.append([Cell(f"{rank:,}", strength_of_rank(rank), hints[step]) for step, rank in ranks.items()])
    return HeatMap(f"Rank of {last.watched[number]} after {_tail(last)}____", last.layer_names, _steps(history), cells)


def _steps(history: ReadingsByStep) -> list[str]:
    return [f"{step:,}" for step in history]


def _guess_cell(guess: Guess, where: str) -> Cell:
    return Cell(f"{guess.text} {guess.probability:.0%}", guess.probability, f"{where}: {guess.text} {guess.probability:.3%}")


def _share_cell(share: float, most: float, token: str, name: str) -> Cell:
    label = f"{100 * share:.0f}" if share >= 0.005 else ""
    return Cell(label, share / most if most else 0.0, f"{token} rests on {name} by {share:.1%}")


def _rank_hint(reading: LensReading, layer: int, column: int, rank: int) -> str:
    guess = reading.best(layer, column)
    where = f"{reading.columns[column]}: rank {rank:,} at {reading.layer_names[layer]}"
    return f"{where}, which would say {guess.text} ({guess.probability:.1%})"


def _tail(reading: LensReading) -> str:
    """The end of what stands before the first column."""
    text = "".join(reading.before)
    return text if len(text) <= 60 else "…" + text[-59:]
