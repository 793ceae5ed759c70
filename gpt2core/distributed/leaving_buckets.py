"""Gradients that leave for the other processes while backward makes those before them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gpt2core.distributed.buckets import buckets_of


class LeavingBuckets:
    """Buckets of parameters, each of which is sent when all its gradients are made, in the order that all processes have.

    For each backward `begin`, `made` by its hooks, `send_rest`.
    """

    def __init__(self, parameters: list[Tensor], most: int, send: Callable[[list[Tensor]], None]) -> None:
        self.buckets = list(buckets_of(parameters[::-1], most))  # backward makes the last ones first
        self._send = send
        self._bucket_of = {parameter: number for number, bucket in enumerate(self.buckets) for parameter in bucket}
        self._missing: list[set[Tensor]] = []
        self._sent = 0

    @property
    def begun(self) -> bool:
        """Whether something is being sent."""
        return bool(self._missing)

    def begin(self) -> None:
        """What backward makes from now on is to be sent."""
        self._missing, self._sent = [set(bucket) for bucket in self.buckets], 0

    def stop(self) -> None:
        """What backward makes from now on is not to be sent."""
        self._missing = []

    def made(self, parameter: Tensor) -> None:
        """The gradient of this parameter is in its `grad`."""
        if self._missing:
            self._missing[self._bucket_of[parameter]].discard(parameter)
            while self._sent < len(self.buckets) and not self._missing[self._sent]:
                self._send_next()

    def send_rest(self) -> None:
        """Send all that is left, made or not: the others wait for it."""
        while self._sent < len(self.buckets):
            self._send_next()
        self.stop()

    def _send_next(self) -> None:
        self._sent += 1
        self._send(self.buckets[self._sent - 1])
