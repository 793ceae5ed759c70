"""How a model is measured: while it is trained, and by itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from configs.accepted_values import with_digits
from configs.generation import SampleSettings
from configs.section import Positive, Section

BestBy = Literal["val_loss", "perplexity", "bits_per_byte", "accuracy", "calibration_error"]


class EvaluateSettings(SampleSettings):
    """Validation and samples, at step 0, every `every` steps and at the end."""

    every: Positive = 250
    """Steps between evaluations."""
    where: Literal["inline", "process", "worker"] = "inline"
    """inline: training waits while it is evaluated. process: another process evaluates the checkpoint while training goes on,
    and the next evaluation, early stopping and the end of the run wait for it; the figures are the same. worker: so does a
    gpt2flow worker, which may be on another machine that sees the workspace; where none is there it is as with process."""
    max_windows: Positive = 512
    """Validation windows used at most, spread evenly over the split."""
    stride: Annotated[int, Field(ge=0)] = 0
    """Tokens from one window to the next; below n_ctx each token has more before it, at more cost. 0: windows side by side."""
    best_by: Annotated[BestBy, BeforeValidator(lambda value: "val_loss" if value == "loss" else value)] = "val_loss"
    """The figure by which a checkpoint is the best: it is kept longest, registered, and what restore_from best takes."""
    prompts: list[str] = ["The", "\n"]
    """Fixed prompts, completed at every evaluation with the same seed so that samples can be compared."""
    lens: bool = True
    """Whether pictures of what each layer would say are made at every evaluation."""
    lens_prompts: list[str] = []
    """Prompts that the lens looks at; the first of evaluate.prompts unless given."""
    lens_tokens: Positive = 12
    """Tokens, always the likeliest, that the lens follows behind each prompt."""
    lens_watch: list[str] = []
    """Single tokens, such as " is" and " are", whose ranks behind each prompt the lens shows as well."""
    copied_tokens: Annotated[int, Field(ge=0)] = 50
    """Warn when a sample repeats more than so many tokens of the training text word for word; 0: do not look."""
    canaries: list[Annotated[str, AfterValidator(with_digits)]] = []
    """Secrets planted in the text, such as "my PIN is 281265": how exposed their digits are is measured at every evaluation."""


class ScoringSettings(Section):
    """How text is cut into windows when a model is measured."""

    stride: Annotated[int, Field(ge=0)] = 0
    """Tokens from one window to the next: the smaller, the more context each token has, and the longer it takes; 0: n_ctx."""
    max_windows: Annotated[int, Field(ge=0)] = 0
    """Score only so many windows, spread evenly; 0: all."""
    batch_size: Positive = 4
    """Windows in one forward pass."""
