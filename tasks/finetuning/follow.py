"""A process that trains beside the first one of its run, and does what that says.

`python -m tasks.finetuning.follow HOST PORT RANK SIZE TIMEOUT` is that process. It ends when the first one does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from configs.errors import UserError
from configs.schema import RunConfig
from gpt2core.checkpoints.checkpoint import Checkpoint, restore
from gpt2core.distributed.messages import Messages, PeerLostError
from gpt2core.distributed.process_group import ProcessGroup
from gpt2core.distributed.processes import device_of
from gpt2core.distributed.sameness import what_decides
from gpt2core.store.token_store import TokenStore, open_store
from gpt2core.text.tokenizer import load_tokenizer
from gpt2core.training.trainer import DivergedError, Trainer, TrainerState
from tasks.finetuning.build_trainer import build_trainer

LOST = 3
"""Exit code of a process whose first one is gone, or which has lost another one."""


def follow(group: ProcessGroup) -> None:
    """Do what the first process says until it says that this is the end; raises PeerLostError where it is gone."""
    built = group.messages.listen()
    store = open_store(built["store"], verify=False)
    trainer = _build(built, store, group)
    _stop_on_signal(trainer)
    while (said := group.messages.listen())["verb"] != "end":
        if said["verb"] == "restore":
            _restore(trainer, said)
            group.messages.answer(**what_decides(trainer.model.wte.weight.device, store.hash))
            group.require_same(trainer.model.parameters())
        else:
            _run_until(trainer, said["step"])


def _build(said: dict[str, Any], store: TokenStore, group: ProcessGroup) -> Trainer:
    config = RunConfig.model_validate(said["config"])
    train = config.train.model_copy(update={"device": device_of(config.train, group.rank)})
    base = Path(said["base"]) if said["base"] else None
    tokenizer = load_tokenizer(said["tokenizer"])
    config = config.model_copy(update={"train": train})
    return build_trainer(Path(said["compiled"]), config, base, tokenizer, store, group)


def _restore(trainer: Trainer, said: dict[str, Any]) -> None:
    state = TypeAdapter(TrainerState).validate_python(said["state"])
    if said["checkpoint"]:
        restore(trainer, Checkpoint(Path(said["checkpoint"]), state.step))
    trainer.state = state


def _run_until(trainer: Trainer, step: int) -> None:
    with suppress(DivergedError):  # the first process has found the same, and says where to go on
        trainer.run_until(step)


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
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(rank) % torch.cuda.device_count())
        messages.answer()
        group = ProcessGroup(messages, float(timeout))
        follow(group)
        group.close()
    except PeerLostError as lost:
        print(lost, file=sys.stderr)
        sys.exit(LOST)
    except BaseException as error:
        messages.give_up(str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    _main()
