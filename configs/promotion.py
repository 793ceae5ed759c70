"""Settings of a promotion: on which text the candidate meets the champion, what it must not be worse at, who agrees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from configs.accepted_values import as_bytes, hook_without_secret, no_secret_inside
from configs.section import Positive, Section

NotNegative = Annotated[float, Field(ge=0.0)]
OneOrMore = BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
Texts = Annotated[list[Annotated[str, AfterValidator(no_secret_inside)]], OneOrMore]
Hooks = Annotated[list[Annotated[str, AfterValidator(hook_without_secret)]], OneOrMore]


class Limit(Section):
    """How bad a figure of the candidate may be; what is not given is no limit."""

    at_most: NotNegative | None = None
    """The figure itself."""
    worse_by: NotNegative | None = None
    """How far it may lie above the champion's."""
    times: Annotated[float, Field(gt=0.0)] | None = None
    """How many times the champion's it may be."""


Rule = Annotated[Limit | None, BeforeValidator(lambda value: None if value == "null" else value)]  # null as an option's text


class TaskRule(Section):
    """A zero-shot task of which you have the file."""

    file: Path
    """The task's file; nothing is fetched."""
    figure: str
    """One of the figures of the task, such as accuracy, acc_norm or perplexity."""
    better: Literal["higher", "lower"] = "higher"
    """Which direction is the better one."""
    worse_by: NotNegative = 0.02
    """How much worse than the champion's the figure may be."""


class PromotionRules(Section):
    """What must hold before a candidate becomes the champion. Give null for a rule that should not count."""

    margin: NotNegative = 0.0
    """Bits per byte by which the candidate must be better, with the whole interval on that side."""
    copied_share: Rule = Limit(at_most=0.2, worse_by=0.05)
    """Share of the samples' windows of 50 tokens that stand word for word in the training text."""
    copied_tokens: Rule = Limit(worse_by=50)
    """Tokens of the longest passage that a sample copies from the training text."""
    repetition: Rule = Limit(at_most=0.4, worse_by=0.05)
    """Share of the samples' 4-grams that stood in the same sample before; as much as in the text itself is always allowed."""
    loops: Rule = Limit(at_most=0.3, worse_by=0.1)
    """Share of the samples that end in a loop."""
    canary_exposure: Rule = Limit(worse_by=1.0)
    """Bits that the most exposed of promote.canaries gives away, from 0 to 8."""
    calibration_error: Rule = Limit(worse_by=0.02)
    """Distance between confidence and accuracy."""
    seconds_per_token: Rule = Limit(times=1.5)
    """Time to generate a token after a prompt, one sequence alone, on the machine that decides."""
    bytes: Rule = Limit(times=2.0)
    """Size of the weights on disk."""
    tasks: dict[str, TaskRule] = {}
    """Zero-shot tasks by name, such as lambada or hellaswag, each with file and figure."""


class ApprovalSettings(Section):
    """A person's word after all rules hold."""

    needed: bool = False  # not "required": Prefect drops a field of that name from the form of a deployment
    """Whether a person must agree, in Prefect's page or by gpt2flow promote NAME --approve --reason "..."."""
    hours: Annotated[float, Field(gt=0.0)] = 72.0
    """How long the question stands; after that nothing changes."""


class HookSettings(Section):
    """What is told of a move of the champion: commands, and http(s) addresses that get the decision as JSON."""

    on_promotion: Hooks = []
    """A command gets the decision on its standard input, and GPT2FLOW_MODEL, GPT2FLOW_VERSION and GPT2FLOW_VERDICT. Addresses
    that hold a secret are found at env:NAME or file:PATH."""
    on_rollback: Hooks = []
    """The same when the champion is rolled back."""
    attempts: Positive = 3
    """How often each is tried; a hook that fails is named and changes nothing."""
    timeout: Annotated[float, Field(gt=0.0)] = 30.0
    """Seconds that one attempt may take."""


class PromotionSettings(Section):
    """How a candidate becomes the champion."""

    text: Texts = []
    """Files, folders, globs or URLs to decide on, read as the candidate's run read its text (data.encoding ...);
    unless given, what was held out from both models."""
    text_limit: Annotated[Positive, BeforeValidator(as_bytes)] = 4_000_000
    """The most text that is scored, such as 4MB: documents in the order of their hashes, so the choice never changes."""
    error_rate: Annotated[float, Field(gt=0.0, le=0.5)] = 0.05
    """Probability with which an equal model may become champion, over all attempts against one champion together."""
    stride: Annotated[int, Field(ge=0)] = 0
    """Tokens from one window to the next; below n_ctx each token has more before it, at more cost. 0: windows side by side."""
    prompts: list[str] = []
    """Texts to complete with both models; the candidate's evaluate.prompts unless given."""
    samples: Positive = 20
    """Samples of each model in all; ten are shown side by side."""
    sample_tokens: Positive = 100
    """Tokens of each sample."""
    canaries: list[str] = []
    """Planted secrets whose exposure is compared; the candidate's evaluate.canaries unless given."""
    rules: PromotionRules = PromotionRules()
    approval: ApprovalSettings = ApprovalSettings()
    hooks: HookSettings = HookSettings()
    wait: NotNegative = 60.0
    """Seconds to wait while another promotion of the same model moves aliases."""
