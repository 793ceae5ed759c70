"""The ledger of a registered model: every decision about its champion, in order, each with the fingerprint of the last one.

It is kept in MLflow, one experiment a model and one run a decision, with the whole record and its page as artifacts; the
workspace has a copy of the records, which is read where MLflow is away. A record is complete before any alias moves: its run
carries the tag FINGERPRINT from then on, and APPLIED once the aliases are where it says.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from gpt2core.machine.durable import write_text
from gpt2core.machine.sealed_json import DamagedFileError, read_sealed, write_sealed
from tasks.evidence.evidence import Evidence, Fact
from tasks.promotion.rules import RuleFinding, Verdict
from tasks.registry.lookup import Aliases
from tasks.tracking.mlflow_mirror import create_experiment
from tasks.workspace.folders import Workspace

RECORD, PAGE = "decision.json", "decision.html"
ENTRY, FINGERPRINT, APPLIED = "gpt2flow.decision", "gpt2flow.fingerprint", "gpt2flow.applied"
FLOW_RUN = "prefect_flow_run"
"""Note: the flow run that is suspended until a person answers."""
LONGEST_TAG = 4000
"""Characters of the grounds that stand in a tag; the record has all of them."""


class Approval(Fact):
    """A person's answer."""

    by: str
    agreed: bool
    reason: str


MOVING: frozenset[Verdict] = frozenset(("promoted", "rolled back"))
"""Verdicts that move aliases."""


class Decision(Fact):
    """What was decided, on what grounds, and where the aliases stood before and shall stand after."""

    number: int = 0
    model: str
    verdict: Verdict
    why: str
    when: str
    who: str
    before: Aliases
    after: Aliases
    key: str = ""
    """Hash of what was decided on; the same again has the same answer."""
    candidate: str = ""
    """Content of the candidate."""
    rival: str = ""
    text: str = ""
    attempt: int = 0
    deadline: str | None = None
    """Until when a person may answer."""
    answers: int | None = None
    """Number of the question that this decision answers, closes or takes the place of."""
    approval: Approval | None = None
    previous_fingerprint: str = ""
    findings: list[RuleFinding] = []
    evidence: Evidence | None = None
    settings: dict[str, Any] = {}
    versions: dict[str, str] = {}
    """Of gpt2flow and the libraries that decide about figures."""

    def in_short(self) -> Decision:
        """Without what fills pages."""
        left_out: dict[str, Any] = {
            "findings": [],
            "evidence": None,
            "settings": {},
            "versions": {},
            "why": self.why[:LONGEST_TAG],
        }
        return self.model_copy(update=left_out)


@dataclass(frozen=True)
class LedgerEntry:
    """A decision in the ledger."""

    decision: Decision
    """In short."""
    fingerprint: str
    run_id: str
    applied: bool
    flow_run: str | None = None
    """Prefect's, which is suspended until a person answers."""


