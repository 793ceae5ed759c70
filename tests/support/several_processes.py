"""Processes that train the same tiny models together; `python several_processes.py RANK SIZE PORT CASES` is one of them."""

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"


def train_by(size: int, cases: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The hash of weights and moments for each case, of training by so many processes, which all must have the same."""
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, str(Path(__file__)), str(size), str(port), json.dumps(cases)]
    started = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(error for _, error in outputs)
    (found,) = {output for output, _ in outputs}
    return json.loads(found)


def _trained(case: Mapping[str, Any], group: Any) -> str:
    import torch

    from configs.schema import TrainSettings
    from gpt2core.model.config import GPT2Config
    from gpt2core.model.gpt2 import GPT2
    from gpt2core.store.token_store import TokenStream
    from gpt2core.training.batches import Batches
    from gpt2core.training.trainer import Trainer, TrainerState

    given = dict(case)
    masked, dropout, state = given.pop("masked", False), given.pop("dropout", 0.0), given.pop("state", {})
    settings = TrainSettings.model_validate(
        {"steps": 3, "batch_size": 2, "accumulate": 4, "warmup_steps": 0, "learning_rate": 1e-2, "compile": False, **given}
    )
    numbers = torch.arange(3000)
    stream = TokenStream([((numbers * numbers // 7 + numbers) % 97).to(torch.int32).numpy()])
    model = GPT2(GPT2Config(97, 16, 32, 2, 2, dropout)).initialise(settings.seed)
    model.separator = 5 if masked else None
    trainer = Trainer(model, Batches(stream, 16, settings.batch_size, settings.seed), settings, group=group)
    trainer.state = TrainerState(**{**state, "batch_cuts": {int(k): v for k, v in state.get("batch_cuts", {}).items()}})
    trainer.run_until(settings.steps)
    digest = hashlib.sha256()
    for name, tensor in sorted({**trainer.optimizer.tensors(), **dict(model.named_parameters())}.items()):
        digest.update(name.encode() + tensor.detach().numpy().tobytes())
    return digest.hexdigest()


def _main() -> None:
    size, port, cases, rank = sys.argv[1:]
    import torch.distributed as dist

    from gpt2core.distributed.messages import Messages
    from gpt2core.distributed.process_group import ALONE, ProcessGroup

    group = ALONE
    if int(size) > 1:
        store = dist.TCPStore(HOST, int(port), int(size), rank == "0", timedelta(seconds=120))
        group = ProcessGroup(Messages(store, int(rank), int(size)), 120)
    print(json.dumps({name: _trained(case, group) for name, case in json.loads(cases).items()}))
    if int(size) > 1:
        group.any(True)  # the first process has the store, and leaves last
    group.close()


if __name__ == "__main__":
    _main()
