"""A process that trains beside the first one of its run, and does what that says.

`python -m tasks.finetuning.follow HOST PORT RANK SIZE TIMEOUT` is one on the first one's machine. It ends when that does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.checkpoints.background_saver import BackgroundSaver
from gpt2core.checkpoints.checkpoint import Checkpoint, Snapshot, restore, take_snapshot
from gpt2core.checkpoints.moments import write_for_the_first
from gpt2core.distributed.messages import Messages, PeerLostError
from gpt2core.distributed.process_group import ALONE, ProcessGroup
from gpt2core.distributed.processes import device_of
from gpt2core.distributed.sameness import what_decides
from gpt2core.store.token_store import open_store
from gpt2core.text.tokenizer import load_tokenizer
from gpt2core.training.trainer import DivergedError, Trainer, TrainerState
from tasks.finetuning.build_trainer import build_trainer
from tasks.processes.pulse import LOST


class Follower:
    """Does what the first process says; process `number` of `here` on its machine."""

    def __init__(self, messages: Messages, number: int, here: int) -> None:
        self._messages = messages
        self._number = number
        self._here = here
        self._group = ALONE
        self._text = ""
        self._trainer: Trainer
        self._saver: BackgroundSaver
        self._folder = Path()

    def follow(self) -> int:
        """Until the first process says that this is the end, with which exit code; raises PeerLostError where it is gone."""
        verbs: dict[str, Callable[..., None]] = {
            "meet": self._meet,
            "build": self._build,
            "restore": self._restore,
            "run_until": self._run_until,
            "save": self._save,
        }
        while (said := self._messages.listen())["verb"] != "end":
            verbs[said.pop("verb")](**said)
        self._group.close()
        return int(said.get("code", 0))

    def _meet(self, timeout: float) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_device(self._number % torch.cuda.device_count())
        self._group = ProcessGroup(self._messages, timeout, self._here)

    def _build(self, config: dict[str, Any], base: str | None, tokenizer: str, store: str, compiled: str) -> None:
        _require_here(base, tokenizer, store)
        settings = RunConfig.model_validate(config)
        train = settings.train.model_copy(update={"device": device_of(settings.train, self._number)})
        settings, opened = settings.model_copy(update={"train": train}), open_store(Path(store), verify=False)
        known, place = load_tokenizer(tokenizer), Path(base) if base else None
        self._trainer = build_trainer(Path(compiled), settings, place, known, opened, self._group)
        self._saver = BackgroundSaver(self._trainer, self._write, train.save_beside)
        self._text = opened.hash
        _stop_on_signal(self._trainer)

    def _restore(self, checkpoint: str | None, state: dict[str, Any]) -> None:
        found = TypeAdapter(TrainerState).validate_python(state)
        if checkpoint:
            _require_here(checkpoint)
            restore(self._trainer, Checkpoint(Path(checkpoint), found.step))
        self._trainer.state = found
        device = self._trainer.model.wte.weight.device
        self._messages.answer(**what_decides(device, self._text, self._trainer.any_threads))
        self._group.require_same(self._trainer.model.parameters())

    def _run_until(self, step: int) -> None:
        with suppress(DivergedError):  # the first process has found the same, and says where to go on
            self._trainer.run_until(step)

    def _save(self, folder: str) -> None:
        self._saver.wait()
        self._folder = Path(folder)
        self._saver.save(replace(take_snapshot(self._trainer, {}), weights={}, frozen={}))

    def _write(self, snapshot: Snapshot) -> None:
        """In the saver's thread."""
        write_for_the_first(self._folder, snapshot.moments, self._messages)


@contextmanager
def telling_the_others(messages: Messages) -> Iterator[None]:
    """Inside, what this process fails of reaches the first one, and a lost one ends it with exit code `LOST`."""
    try:
        yield
    except PeerLostError as lost:
        print(lost, file=sys.stderr)
        sys.exit(LOST)
    except BaseException as error:
        messages.give_up(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        raise


def _require_here(*paths: str | None) -> None:
    for path in paths:
        if path and not Path(path).exists():
            raise UserError(
                f"{path} is not on {os.uname().nodename}: all machines of a run must see the same workspace (GPT2FLOW_HOME) "
                "and base model under the same path, on a shared file system."
            )


def _stop_on_signal(trainer: Trainer) -> None:
    """SIGTERM stops the run in good order, as it does in the first process; a second one ends this process."""

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        trainer.request_stop()

    signal.signal(signal.SIGTERM, stop)


def _end_with_first() -> None:
    os.read(sys.stdin.fileno(), 1)  # without Python's buffer, whose lock would be held when the process ends
    os._exit(LOST)


def _main() -> None:
    threading.Thread(target=_end_with_first, daemon=True).start()
    host, port, rank, size, timeout = sys.argv[1:]
    limit = timedelta(seconds=float(timeout))
    store = dist.TCPStore(host, int(port), int(size), timeout=limit)  # type: ignore[attr-defined]
    messages = Messages(store, int(rank), int(size))
    with telling_the_others(messages):
        messages.answer()
        Follower(messages, int(rank), int(size)).follow()


if __name__ == "__main__":
    _main()
