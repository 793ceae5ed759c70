"""Who meets whom: the candidate, its rival, where the aliases stand, and what was decided about them before."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

from mlflow import MlflowClient

from configs.errors import UserError
from configs.generation import CompletionSettings
from configs.loading import merge
from configs.promotion import PromotionSettings
from gpt2core.evaluation.zero_shot import TASKS
from tasks.evidence.entrant import Entrant, config_of, rival_of_first
from tasks.evidence.evidence import Role
from tasks.evidence.measure import Questions
from tasks.promotion.aliases import finish_interrupted
from tasks.promotion.ledger import Decision, Ledger, LedgerEntry
from tasks.promotion.record import record_and_move
from tasks.registry.alias_lock import moving_aliases, now, who
from tasks.registry.lookup import CANDIDATE, Aliases, Version, alias_version, aliases_of, find_version
from tasks.terminal.console import say

NOT_EVIDENCE = {"wait", "hooks", "approval"}
"""Settings of a promotion that decide nothing about the comparison."""


class Match:
    """One meeting. Not a dataclass: Prefect would walk through its fields at every task."""

    def __init__(self, ledger: Ledger, settings: PromotionSettings, aliases: Aliases, candidate: Version) -> None:
        self.ledger = ledger
        self.settings = settings
        self.aliases = aliases
        self.candidate = candidate
        self.rival: Entrant | None = None
        self.role: Role = "champion"
        self.obstacle: str | None = None
        """Why there can be no comparison."""
        self.damage: str | None = None
        """Why the candidate cannot be loaded."""

    @property
    def model(self) -> str:
        """The registered model's name."""
        return self.ledger.model

    @property
    def entrant(self) -> Entrant:
        """The candidate; raises UserError where its files are gone."""
        return Entrant("candidate", self.candidate.uri, self.candidate.folder, self.candidate)

    def questions(self) -> Questions:
        """What both are asked: by the settings, or else as the candidate's own run asks."""
        evaluate, settings = config_of(self.candidate).evaluate, self.settings
        own = {name: value for name, value in evaluate.model_dump().items() if name in CompletionSettings.model_fields}
        sampling = CompletionSettings(**{**own, "max_new_tokens": settings.sample_tokens})
        canaries = settings.canaries or evaluate.canaries
        prompts = settings.prompts or evaluate.prompts
        return Questions(prompts, settings.samples, sampling, canaries, settings.rules.tasks, settings.stride)

    def key(self, text_sha256: str) -> str:
        """Hash of all that the answer depends on."""
        asked = self.settings.model_dump(mode="json", exclude=NOT_EVIDENCE)
        rival = self.rival.content if self.rival else ""
        contents = [self.entrant.content, rival, text_sha256, asked, version("gpt2flow")]
        return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:32]

    def attempt(self, text_sha256: str) -> int:
        """Which attempt against this rival it is; the same candidate on the same text is the same attempt."""
        assert self.rival is not None
        tried: list[tuple[str, str]] = []
        for entry in self.ledger.entries():
            decision, pair = entry.decision, (entry.decision.candidate, entry.decision.text)
            if decision.attempt and decision.rival == self.rival.content and pair not in tried:
                tried.append(pair)
        here = (self.entrant.content, text_sha256)
        return tried.index(here) + 1 if here in tried else len(tried) + 1

    def unchanged(self, why: str) -> Decision:
        """An answer that changes nothing and is not recorded."""
        aliases = self.aliases
        return Decision(model=self.model, verdict="unchanged", why=why, when=now(), who=who(), before=aliases, after=aliases)


@dataclass(frozen=True)
class Settled:
    """There is nothing to decide: the answer is known."""

    decision: Decision


def find_match(client: MlflowClient, model: str, version: str | None, given: PromotionSettings) -> Match | Settled:
    """Candidate and rival; what a kill has cut short is ended first, and questions that nobody answered are closed.

    Settings that are given come before those of the candidate's own run. Raises UserError for what does not exist.
    """
    aliases_of(client, model)
    ledger = Ledger(client, model)
    with moving_aliases(client, model, "looking for a candidate", given.wait):
        interrupted = next((entry for entry in ledger.entries()[-1:] if not entry.applied), None)
        finish_interrupted(client, ledger)
        close_expired(client, ledger)
        entries, aliases = ledger.entries(), Aliases.of(aliases_of(client, model))
    if interrupted:
        return Settled(ledger.record(interrupted) or interrupted.decision)
    candidate = find_version(client, model, version) if version else alias_version(client, model, CANDIDATE)
    if candidate is None:
        return Settled(_without_candidate(ledger, given, aliases, client))
    settings = laid_over(given, config_of(candidate).promote)
    match = Match(ledger, settings, aliases, candidate)
    if candidate.number == aliases.champion:
        return Settled(match.unchanged(f"Version {candidate.number} is the champion already."))
    if waiting := waiting_for_answer(entries, aliases, candidate.number):
        if _asked_by_same_rules(ledger.record(waiting), settings):
            return Settled(waiting.decision)
        say("match", f"question {waiting.decision.number} was asked by other rules: it is judged anew by these")
    if (back := _rolled_back(entries, candidate.number)) and version is None:
        again = f"gpt2flow promote {model}/{candidate.number} tries it again"
        return Settled(match.unchanged(f"Version {candidate.number} was rolled back by {back.who} ({back.why}): {again}."))
    require_measurable(settings)
    _find_rival(client, match, entries)
    return match


