"""Processes that train the same tiny models together; `python several_processes.py SIZES CASES PORT RANK` is one of them."""

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
PATIENCE = 240.0  # seconds

Hashes = dict[str, str]


def train_by(sizes: Sequence[int], cases: Mapping[str, Mapping[str, Any]]) -> list[Hashes]:
    """For each number of processes the hash of weights and moments of each case, which all of them must have the same."""
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, json.dumps(sizes), json.dumps(cases), str(port)]
    pipe = subprocess.PIPE
    started = [subprocess.Popen([*command, str(rank)], stdout=pipe, stderr=pipe, text=True) for rank in range(max(sizes))]
    outputs = [process.communicate(timeout=PATIENCE) for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(error for _, error in outputs)
    by_rank = [json.loads(output) for output, _ in outputs]
    for back, size in enumerate(reversed(sizes), start=1):  # sizes grow, and not every process was there from the first on
        assert all(found[-back] == by_rank[0][-back] for found in by_rank[:size])
    return list(by_rank[0])


def _trained(case: Mapping[str, Any], group: Any) -> str:
    import torch

    from configs.schema import TrainSettings
    from gpt2core.model.config import GPT2Config
    from gpt2core.model.gpt2 import GPT2
    from gpt2core.store.token_store import TokenStream
    from gpt2core.training.batches import Batches
    from gpt2core.training.trainer import Trainer

    given = dict(case)
    masked, dropout, cuts = given.pop("masked", False), given.pop("dropout", 0.0), given.pop("cuts", 1)
    lacking, back = given.pop("lacking", None), given.pop("back_to", None)
    settings = TrainSettings.model_validate(
        {"steps": 3, "batch_size": 2, "accumulate": 4, "warmup_steps": 0, "learning_rate": 1e-2, "device": "cpu", **given}
    )
    numbers = torch.arange(3000)
    stream = TokenStream([((numbers * numbers // 7 + numbers) % 97).to(torch.int32).numpy()])
    model = GPT2(GPT2Config(97, 16, 32, 2, 2, dropout)).initialise(settings.seed)
    model.separator = 5 if masked else None
    trainer = Trainer(model, Batches(stream, 16, settings.batch_size, settings.seed), settings, group=group)
    trainer.batch_cuts = {1: cuts}
    if lacking and group.rank == group.size - 1:
        _lack_memory_once(trainer, lacking)
    if back:
        _go_back(trainer, group, Path(back))
    trainer.run_until(settings.steps)
    assert trainer.batch_cuts == {1: 2 if lacking else cuts}
    if settings.reduce == "fast" and settings.accumulate > 2:  # whose last bits depend on the number of processes
        return json.dumps([float(parameter.norm()) for parameter in model.parameters()])
    weights, moments = dict(model.named_parameters()), trainer.optimizer.tensors()
    if settings.shard == "none" or group.size == 1:
        return _digest({**_hashes(weights), **_hashes(moments)})
    store, key = group.messages.store, json.dumps(case)
    held = {**_hashes(moments), **(_hashes(weights) if group.rank == 0 else {})}  # which alone has all weights
    store.set(f"{key}/{group.rank}", json.dumps(held))
    parts = [json.loads(store.get(f"{key}/{rank}").decode()) for rank in range(group.size)]
    return _digest({name: found for part in parts for name, found in part.items()})


def _hashes(tensors: Mapping[str, Any]) -> Hashes:
    return {name: hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}


def _digest(hashes: Hashes) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _go_back(trainer: Any, group: Any, folder: Path) -> None:
    """To the checkpoint of the first update, which all processes save, in the middle of the third."""
    from types import SimpleNamespace

    from gpt2core.checkpoints.checkpoint import Checkpoint, restore, take_snapshot, write_checkpoint
    from gpt2core.checkpoints.moments import OthersMoments, write_for_the_first

    own = folder / str(group.size)
    trainer.run_until(1)
    if group.rank:
        write_for_the_first(Path(group.messages.listen()["folder"]), trainer.optimizer.tensors(), group.messages)
    else:
        tokenizer: Any = SimpleNamespace(end_of_text=None, save=lambda _: None)
        others = OthersMoments(own, group.messages) if group.size > 1 else None
        write_checkpoint(own, take_snapshot(trainer, {}, others), tokenizer)
    trainer.run_until(2)
    trainer.gradient()
    restore(trainer, Checkpoint(own / "step-00000001", 1))


def _lack_memory_once(trainer: Any, where: str) -> None:
    """In the last block of the second update, `forward` or `backward`."""
    run, left = trainer._working.model.training_block, [where]

    def fail(*_: Any) -> None:
        left.clear()
        raise MemoryError

    def lacking(block: Any, x: Any, cache: Any, mask: Any) -> Any:
        last = block is trainer._working.model.h[-1] and trainer.step == 1
        if last and left == ["forward"]:
            fail()
        if last and left:
            x.register_hook(fail)
        return run(block, x, cache, mask)

    trainer._working.model.training_block = lacking


def _main() -> None:
    sizes, cases, (port, rank) = json.loads(sys.argv[1]), json.loads(sys.argv[2]), map(int, sys.argv[3:])
    import torch.distributed as dist

    from gpt2core.distributed import buckets
    from gpt2core.distributed.messages import Messages
    from gpt2core.distributed.process_group import ALONE, ProcessGroup

    buckets.LARGE = 1_000  # the matrices of these tiny models travel as those of real ones do
    store = dist.TCPStore(HOST, port, max(sizes), rank == 0, timedelta(seconds=PATIENCE))
    found = []
    for size in (size for size in sizes if rank < size):
        group = ALONE
        if size > 1:
            group = ProcessGroup(Messages(dist.PrefixStore(str(size), store), rank, size), PATIENCE)
        found.append({name: _trained(case, group) for name, case in cases.items()})
        group.close()
    print(json.dumps(found))
    store.set(f"done/{rank}", "")
    store.wait([f"done/{rank}" for rank in range(max(sizes))])  # the first process has the store, and may not leave before
    if rank == 0:
        store.wait([f"left/{rank}" for rank in range(1, max(sizes))])
    else:
        store.set(f"left/{rank}", "")


if __name__ == "__main__":
    _main()
