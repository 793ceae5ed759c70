"""The gate: from rules and evidence to a verdict with a sentence for each rule. Pure: it reads nothing and changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

from configs.promotion import Limit, PromotionRules, TaskRule
from tasks.evidence.evidence import Contender, DecidingText, Evidence, Fact, PairedOutcome

Verdict = Literal["promoted", "refused", "undecided", "awaiting approval", "unchanged", "rolled back"]
Mark = Literal["held", "broken", "open", "not measured"]


class RuleFinding(Fact):
    """What became of one rule."""

    rule: str
    mark: Mark
    sentence: str


def _speed(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms ({1 / seconds:,.0f} tokens a second)"


LIMITED: dict[str, tuple[str, Callable[[float], str]]] = {
    "copied_share": ("share of copied passages", "{:.1%}".format),
    "copied_tokens": ("longest copied passage in tokens", "{:.0f}".format),
    "repetition": ("repetition", "{:.1%}".format),
    "loops": ("share of samples that loop", "{:.0%}".format),
    "canary_exposure": ("canary exposure in bits", "{:.2f}".format),
    "calibration_error": ("calibration error", "{:.4f}".format),
    "seconds_per_token": ("time a token", _speed),
    "bytes": ("bytes of weights", "{:,.0f}".format),
}
"""Figures that have a limit: what they are called and how they are written."""


ROLES = {"untrained": "untrained model"}
"""Rivals that are called otherwise in a sentence."""


def judge(rules: PromotionRules, evidence: Evidence) -> tuple[Verdict, list[RuleFinding]]:
    """The verdict: refused where a rule is broken, undecided where one cannot be told, promoted where all hold."""
    found = list(_findings(rules, evidence))
    marks = {finding.mark for finding in found}
    return "refused" if "broken" in marks else "undecided" if "open" in marks else "promoted", found


def reason(verdict: Verdict, findings: list[RuleFinding]) -> str:
    """The verdict's grounds in a sentence or two: what is broken or open, or the gain."""
    decisive = {"refused": "broken", "undecided": "open"}.get(verdict)
    grounds = [finding.sentence for finding in findings if finding.mark == decisive]
    return " ".join(grounds or [finding.sentence for finding in findings if finding.rule == "bits_per_byte"])


def _findings(rules: PromotionRules, evidence: Evidence) -> Iterator[RuleFinding]:
    if evidence.fresh_process:
        yield RuleFinding(
            rule="loads", mark="broken", sentence=f"In a fresh process it does not work: {evidence.fresh_process}."
        )
    elif evidence.tried:
        yield RuleFinding(rule="loads", mark="held", sentence="It loads and generates in a fresh process.")
    if evidence.obstacle:
        yield RuleFinding(rule="comparison", mark="open", sentence=evidence.obstacle)
    if evidence.candidate is None or evidence.rival is None or evidence.text is None or evidence.outcome is None:
        return
    yield _unseen(evidence.text)
    yield _gain(evidence.outcome, evidence.candidate, evidence.rival, evidence.role)
    for name in LIMITED:
        yield from _limited(name, getattr(rules, name), evidence)
    for task, rule in rules.tasks.items():
        yield _task(task, rule, evidence.candidate, evidence.rival)


def _unseen(text: DecidingText) -> RuleFinding:
    if seen := {model: count for model, count in text.trained_on.items() if count}:
        who = " and ".join(f"{model} on {count:,}" for model, count in seen.items())
        sentence = f"Of the {text.documents:,} documents {who} was trained: choose a promote.text that no model has seen."
        return RuleFinding(rule="unseen text", mark="broken", sentence=sentence)
    near = "".join(f", {count:,} nearly stand in that of {model}" for model, count in text.near_duplicates.items() if count)
    unknown = "".join(f", and what {model} was trained on is not known" for model in text.unknown)
    sentence = f"None of the {text.documents:,} documents stands in a training text that is here{near}{unknown}."
    return RuleFinding(rule="unseen text", mark="held", sentence=sentence)