def laid_over(given: PromotionSettings, below: PromotionSettings) -> PromotionSettings:
    """What is given, and of the rest what was set below."""
    return PromotionSettings.model_validate(merge(below.model_dump(), given.model_dump(exclude_unset=True)))


def require_measurable(settings: PromotionSettings) -> None:
    """Raise UserError for a rule that nothing can measure, before any work is done."""
    for task, rule in settings.rules.tasks.items():
        if task not in TASKS:
            raise UserError(f"promote.rules.tasks has '{task}', which is no task: known are {', '.join(TASKS)}.")
        if not rule.file.is_file():
            raise UserError(f"promote.rules.tasks.{task}: the file {rule.file} does not exist; give a file that you have.")


def waiting_for_answer(entries: list[LedgerEntry], aliases: Aliases, candidate: str | None = None) -> LedgerEntry | None:
    """The decision that a person may still answer: not answered, not late, and the aliases as they were."""
    answered = {entry.decision.answers for entry in entries}
    for entry in entries[::-1]:
        decision = entry.decision
        open_still = decision.verdict == "awaiting approval" and decision.number not in answered
        if open_still and decision.before.champion == aliases.champion and (decision.deadline or "") > now():
            return entry if candidate in (None, decision.after.champion) else None
    return None


def _asked_by_same_rules(question: Decision | None, settings: PromotionSettings) -> bool:
    """Whether the question would be asked by these settings as well, as far as that is recorded."""
    if question is None:
        return True
    asked = PromotionSettings.model_validate(question.settings)
    same = asked.model_dump(exclude=NOT_EVIDENCE) == settings.model_dump(exclude=NOT_EVIDENCE)
    return same and settings.approval.needed


def close_expired(client: MlflowClient, ledger: Ledger) -> None:
    """Record that nobody answered in time; nothing has changed. Needs the model's lock."""
    entries = ledger.entries()
    answered = {entry.decision.answers for entry in entries}
    for entry in entries:
        decision = entry.decision
        late = decision.verdict == "awaiting approval" and (decision.deadline or "") <= now()
        if late and decision.number not in answered:
            why = f"Nobody answered decision {decision.number} until {decision.deadline}."
            aliases = Aliases.of(aliases_of(client, ledger.model))
            closed = {"verdict": "unchanged", "why": why, "answers": decision.number, "when": now(), "deadline": None}
            record_and_move(client, ledger, decision.model_copy(update={**closed, "before": aliases, "after": aliases}))


def _without_candidate(ledger: Ledger, settings: PromotionSettings, aliases: Aliases, client: MlflowClient) -> Decision:
    if aliases.champion is None:
        raise UserError(
            f"The model '{ledger.model}' has no candidate: train one with gpt2flow run, or name a version, "
            f"gpt2flow promote {ledger.model}/1."
        )
    champion = find_version(client, ledger.model, aliases.champion)
    return Match(ledger, settings, aliases, champion).unchanged(f"There is no candidate beside champion {aliases.champion}.")


def _rolled_back(entries: list[LedgerEntry], candidate: str) -> Decision | None:
    """The decision that took the candidate's championship away, unless it was champion again since."""
    for entry in entries[::-1]:
        decision = entry.decision
        if decision.verdict == "promoted" and decision.after.champion == candidate:
            return None
        if decision.verdict == "rolled back" and decision.before.champion == candidate:
            return decision
    return None


def _find_rival(client: MlflowClient, match: Match, entries: list[LedgerEntry]) -> None:
    """The champion; of a first model its base; or the obstacle why neither can be met."""
    aliases = match.aliases
    lost = _lost_champion(entries, aliases)
    if lost and aliases.previous:
        match.obstacle = (
            f"Champion {lost} is gone from the registry: gpt2flow rollback {match.model} puts version {aliases.previous} back."
        )
        return
    try:
        if aliases.champion is None:
            match.rival, match.role = rival_of_first(client, match.candidate)
        else:
            champion = find_version(client, match.model, aliases.champion)
            match.rival = Entrant("champion", champion.uri, champion.folder, champion)
    except UserError as error:
        remedy = f" gpt2flow rollback {match.model} puts the previous champion back." if aliases.previous else ""
        match.obstacle = f"There is nothing to compare with. {error}{remedy}"


def _lost_champion(entries: list[LedgerEntry], aliases: Aliases) -> str | None:
    """The version that the ledger knows as champion, where no version has that alias any more."""
    moved = [entry.decision for entry in entries if entry.applied]
    return moved[-1].after.champion if aliases.champion is None and moved else None


def deadline(hours: float) -> str:
    """So many hours from now."""
    return (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")
