"""The pipeline of a night: if the text has changed, go on from the champion, and ask for promotion."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from configs.schema import RunConfig
from flows.finetune import fine_tune
from tasks.load_dataset import load_dataset
from tasks.scheduling.device_lock import DeviceBusyError
from tasks.scheduling.nights import begin_night, end_night
from tasks.scheduling.promotion import ask_for_promotion
from tasks.servers.cancellation import cancellable
from tasks.terminal.console import say


@flow(flow_run_name="{config.name}", persist_result=False)
def nightly(config: RunConfig) -> State:
    """Train on text that is new since the last night, from the champion on; nothing new is a state of its own: Skipped."""
    with cancellable():
        files = load_dataset(config.data)
        night = begin_night(config, files)
        if night.ended:
            return _skipped(f"nothing new since the night of {night.begun}")
        try:
            result = fine_tune(night.config(config), files)
        except DeviceBusyError as busy:
            return _skipped(str(busy))
        verdict = ask_for_promotion(config, result)
        end_night(night, result, verdict)
        say("night", verdict.reason)
        return Completed(message=verdict.reason)


def _skipped(reason: str) -> State:
    say("skipped", reason, mark="[dim]-[/]")
    return Completed(name="Skipped", message=f"skipped: {reason}")
