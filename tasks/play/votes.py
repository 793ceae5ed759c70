"""Votes in MLflow: an experiment a model, a run for each champion and candidate, a metric and a file for each vote."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient

from tasks.play.duels import Duel
from tasks.play.play_request import Choice
from tasks.registry.alias_lock import now, who
from tasks.tracking.mlflow_mirror import create_experiment

PREFERENCE, SHARE = "preference", "candidate_share"
"""Metrics, a step a vote: 1 for the candidate, 0 for the champion, a half for neither; and the mean so far."""
VALUES = {"champion": 0.0, "equal": 0.5, "candidate": 1.0}


@dataclass(frozen=True)
class Tally:
    """Votes of all people on one champion and one candidate."""

    champion: int
    candidate: int
    equal: int


def log_vote(client: MlflowClient, duel: Duel, choice: Choice) -> Tally:
    """Record the vote and return how they stand; raises MlflowException where MLflow does not take it."""
    run, preferred = _run_of(client, duel), duel.preferred(choice)
    record = {**duel.record(), "choice": choice, "preferred": preferred, "when": now(), "who": who()}
    client.log_dict(run, record, f"votes/{duel.number}.json")
    before = [metric.value for metric in client.get_metric_history(run, PREFERENCE)]
    values = [*before, VALUES[preferred]]
    client.log_metric(run, PREFERENCE, VALUES[preferred], step=len(values))
    client.log_metric(run, SHARE, sum(values) / len(values), step=len(values))
    return Tally(**{name: values.count(value) for name, value in VALUES.items()})


def _run_of(client: MlflowClient, duel: Duel) -> str:
    """The MLflow run of these two versions, found or created."""
    name = f"votes/{duel.model}"  # no fine-tune can have that name
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else create_experiment(client, name)
    pair = {"champion": duel.champion, "candidate": duel.candidate}
    wanted = " and ".join(f"tags.{role} = '{version}'" for role, version in pair.items())
    if found := client.search_runs([experiment_id], wanted, max_results=1):
        return str(found[0].info.run_id)
    made = client.create_run(experiment_id, tags=pair, run_name=f"{duel.candidate} against {duel.champion}")
    client.set_terminated(made.info.run_id)  # nothing runs; votes may come for as long as both are there
    return str(made.info.run_id)
