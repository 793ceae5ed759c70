"""Which of a deployment's due flow runs begins."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from prefect.client.schemas.responses import FlowRunResponse

import tasks  # noqa: F401  # first: it points Prefect at the tests' workspace
from tasks.scheduling.worker import choose

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)


def due(
    name: str, minutes: int, auto_scheduled: bool = True, run_count: int = 0, created_by: str = "SCHEDULE"
) -> FlowRunResponse:
    return FlowRunResponse(
        id=uuid4(),
        flow_id=uuid4(),
        name=name,
        auto_scheduled=auto_scheduled,
        run_count=run_count,
        created_by={"type": created_by},
        work_pool_id=None,
        next_scheduled_start_time=NOON + timedelta(minutes=minutes),
    )


def test_after_downtime_the_latest_makes_up_for_all_that_were_missed() -> None:
    missed = [due(f"night {number}", number) for number in range(8)]
    first, others = choose(missed)
    assert first.name == "night 7"
    assert [other.name for other in others] == [f"night {number}" for number in range(7)]


def test_what_was_begun_goes_before_what_was_asked_for_and_that_before_the_schedule() -> None:
    begun, asked, scheduled = due("begun", 3, run_count=1), due("asked", 1, auto_scheduled=False), due("scheduled", 0)
    assert choose([scheduled, asked, begun])[0] is begun
    assert choose([scheduled, asked])[0] is asked
    assert choose([scheduled, asked, begun])[1] == []


def test_of_what_schedule_and_events_have_made_only_the_latest_counts() -> None:
    events = [due(f"event {number}", number, auto_scheduled=False, created_by="AUTOMATION") for number in (0, 2)]
    first, others = choose([events[0], due("scheduled", 1), events[1]])
    assert first.name == "event 2"
    assert [other.name for other in others] == ["event 0", "scheduled"]
