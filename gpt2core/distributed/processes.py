"""How many processes make an update, and what they have to do."""

from __future__ import annotations

import torch

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.distributed.launch import Launch
from gpt2core.machine.devices import choose_device


def choose_processes(settings: TrainSettings) -> int:
    """The number that `train.processes` stands for; raises UserError where they cannot have a GPU each."""
    if launch := Launch.of_environment():
        return _launched(settings, launch)
    there = _devices(settings)
    if not settings.processes:
        return min(there, settings.accumulate) if settings.batch_size else there
    if settings.processes > there and choose_device(settings.device).type != "cpu":
        raise UserError(
            f"train.processes is {settings.processes}, and train.device '{settings.device}' has {there}: each process needs a "
            f"device of its own. Use train.processes {there}, or train.device cpu."
        )
    return settings.processes


def processes_here(settings: TrainSettings) -> int:
    """How many of them are on this machine."""
    launch = Launch.of_environment()
    return launch.here if launch else choose_processes(settings)


def _launched(settings: TrainSettings, launch: Launch) -> int:
    if settings.processes not in (0, launch.size):
        raise UserError(f"train.processes is {settings.processes}, and torchrun has started {launch.size}: leave it at auto.")
    if launch.here > _devices(settings) and choose_device(settings.device).type != "cpu":
        raise UserError(
            f"torchrun has started {launch.here} processes on this machine, where train.device '{settings.device}' has "
            f"{_devices(settings)}: each process needs a device of its own. Use --nproc-per-node {_devices(settings)}."
        )
    return launch.size


def _devices(settings: TrainSettings) -> int:
    """Of this machine that the processes may share out."""
    device = choose_device(settings.device)
    return torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1


def device_of(settings: TrainSettings, number: int) -> str:
    """The device of this process of several on a machine."""
    device = choose_device(settings.device)
    return f"cuda:{number}" if device.type == "cuda" else str(device)


def describe_shares(processes: int, settings: TrainSettings) -> str:
    """How an update's batches are shared out, and what else is."""
    batches = settings.accumulate
    most = -(-batches // processes)
    each = f"each makes {most}" if batches % processes == 0 else f"each makes {most} at most"
    what = {"none": "", "optimizer": ", the optimizer's state is shared out", "model": ", the model is shared out"}
    return f"{processes}, {each} of an update's {batches} batches{what[settings.shard]}"


def idle_processes(processes: int, settings: TrainSettings) -> str:
    """A sentence where some processes wait in every update, with what would occupy all; empty where none does."""
    batches, windows = settings.accumulate, settings.accumulate * settings.batch_size
    idle = -batches % processes
    if not idle:
        return ""
    best = next((size for size in range(settings.batch_size, 0, -1) if windows % (size * processes) == 0), 0)
    better = (
        f"train.batch_size {best} with train.accumulate {windows // best}"
        if best
        else f"train.accumulate as a multiple of {processes}"
    )
    waiting = "1 of them waits" if idle == 1 else f"{idle} of them wait"
    return (
        f"An update has {batches} {'batch' if batches == 1 else 'batches'} for {processes} processes, so {waiting} "
        f"in {'it' if batches < processes else 'its last round'}: {better} would occupy all (and is another run)."
    )
