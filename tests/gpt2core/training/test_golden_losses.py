"""The loss of every step of two small runs, as hex floats: a change that alters them says so in the CHANGELOG.

`python tests/gpt2core/test_golden_losses.py` writes the file again.
"""

import json
from pathlib import Path

import pytest
import torch

from configs.schema import TrainSettings
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStream
from gpt2core.training.batches import Batches
from gpt2core.training.callback import History
from gpt2core.training.trainer import Trainer

pytestmark = pytest.mark.kernels

FILE = Path(__file__).parents[2] / "golden" / "losses.json"
TOLERANCE = 2e-4  # relative; other CPUs add in another order
RUNS = {
    "plain": (GPT2Config(97, 16, 32, 4, 2), {"accumulate": 1, "schedule": "cosine"}),
    "dropout-accumulated": (GPT2Config(97, 12, 24, 2, 3, dropout=0.2), {"accumulate": 3, "schedule": "linear", "seed": 7}),
}


def losses_of(name: str) -> list[float]:
    shape, options = RUNS[name]
    settings = TrainSettings.model_validate(
        {"steps": 20, "batch_size": 3, "warmup_steps": 4, "learning_rate": 3e-3, "device": "cpu", "dtype": "float32", **options}
    )
    text = torch.arange(3000)
    stream = TokenStream([((text * text // 7 + text) % 97).to(torch.int32).numpy()])
    model = GPT2(shape).initialise(settings.seed)
    trainer = Trainer(model, Batches(stream, shape.n_ctx, settings.batch_size, settings.seed), settings)
    history = History()
    trainer.callbacks.append(history)
    trainer.run_until(settings.steps)
    return history.losses


@pytest.mark.parametrize("name", RUNS)
def test_every_loss_is_what_it_always_was(name: str) -> None:
    expected = [float.fromhex(text) for text in json.loads(FILE.read_text())[name]]
    assert len(expected) == 20
    assert losses_of(name) == pytest.approx(expected, rel=TOLERANCE)


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: [loss.hex() for loss in losses_of(name)] for name in RUNS}, indent=1) + "\n")
