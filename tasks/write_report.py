"""The report on a run: one self-contained page in the run's folder and in MLflow, and its short form in Prefect."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from gpt2core.machine.durable import write_text
from tasks.finetuning.prefect_progress import artifact_key
from tasks.reports.facts import RunFacts, gather_facts
from tasks.reports.lens import recorded_histories, write_across
from tasks.reports.page import render_report
from tasks.runs.run_folder import RunFolder
from tasks.servers.addresses import mlflow_run_page
from tasks.terminal.prefect_page import shown_if_served


@task(cache_policy=NO_CACHE, persist_result=False)
def write_report(folder: RunFolder) -> Path:
    """Write the page anew and show its short form in Prefect; once the run is finished, the lens across training as well."""
    facts = gather_facts(folder)
    write_text(folder.report_page, render_report(facts))
    if folder.outcome() == "finished":
        for number, history in enumerate(recorded_histories(folder, facts.steps), 1):
            write_across(history, folder.lens, f"{folder.id}: the lens across training", f"across-{number}")
    with shown_if_served("the report"):
        create_markdown_artifact(markdown=short_form(facts, folder), key=artifact_key("report", folder))
    return folder.report_page


def short_form(facts: RunFacts, folder: RunFolder) -> str:
    """The page's headlines in Markdown, with links to the whole of it."""
    rows = [f"| {headline.name} | {headline.before} | {headline.best} |" for headline in facts.headlines]
    table = ["| | first | best |", "|---|---|---|", *rows] if rows else []
    warnings = [f"- **{warning}**" for warning in facts.warnings]
    links = [f"- [report]({folder.report_page.as_uri()}): {folder.report_page}", *_mlflow_link(folder)]
    return "\n".join([f"## {facts.run}", f"{facts.state}", "", *table, "", *warnings, "", *links, ""])


def _mlflow_link(folder: RunFolder) -> list[str]:
    record = folder.read_record()
    if record is None or not record.mlflow_run_id:
        return []
    page = mlflow_run_page(record.mlflow_experiment_id or "0", record.mlflow_run_id)
    return [f"- [MLflow]({page}): run `{record.mlflow_run_id}`, also shown by `gpt2flow dashboard`"]
