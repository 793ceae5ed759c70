"""The stages of a promotion as Prefect tasks: match, text, measurement, evidence, decision."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import Any, Literal

from mlflow import MlflowClient
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled

from configs.errors import UserError
from configs.promotion import PromotionSettings
from tasks.evidence.comparison import gains_by_source, outcome_of, test_at_attempt
from tasks.evidence.deciding_text import FrozenText, NoTextError, freeze_text
from tasks.evidence.entrant import config_of
from tasks.evidence.evidence import Evidence
from tasks.evidence.measure import MeasuredEntrant, measure_entrant, race
from tasks.promotion import match as matching
from tasks.promotion import question
from tasks.promotion.aliases import finish_interrupted
from tasks.promotion.ledger import MOVING, Decision, LedgerEntry
from tasks.promotion.match import Match, Settled
from tasks.promotion.record import record_and_move
from tasks.promotion.rules import judge, reason
from tasks.registry.alias_lock import moving_aliases, now, who
from tasks.registry.lookup import Aliases, aliases_of
from tasks.terminal.console import begin, say
from tasks.tracking.fresh_process import problem_in_fresh_process
from tasks.tracking.retrying import DELAYS, is_curable


@dataclass(frozen=True)
class BothMeasured:
    """What was measured of both; nothing where there is no text to measure on."""

    text: FrozenText | None = None
    candidate: MeasuredEntrant | None = None
    rival: MeasuredEntrant | None = None


@dataclass(frozen=True)
class Trial:
    """Whether the candidate was tried in a fresh process, and what was wrong."""

    tried: bool = False
    problem: str | None = None


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(DELAYS),
    retry_delay_seconds=DELAYS,
    retry_condition_fn=is_curable,
)
def find_match(model: str, version: str | None, settings: PromotionSettings | None) -> Match | Settled:
    """Candidate and rival, or an answer that is known already. `settings` are laid over those of the candidate's own run."""
    found = matching.find_match(MlflowClient(), model, version, settings or PromotionSettings())
    if isinstance(found, Match):
        rival = f"{found.role} {found.rival.reference}" if found.rival else "nobody"
        say("match", f"{found.candidate.uri} meets {rival}")
    return found


@task(cache_policy=NO_CACHE, persist_result=False)
def freeze_deciding_text(match: Match) -> FrozenText | None:
    """The text that decides; None where there is none, and then the match knows the obstacle."""
    if match.rival is None:
        return None
    client = MlflowClient()
    candidate = match.entrant.learner(client)
    assert candidate is not None
    try:
        text = freeze_text(match.settings, candidate, match.rival.learner(client), config_of(match.candidate).data)
    except NoTextError as error:
        match.obstacle = str(error)
        return None
    say("text", f"{text.facts.documents:,} documents, {text.facts.bytes:,} bytes, {text.facts.origin}")
    return text


@task(cache_policy=NO_CACHE, persist_result=False)
def measure_model(match: Match, side: Literal["candidate", "rival"], text: FrozenText) -> MeasuredEntrant | None:
    """Loss by document, samples, canaries and tasks of one model; None where it cannot be loaded, and the match knows why."""
    entrant = match.entrant if side == "candidate" else match.rival
    assert entrant is not None
    begin(entrant.title, f"scoring the text with {entrant.reference}, and writing {match.settings.samples} samples")
    try:
        loaded = entrant.load()
    except UserError as error:
        if side == "candidate":
            match.damage = str(error).removesuffix(".")
        else:
            match.obstacle = f"The {entrant.title} cannot be loaded, so there is nothing to compare with. {error}"
        return None
    found = measure_entrant(entrant, loaded, text.documents, match.questions())
    bits = found.contender.bits_per_byte
    say(entrant.title, "its loss is no number" if bits is None else f"{bits:.4f} bits per byte")
    return found


@task(cache_policy=NO_CACHE, persist_result=False)
def time_models(
    match: Match, text: FrozenText, candidate: MeasuredEntrant | None, rival: MeasuredEntrant | None
) -> BothMeasured:
    """All that was measured, with the seconds that each model takes for a token, measured in turns."""
    if match.rival is None or candidate is None or rival is None:
        return BothMeasured()
    prompts = match.questions().prompts
    times = race(match.entrant, match.rival, prompts[0] if prompts else "")
    timed = [
        MeasuredEntrant(one.contender.model_copy(update={"seconds_per_token": seconds}), one.scores)
        for one, seconds in zip((candidate, rival), times, strict=True)
    ]
    return BothMeasured(text, timed[0], timed[1])


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(DELAYS),
    retry_delay_seconds=DELAYS,
    retry_condition_fn=is_curable,
)
def known_answer(match: Match, text: FrozenText | None) -> Decision | None:
    """The last decision on just these models, this text and these rules, unless it waited for a person or fell by the clock."""
    if text is None:
        return None
    key = match.key(text.facts.sha256)
    same = [match.ledger.record(entry) or entry.decision for entry in match.ledger.entries() if entry.decision.key == key]
    if not same or same[-1].verdict not in ("refused", "undecided") or _too_slow(same[-1]):
        return None
    return match.unchanged(f"Decided before, as number {same[-1].number}: {same[-1].verdict}. {same[-1].why}")


