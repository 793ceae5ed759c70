"""The pipeline of a night: if the text has changed, go on from the champion, and ask for promotion."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from configs.schema import RunConfig
from flows.finetune import fine_tune
from flows.promote import promote
from tasks.alerts.announcer import telling_of_failure
from tasks.load_dataset import load_dataset
from tasks.maintenance.collection import collect_after_night
from tasks.scheduling.device_lock import DeviceBusyError
from tasks.scheduling.nights import begin_night, end_night
from tasks.servers.cancellation import cancellable
from tasks.terminal.console import say


@flow(flow_run_name="{config.name}", persist_result=False)
def nightly(config: RunConfig) -> State:
    """Train on text that is new since the last night, from the champion on; nothing new is a state of its own: Skipped."""
    with cancellable(), telling_of_failure(config.alerts, config.name):
        files = load_dataset(config.data)
        night = begin_night(config, files)
        if night.ended:
            return _skipped(f"nothing new since the night of {night.begun}")
        try:
            result = fine_tune(night.config(config), files)
        except DeviceBusyError as busy:
            return _skipped(str(busy))
        decision = promote(result.model, result.version, config.promote) if result.version else None
        ended = end_night(night, result, decision)
        say("night", ended.reason)
        if config.schedule.gc:
            collect_after_night(config)
        return Completed(message=ended.reason)


def _skipped(reason: str) -> State:
    say("skipped", reason, mark="[dim]-[/]")
    return Completed(name="Skipped", message=f"skipped: {reason}")
