"""The sweep: a run for each combination of a grid's values, then the best one registered."""

from __future__ import annotations

from prefect import flow, tags

from configs.errors import UserError
from configs.grid import Member, Sweep
from flows.encode import encode_text
from flows.finetune import finetune
from tasks.finetuning.result import RunResult
from tasks.servers.cancellation import cancellable
from tasks.sweeps.members import train_on_cluster
from tasks.sweeps.outcomes import Outcome, best_of, show_outcomes
from tasks.terminal.console import begin, warn


@flow(name="sweep", flow_run_name="{plan.id}", persist_result=False)
def sweep_grid(plan: Sweep) -> RunResult | None:
    """Train all runs of a sweep, show them side by side, and register the best one if the config says so.

    What is finished is found as finished, and what was interrupted goes on. Raises UserError at the end if a run has failed.
    """
    with cancellable(), tags(plan.id):
        outcomes = _train_on_cluster(plan) if plan.members[0].config.cluster.runner != "local" else _train_here(plan)
        show_outcomes(plan, outcomes)
        best = best_of(outcomes)
        if best and best.member.config.registry.enabled:
            begin("best", best.member.label)
            result: RunResult | None = finetune(best.member.config)
        else:
            result = best.result if best else None
        if failed := sum(bool(outcome.problem) for outcome in outcomes):
            raise UserError(f"{failed} of {len(outcomes)} runs failed, as the table says: the same command tries them again.")
        return result


def _train_here(plan: Sweep) -> list[Outcome]:
    return [_train(member, f"{number} of {len(plan.members)}") for number, member in enumerate(plan.members, 1)]


def _train_on_cluster(plan: Sweep) -> list[Outcome]:
    """The text is encoded first: workers that each train a run could not do it as well."""
    encoded: list[tuple[object, ...]] = []
    for config in (member.config for member in plan.members):
        if (text := (config.data, config.tokenizer, config.model.base)) not in encoded:
            encode_text(config)
            encoded.append(text)
    return train_on_cluster(plan)


def _train(member: Member, place: str) -> Outcome:
    """Train one run; an error is its outcome, so that the others are trained all the same."""
    begin("run", f"{place}: {member.label}")
    try:
        return Outcome(member, finetune(member.unregistered()))
    except Exception as error:
        problem = str(error) or type(error).__name__
        warn("run", f"{member.label} failed: {problem}")
        return Outcome(member, problem=problem)