def _too_slow(decision: Decision) -> bool:
    """Whether speed broke a rule, which is the one figure that another day may measure otherwise."""
    return any(finding.rule == "seconds_per_token" and finding.mark == "broken" for finding in decision.findings)


@task(cache_policy=NO_CACHE, persist_result=False)
def try_candidate(match: Match, found: BothMeasured) -> Trial:
    """Load and generate in a fresh process, if all other rules hold: nobody else needs to wait for that."""
    if match.damage:
        return Trial(True, match.damage)
    if judge(match.settings.rules, _evidence(match, found, Trial()))[0] != "promoted":
        return Trial()
    prompts = match.questions().prompts
    begin("candidate", "trying it in a fresh process")
    return Trial(True, problem_in_fresh_process(match.candidate.uri, prompts[0] if prompts else ""))


@task(cache_policy=NO_CACHE, persist_result=False)
def decide(match: Match, found: BothMeasured, trial: Trial) -> Decision:
    """Judge, record and move: the record is durable before an alias moves. Raises UserError if others moved them meanwhile."""
    client, settings = MlflowClient(), match.settings
    with moving_aliases(client, match.model, f"deciding about {match.candidate.uri}", settings.wait):
        finish_interrupted(client, match.ledger)
        _require_same_aliases(client, match)
        decision = _decision(match, _evidence(match, found, trial))
        withdrawn = _in_place_of(match, decision)
        if withdrawn:
            decision = decision.model_copy(update={"answers": withdrawn.decision.number})
        done = record_and_move(client, match.ledger, decision)
    if withdrawn and withdrawn.flow_run:
        question.end(withdrawn.flow_run, Cancelled(message=f"Withdrawn: decision {done.number} took its place."))
    return done


def _in_place_of(match: Match, decision: Decision) -> LedgerEntry | None:
    """The question that this decision makes void: about the same version, or about another one while this one gets on."""
    waiting = matching.waiting_for_answer(match.ledger.entries(), match.aliases)
    if waiting is None:
        return None
    same = waiting.decision.after.champion == match.candidate.number
    return waiting if same or decision.verdict in (*MOVING, "awaiting approval") else None


def _require_same_aliases(client: MlflowClient, match: Match) -> None:
    current = Aliases.of(aliases_of(client, match.model))
    if current.champion != match.aliases.champion:
        raise UserError(
            f"The champion of {match.model} was version {match.aliases.champion} and is {current.champion} now, moved by "
            "somebody meanwhile: run the same command again."
        )
    match.aliases = current


def _decision(match: Match, evidence: Evidence) -> Decision:
    settings, aliases, number = match.settings, match.aliases, match.candidate.number
    verdict, findings = judge(settings.rules, evidence)
    waits = verdict == "promoted" and settings.approval.needed
    promoted = Aliases(number, aliases.champion, None if aliases.candidate == number else aliases.candidate)
    candidate, rival, text, outcome = evidence.candidate, evidence.rival, evidence.text, evidence.outcome
    return Decision(
        model=match.model,
        verdict="awaiting approval" if waits else verdict,
        why=reason(verdict, findings),
        when=now(),
        who=who(),
        before=aliases,
        after=promoted if verdict == "promoted" else aliases,
        key=match.key(text.sha256) if text else "",
        candidate=candidate.content if candidate else "",
        rival=rival.content if rival else "",
        text=text.sha256 if text else "",
        attempt=outcome.attempt if outcome else 0,
        deadline=matching.deadline(settings.approval.hours) if waits else None,
        findings=findings,
        evidence=evidence,
        settings=settings.model_dump(mode="json"),
        versions={name: package_version(name) for name in ("gpt2flow", "torch", "numpy", "tokenizers")},
    )


def _evidence(match: Match, found: BothMeasured, trial: Trial) -> Evidence:
    tried: dict[str, Any] = {"tried": trial.tried, "fresh_process": trial.problem}
    if found.text is None or found.candidate is None or found.rival is None:
        return Evidence(model=match.model, obstacle=match.obstacle, **tried)
    text, attempt, settings = found.text, match.attempt(found.text.facts.sha256), match.settings
    candidate, rival = found.candidate, found.rival
    test = test_at_attempt(rival.scores, candidate.scores, settings.rules.margin, settings.error_rate, attempt)
    by_source = gains_by_source(rival.scores, candidate.scores, text.documents)
    return Evidence(
        model=match.model,
        candidate=candidate.contender,
        rival=rival.contender,
        role=match.role,
        text=text.facts,
        outcome=outcome_of(test, attempt, by_source),
        **tried,
    )
