"""What is known when a candidate meets its rival: plain values that are sealed, shown and decided on, and nothing else."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

Role = Literal["champion", "base", "untrained"]


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Figure = Annotated[float | None, BeforeValidator(_finite)]
"""None where it was not measured, or is no number."""


class Fact(BaseModel):
    """Base of everything in a decision record; values never change, and what a later version has added is passed over."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class EvidenceSample(Fact):
    """One completion."""

    prompt: str
    text: str


class SourceFigure(Fact):
    """Bits a byte of the documents of one source."""

    name: str
    documents: int
    bits_per_byte: Figure


class Contender(Fact):
    """One of the two models, measured."""

    reference: str
    """models:/NAME/VERSION, or what the base is called."""
    version: str | None = None
    run: str | None = None
    content: str
    """Hash of weights and vocabulary."""
    parameters: int
    n_vocab: int
    bytes: int
    bits_per_byte: Figure = None
    val_loss: Figure = None
    accuracy: Figure = None
    calibration_error: Figure = None
    seconds_per_token: Figure = None
    repetition: Figure = None
    text_repetition: Figure = None
    """The repetition of the deciding text itself, in this model's tokens."""
    loops: Figure = None
    copied_share: Figure = None
    copied_tokens: Figure = None
    canary_exposure: Figure = None
    tasks: dict[str, dict[str, Figure]] = {}
    by_source: list[SourceFigure] = []
    samples: list[EvidenceSample] = []
    curve: list[tuple[int, float]] = []
    """Bits a byte by step, as its own run has measured them."""


class DecidingText(Fact):
    """The frozen text on which both were scored."""

    origin: str
    documents: int
    bytes: int
    sha256: str
    """Of the hashes of its documents."""
    left_out: int = 0
    """Documents beyond promote.text_limit."""
    trained_on: dict[str, int] = {}
    """By model: documents of the text that stand in its training text, or that of a model it comes from."""
    near_duplicates: dict[str, int] = {}
    """By model: documents that nearly stand there."""
    unknown: list[str] = []
    """Models whose training text is not here, so that nobody can say."""


class SourceGain(Fact):
    """The gain in one source, with an interval to show."""

    name: str
    documents: int
    gain: Figure
    low: Figure
    high: Figure


class PairedOutcome(Fact):
    """The paired test, in bits a byte."""

    gain: Figure
    low: Figure
    high: Figure
    p_value: float
    margin: float
    error: float
    """What this attempt may spend of promote.error_rate."""
    attempt: int
    documents: int
    fewest: int
    """With fewer documents there is no verdict at this error rate."""
    needed: int | None
    """Documents like these that would probably do; None where there is no gain."""
    by_source: list[SourceGain] = []


class Evidence(Fact):
    """Everything that a decision rests on. What is missing says so in `obstacle`, and then there is no verdict."""

    model: str
    candidate: Contender | None = None
    rival: Contender | None = None
    role: Role = "champion"
    """What the rival is."""
    text: DecidingText | None = None
    outcome: PairedOutcome | None = None
    tried: bool = False
    """Whether the candidate was tried in a fresh process, which is done where all else holds."""
    fresh_process: str | None = None
    """Why the candidate does not work in a fresh process; None where it does."""
    obstacle: str | None = None
    """Why there can be no comparison, with the remedy."""
