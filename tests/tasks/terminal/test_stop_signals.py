"""What signals do is ours to say, whatever a library installs. How they end runs is tested in `tests/faults/test_kills.py`."""

import signal

import pytest

from tasks.terminal.stop_signals import STOPPING, Interrupted, keeping_handlers, naming_interruptions, stopping_on_signals


@pytest.mark.parametrize("number", STOPPING)
def test_a_library_s_handler_does_not_stay(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stopping_on_signals():
        ours = signal.getsignal(number)
        with keeping_handlers():
            signal.signal(number, signal.SIG_IGN)
        assert signal.getsignal(number) == ours != before
    assert signal.getsignal(number) is before


def test_what_a_library_makes_of_an_interruption_is_one() -> None:
    with pytest.raises(Interrupted) as stop, naming_interruptions():  # noqa: PT012  # it is the nesting that is tested
        try:
            raise Interrupted(signal.SIGTERM)
        finally:
            raise ValueError("Task run is not set")
    assert stop.value.signal_number == signal.SIGTERM


def test_a_failure_is_not_an_interruption_though_another_failure_came_before_it() -> None:
    with pytest.raises(ValueError, match="disk"), naming_interruptions():  # noqa: PT012
        try:
            raise KeyError("step")
        except KeyError:
            raise ValueError("The disk is full.")  # noqa: B904