def _gain(outcome: PairedOutcome, candidate: Contender, rival: Contender, role: str) -> RuleFinding:
    """Better by the margin beyond chance; a tie is broken, too few documents are open."""
    role = ROLES.get(role, role)
    broken = "candidate" if candidate.bits_per_byte is None else role if rival.bits_per_byte is None else None
    if broken:
        mark: Mark = "broken" if broken == "candidate" else "open"
        remedy = "its weights are damaged." if broken == "candidate" else "roll back, or delete that version."
        return RuleFinding(rule="bits_per_byte", mark=mark, sentence=f"The loss of the {broken} is no number: {remedy}")
    gain, margin = outcome.gain or 0.0, f" by {outcome.margin:g}" if outcome.margin else ""
    measured = f"{gain:+.4f} bits a byte{_interval(outcome)} on {outcome.documents:,} documents"
    if outcome.p_value <= outcome.error:
        return RuleFinding(rule="bits_per_byte", mark="held", sentence=f"Better than the {role}: {measured}.")
    if outcome.documents < outcome.fewest:
        sentence = (
            f"Too few documents for a verdict: {outcome.documents:,}, and attempt {outcome.attempt} against this {role} "
            f"needs at least {outcome.fewest:,} ({measured})."
        )
        return RuleFinding(rule="bits_per_byte", mark="open", sentence=sentence)
    if gain <= outcome.margin or outcome.needed is None:
        return RuleFinding(rule="bits_per_byte", mark="broken", sentence=f"Not better than the {role}{margin}: {measured}.")
    sentence = (
        f"Perhaps better than the {role}{margin}, perhaps chance: {measured}, p {outcome.p_value:.3f} where attempt "
        f"{outcome.attempt} may have {outcome.error:.4f}; about {outcome.needed:,} documents would tell."
    )
    return RuleFinding(rule="bits_per_byte", mark="open", sentence=sentence)


def _interval(outcome: PairedOutcome) -> str:
    if outcome.low is None or outcome.high is None:
        return ""
    return f" ({1 - 2 * outcome.error:.1%} interval {outcome.low:+.4f} to {outcome.high:+.4f})"


def _limited(name: str, limit: Limit | None, evidence: Evidence) -> Iterator[RuleFinding]:
    """A limit that is relative to the rival counts against a champion; a first model's base is no measure of its samples."""
    assert evidence.candidate and evidence.rival
    title, written = LIMITED[name]
    value = getattr(evidence.candidate, name)
    if limit is None:
        return
    if value is None:
        asked = limit != PromotionRules.model_fields[name].default
        remedy = f": leave promote.rules.{name} out, or make it measurable" if asked else ""
        sentence = f"{title.capitalize()} was not measured{remedy}."
        yield RuleFinding(rule=name, mark="open" if asked else "not measured", sentence=sentence)
        return
    bound, because = _bound(name, limit, evidence.candidate, evidence.rival if evidence.role == "champion" else None)
    sentence = f"{title.capitalize()}: {written(value)}"
    if value <= bound:
        yield RuleFinding(rule=name, mark="held", sentence=f"{sentence}.")
    else:
        yield RuleFinding(rule=name, mark="broken", sentence=f"{sentence}; at most {written(bound)} is allowed{because}.")


def _bound(name: str, limit: Limit, candidate: Contender, champion: Contender | None) -> tuple[float, str]:
    """The smallest bound and where it comes from; a model may repeat itself as much as the text does that it shall continue."""
    written = LIMITED[name][1]
    bounds = [(math.inf if limit.at_most is None else limit.at_most, "")]
    other = getattr(champion, name) if champion else None
    if other is not None:
        because = f", the champion has {written(other)}"
        if limit.times is not None:
            bounds.append((other * limit.times, because))
        text = (candidate.text_repetition or 0.0) if name == "repetition" else 0.0
        if limit.worse_by is not None:
            bounds.append((max(other, text) + limit.worse_by, f"{because} and the text {written(text)}" if text else because))
    return min(bounds)


def _task(task: str, rule: TaskRule, candidate: Contender, rival: Contender) -> RuleFinding:
    value, other = (contender.tasks.get(task, {}).get(rule.figure) for contender in (candidate, rival))
    name = f"tasks.{task}"
    if value is None or other is None:
        known = ", ".join(candidate.tasks.get(task, {})) or "none"
        return RuleFinding(rule=name, mark="open", sentence=f"{task} has no figure {rule.figure}: known are {known}.")
    worse = other - value if rule.better == "higher" else value - other
    mark: Mark = "broken" if worse > rule.worse_by else "held"
    return RuleFinding(rule=name, mark=mark, sentence=f"{task} {rule.figure} is {value:.4f}, {other:.4f} before.")
