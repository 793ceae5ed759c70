"""What processes tell one another beside tensors: JSON in the key-value store that they met at.

The first process says what comes next, the others answer; and who is lost is found out here.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch.distributed as dist

from configs.errors import UserError

LOOK_INTERVAL = 0.02  # seconds
PATIENCE = 5.0  # seconds in which all who are well say that they have lost somebody

Ended = Callable[[], Mapping[int, str]]
"""Ranks of processes that are known to have ended, and how: 'was killed by SIGKILL'."""


class PeerLostError(UserError):
    """Another process of the run has ended, hangs or cannot be reached."""


class Messages:
    """Between `size` processes, of which this one is number `rank`."""

    def __init__(
        self,
        store: dist.Store,  # type: ignore[name-defined]
        rank: int,
        size: int,
        ended: Ended = dict,
    ) -> None:
        self.store = store
        self.rank = rank
        self.size = size
        self._ended = ended
        self._said = 0

    def say(self, verb: str, **details: Any) -> None:
        """Of the first process: tell the others what comes next."""
        self._put(f"said/{self._said}", {"verb": verb, **details})
        self._said += 1

    def listen(self) -> dict[str, Any]:
        """Of the others: what the first process says next, which may take it hours; raises PeerLostError where it is gone."""
        said: dict[str, Any] = self._await(f"said/{self._said}")
        self._said += 1
        return said

    def answer(self, **details: Any) -> None:
        """Of the others: reply to what was said last."""
        self.hand_in(f"answer/{self._said}", **details)

    def answers(self, limit: float = math.inf) -> dict[int, dict[str, Any]]:
        """Of the first process: what each of the others replies to what was said last.

        Raises PeerLostError that names one who cannot, or has not done so in `limit` seconds.
        """
        return self.handed_in(f"answer/{self._said}", limit)

    def hand_in(self, what: str, **details: Any) -> None:
        """Of the others: tell how something of that name has ended, which the first process looks at when it wants to."""
        self._put(f"{what}/{self.rank}", details)

    def handed_in(self, what: str, limit: float = math.inf) -> dict[int, dict[str, Any]]:
        """Of the first process: what each of the others has handed in; raises PeerLostError as `answers` does."""
        deadline = time.monotonic() + limit
        return {rank: self._await(f"{what}/{rank}", deadline) for rank in range(1, self.size)}

    def give_up(self, reason: str) -> None:
        """Tell the others why this process ends; nothing where it is they who are lost."""
        with suppress(RuntimeError):
            self.store.set(f"lost/{self.rank}", reason)

    def lost(self, waited: float = 0.0) -> PeerLostError:
        """Find out who is lost, after an exchange has failed, or has not ended in so many seconds: who does not say that he is
        well."""
        self.give_up("")
        reasons, deadline = self._reasons(), time.monotonic() + PATIENCE
        while self._silent(reasons) and time.monotonic() < deadline:
            time.sleep(0.05)
            reasons = self._reasons()
        how = f"has not answered for {waited:g} s" if waited else "is gone, or its machine is"
        silent = dict.fromkeys(self._silent(reasons), how)
        found = {**silent, **self._ended()}
        found |= {rank: f"has failed: {reason}" for rank, reason in reasons.items() if reason}
        if ended_by_signal := {rank: how for rank, how in found.items() if "killed" in how}:
            found = ended_by_signal  # what the others did is a consequence
        return PeerLostError(self._sentence(found))

    def _silent(self, reasons: Mapping[int, str]) -> list[int]:
        ended = self._ended()
        return [rank for rank in range(self.size) if rank not in reasons and rank not in ended]

    def _reasons(self) -> dict[int, str]:
        with suppress(RuntimeError):
            keys = {rank: f"lost/{rank}" for rank in range(self.size)}
            return {rank: self.store.get(key).decode() for rank, key in keys.items() if self.store.check([key])}
        return {0: "the first process is gone"} if self.rank else {}

    def _sentence(self, found: Mapping[int, str]) -> str:
        who = "; ".join(f"{rank} of {self.size} {how}" for rank, how in sorted(found.items()))
        return f"Process {who or 'lost'}: the run ends, and the same command goes on from the last checkpoint."

    def _put(self, key: str, value: Any) -> None:
        try:
            self.store.set(key, json.dumps(value))
        except RuntimeError as error:
            raise self.lost() from error

    def _await(self, key: str, deadline: float = math.inf) -> Any:
        while True:
            try:
                if self.store.check([key]):
                    return json.loads(self.store.get(key))
            except RuntimeError as error:
                raise PeerLostError("The first process, which leads the run, is gone.") from error
            if self._ended() or any(self._reasons().values()) or time.monotonic() > deadline:
                raise self.lost()
            time.sleep(LOOK_INTERVAL)
