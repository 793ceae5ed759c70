"""Shows a run's progress, and where MLflow has it, on Prefect's pages, in a thread beside training."""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from types import TracebackType
from uuid import UUID

from httpx import HTTPError
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException

from gpt2core.machine.quantities import duration
from gpt2core.training.callback import Callback, StepsDone
from tasks.runs.run_folder import RunFolder
from tasks.servers.addresses import flow_run_page, mlflow_run_page
from tasks.tracking.mlflow_mirror import NOTE, OUR_NOTE

INTERVAL = 10.0  # seconds between updates of the artifact
PATIENCE = 5.0  # seconds that the end of the run waits for the last update


class PrefectProgress(Callback):
    """Use as a context manager around the work; outside of a flow it does nothing. A lost server is no reason to wait."""

    def __init__(self, folder: RunFolder, steps: int, tokens_per_step: int) -> None:
        context = FlowRunContext.get()
        self._flow_run = context.flow_run.id if context and context.flow_run else None
        self._folder = folder
        self._steps = steps
        self._tokens_per_step = tokens_per_step
        self._latest: StepsDone | None = None
        self._shown: StepsDone | None = None
        self._artifact: UUID | None = None
        self._linked = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._show_often, name="prefect-progress", daemon=True)

    def __enter__(self) -> PrefectProgress:
        if self._flow_run:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._closing.set()
        if self._thread.ident:
            self._thread.join(PATIENCE)

    def on_steps_done(self, done: StepsDone) -> None:
        """Note it for the thread."""
        self._latest = done

    def _show_often(self) -> None:
        ends = False
        while not ends:
            ends = self._closing.wait(INTERVAL)
            with suppress(HTTPError, PrefectException, OSError), get_client(sync_client=True) as client:
                self._show(client)
                self._link(client)

    def _show(self, client: SyncPrefectClient) -> None:
        done = self._latest
        if done is None or done is self._shown:
            return
        share, text = round(100 * done.updates[-1].step / self._steps, 1), self._text(done)
        if self._artifact:
            client.update_artifact(self._artifact, ArtifactUpdate(data=share, description=text))
        else:
            key = artifact_key("progress", self._folder)
            made = ArtifactCreate(key=key, type="progress", data=share, description=text, flow_run_id=self._flow_run)
            self._artifact = client.create_artifact(made).id
        self._shown = done

    def _text(self, done: StepsDone) -> str:
        last = done.updates[-1]
        left = duration((self._steps - last.step) * self._tokens_per_step / done.tokens_per_second)
        return (
            f"Step {last.step:,} of {self._steps:,}: loss {last.loss:.3f}, learning rate {last.learning_rate:.1e}, "
            f"{done.tokens_per_second:,.0f} tokens a second, {left} of training left"
        )

    def _link(self, client: SyncPrefectClient) -> None:
        """As soon as the run is known to MLflow."""
        record = self._folder.read_record()
        if self._linked or record is None or not record.mlflow_run_id:
            return
        page = mlflow_run_page(record.mlflow_experiment_id or "0", record.mlflow_run_id)
        text = f"[{self._folder.id} in MLflow]({page})\n\nRun `{record.mlflow_run_id}`: curves, samples, lens, report."
        key = artifact_key("mlflow", self._folder)
        client.create_artifact(ArtifactCreate(key=key, type="markdown", data=text, flow_run_id=self._flow_run))
        self._linked = True


def tags_of_flow_run() -> dict[str, str]:
    """For the MLflow run: the flow run that works on it now; none outside of a flow."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return {}
    flow_run, page = context.flow_run, flow_run_page(context.flow_run.id)
    note = f"{OUR_NOTE}{flow_run.name}]({page})"
    return {"prefect.flow_run_id": str(flow_run.id), "prefect.flow_run_url": page, NOTE: note}


def artifact_key(subject: str, folder: RunFolder) -> str:
    """A name of a run's artifact such as Prefect allows."""
    return re.sub(r"[^a-z0-9]+", "-", f"{subject}-{folder.id}".lower())
