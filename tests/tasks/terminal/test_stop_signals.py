"""What signals do is ours to say, whatever a library installs. How they end runs is tested in `tests/faults/test_kills.py`."""

import signal

import pytest

from tasks.terminal.stop_signals import STOPPING, keeping_handlers, stopping_on_signals


@pytest.mark.parametrize("number", STOPPING)
def test_a_library_s_handler_does_not_stay(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stopping_on_signals():
        ours = signal.getsignal(number)
        with keeping_handlers():
            signal.signal(number, signal.SIG_IGN)
        assert signal.getsignal(number) == ours != before
    assert signal.getsignal(number) is before
