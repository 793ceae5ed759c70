"""Commands and web addresses that are told of a promotion or rollback, after it: what fails there moves nothing back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from mlflow import MlflowClient
from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.errors import UserError
from configs.promotion import HookSettings, PromotionSettings
from tasks.alerts.delivery import post_json, run_with_input
from tasks.alerts.secret_addresses import read_addresses, without_secrets
from tasks.promotion.ledger import Decision, Ledger
from tasks.terminal.console import say, warn

PAUSE = 1.0
"""Seconds before the second attempt; twice as many before each further one."""


@task(cache_policy=NO_CACHE, persist_result=False)
def run_hooks(decision: Decision) -> None:
    """Tell everybody who wants to know; failures are said and noted in the ledger."""
    tell(decision)


def tell(decision: Decision) -> None:
    """As `run_hooks`, outside of a flow."""
    settings = PromotionSettings.model_validate(decision.settings).hooks
    wanted: Sequence[str] = []
    if decision.verdict == "promoted":
        wanted = settings.on_promotion
    elif decision.verdict == "rolled back":
        wanted = settings.on_rollback
    problems = [f"{hook}: {problem}" for hook in wanted if (problem := _try(hook, decision, settings))]
    for problem in problems:
        warn("hook", problem)
    if problems:
        _note(decision, "; ".join(problems))


def _try(hook: str, decision: Decision, settings: HookSettings) -> str | None:
    """Run a hook as often as allowed; returns the last problem."""
    problem = None
    for attempt in range(settings.attempts):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1))
        problem = _call(hook, decision, settings.timeout)
        if problem is None:
            say("hook", hook)
            return None
    return f"{problem} ({settings.attempts} attempts)"


def _call(hook: str, decision: Decision, timeout: float) -> str | None:
    body = json.dumps(decision.in_short().model_dump(mode="json"))
    if hook.startswith(("env:", "file:")):
        return _post_secretly(hook, body, timeout)
    if hook.startswith(("http://", "https://")):
        return post_json(hook, body, timeout)
    told = {"MODEL": decision.model, "VERSION": decision.after.champion or "", "VERDICT": decision.verdict}
    return run_with_input(hook, body, timeout, {f"GPT2FLOW_{name}": value for name, value in told.items()})


def _post_secretly(place: str, body: str, timeout: float) -> str | None:
    """To all addresses that are found there, which no sentence repeats."""
    try:
        addresses = read_addresses(place)
    except UserError as error:
        return str(error)
    problems = ((address, post_json(address, body, timeout)) for address in addresses)
    return next((without_secrets(problem, address) for address, problem in problems if problem), None)


def _note(decision: Decision, problem: str) -> None:
    ledger = Ledger(MlflowClient(), decision.model)
    for entry in ledger.entries():
        if entry.decision.number == decision.number:
            ledger.note(entry, "hooks", problem)
