"""Who shows no pulse is lost, and whoever cannot show one any more ends."""

import os
import threading
import time

import pytest
import torch.distributed as dist

from tasks.processes import pulse
from tasks.processes.pulse import LOST, Pulses, show_pulse


def test_a_process_is_there_as_long_as_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "INTERVAL", 0.02)
    store = dist.HashStore()
    pulses = Pulses(store, size=3, limit=0.5)
    show_pulse(lambda: store, rank=1, limit=60)
    deadline = time.monotonic() + 1.2
    while time.monotonic() < deadline:
        found = pulses.ended()
        time.sleep(0.02)
    assert found == {2: "has not answered for 0.5 s"}


def test_a_process_whose_line_is_cut_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    left, codes = threading.Event(), list[int]()
    monkeypatch.setattr(os, "_exit", lambda code: (codes.append(code), left.set()))
    show_pulse(lambda: threading.Event().wait(), rank=1, limit=0.1)  # type: ignore[arg-type, return-value]  # never connects
    assert left.wait(30)
    assert codes == [LOST]
    assert capsys.readouterr().err == "The first process has not been reached for 0.1 s: this one ends.\n"