class Ledger:
    """The decisions about one model. Appending needs the model's lock."""

    def __init__(self, client: MlflowClient, model: str) -> None:
        self._client = client
        self.model = model

    @property
    def folder(self) -> Path:
        """Copies of the records in this workspace, a folder each."""
        return Workspace.current().promotions / self.model

    def entries(self) -> list[LedgerEntry]:
        """All complete decisions, oldest first."""
        found = [_entry(run) for run in self._runs() if FINGERPRINT in run.data.tags]
        return sorted(found, key=lambda entry: entry.decision.number)

    def append(self, decision: Decision, render: Callable[[Decision], str]) -> tuple[Decision, LedgerEntry]:
        """Number, chain, write and seal a decision; when this returns it is durable, and nothing has moved yet."""
        entries = self.entries()
        last = entries[-1] if entries else None
        number, previous = (last.decision.number + 1, last.fingerprint) if last else (1, "")
        numbered = decision.model_copy(update={"number": number, "previous_fingerprint": previous})
        content = numbered.model_dump(mode="json")
        entry_tag = {ENTRY: numbered.in_short().model_dump_json()}
        run = self._client.create_run(self._experiment(), tags=entry_tag, run_name=f"{number}: {numbered.verdict}")
        entry = LedgerEntry(numbered.in_short(), fingerprint_of(content), run.info.run_id, applied=False)
        self._log(entry, content, render(numbered))
        self._log_figures(entry, numbered)
        self._client.set_tag(entry.run_id, FINGERPRINT, entry.fingerprint)
        return numbered, entry

    def mark_applied(self, entry: LedgerEntry) -> None:
        """The aliases are where the decision says."""
        self._client.set_tag(entry.run_id, APPLIED, "yes")
        self._client.set_terminated(entry.run_id, "FINISHED")

    def note(self, entry: LedgerEntry, key: str, text: str) -> None:
        """Add something that became known later, such as a hook that failed."""
        self._client.set_tag(entry.run_id, f"gpt2flow.{key}", text[:LONGEST_TAG])

    def remove_incomplete(self) -> None:
        """Decisions that a kill cut short before they were sealed; nothing has moved for them."""
        for run in self._runs():
            if FINGERPRINT not in run.data.tags:
                self._client.delete_run(run.info.run_id)

    def record(self, entry: LedgerEntry) -> Decision | None:
        """The whole record, from this workspace or from MLflow; None where neither has it as it was sealed."""
        copy = self._copy(entry.decision.number, RECORD)
        if (content := _content(copy)) and fingerprint_of(content) == entry.fingerprint:
            return Decision.model_validate(content)
        with suppress(MlflowException, OSError), tempfile.TemporaryDirectory() as scratch:
            file = mlflow.artifacts.download_artifacts(f"runs:/{entry.run_id}/{RECORD}", dst_path=scratch)
            if (content := _content(Path(file))) and fingerprint_of(content) == entry.fingerprint:
                copy.parent.mkdir(parents=True, exist_ok=True)
                write_sealed(copy, content)
                return Decision.model_validate(content)
        return None

    def copies(self) -> list[tuple[Decision, str]]:
        """The records in this workspace with their fingerprints, oldest first, for when MLflow is away."""
        found = [content for file in sorted(self.folder.glob(f"*/{RECORD}")) if (content := _content(file))]
        return [(Decision.model_validate(content), fingerprint_of(content)) for content in found]

    def page(self, number: int) -> Path:
        """Where the page of a decision lies in this workspace."""
        return self._copy(number, PAGE)

    def _copy(self, number: int, file: str) -> Path:
        return self.folder / f"{number:06d}" / file

    def _log(self, entry: LedgerEntry, content: dict[str, Any], page: str) -> None:
        """Write record and page here and to MLflow."""
        record, shown = (self._copy(entry.decision.number, file) for file in (RECORD, PAGE))
        record.parent.mkdir(parents=True, exist_ok=True)
        write_text(shown, page)
        write_sealed(record, content)
        for file in (shown, record):
            self._client.log_artifact(entry.run_id, str(file))

    def _log_figures(self, entry: LedgerEntry, decision: Decision) -> None:
        outcome = decision.evidence.outcome if decision.evidence else None
        for name in ("gain", "low", "high", "p_value") if outcome else ():
            if (value := getattr(outcome, name)) is not None:
                self._client.log_metric(entry.run_id, name, value)

    def _runs(self) -> list[Run]:
        experiment = self._client.get_experiment_by_name(self._name)
        if experiment is None:
            return []
        found: list[Run] = []
        page = self._client.search_runs([experiment.experiment_id])
        while True:
            found += page
            if not page.token:
                return found
            page = self._client.search_runs([experiment.experiment_id], page_token=page.token)

    def _experiment(self) -> str:
        experiment = self._client.get_experiment_by_name(self._name)
        if experiment is None:
            return create_experiment(self._client, self._name)
        if experiment.lifecycle_stage != "active":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    @property
    def _name(self) -> str:
        return f"promotions/{self.model}"  # no run can have that name


def fingerprint_of(content: dict[str, Any]) -> str:
    """Hash of a record as it was written, whatever fields later versions know."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(file: Path) -> dict[str, Any] | None:
    """A record's file; None where it is missing, or a bit of it differs from what was written."""
    try:
        return read_sealed(file)
    except (OSError, DamagedFileError):
        return None


def broken_links(entries: Sequence[tuple[Decision, str]]) -> list[str]:
    """What is wrong with a ledger of (decision, fingerprint): a number that is missing, a record that is another one by now."""
    problems, number, fingerprint = [], 0, ""
    for decision, own in entries:
        if decision.number != number + 1:
            problems.append(f"decision {number + 1} is missing")
        elif decision.previous_fingerprint != fingerprint:
            problems.append(f"decision {number} is not what it was when decision {decision.number} was made")
        number, fingerprint = decision.number, own
    return problems


def _entry(run: Run) -> LedgerEntry:
    tags = run.data.tags
    decision, flow_run = Decision.model_validate_json(tags[ENTRY]), tags.get(f"gpt2flow.{FLOW_RUN}")
    return LedgerEntry(decision, tags[FINGERPRINT], run.info.run_id, APPLIED in tags, flow_run)
