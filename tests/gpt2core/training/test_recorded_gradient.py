"""Updates on a GPU: recorded or not, stopped or not, they give the same bits whatever the settings are."""

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.schema import TrainSettings
from gpt2core.machine.devices import same_bits_every_time
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStream
from gpt2core.training.batches import Batches
from gpt2core.training.callback import History
from gpt2core.training.recorded_gradient import RecordedGradient
from gpt2core.training.trainer import Trainer

TEXT = TokenStream([(np.arange(20000) ** 2 // 7 % 300).astype(np.int32)])


def trained(
    stops: list[int], dropout: float = 0.0, masked: bool = False, recorded: bool = True, **given: object
) -> list[Tensor]:
    """Losses and weights after training on the GPU."""
    settings = TrainSettings.model_validate({"steps": 50, "batch_size": 4, "warmup_steps": 0, "compile": False, **given})
    model = GPT2(GPT2Config(300, 64, 64, 2, 2, dropout)).initialise(0).to("cuda")
    model.separator = 3 if masked else None
    history = History()
    trainer = Trainer(model, Batches(TEXT, 64, 4, 0), settings, [history])
    trainer._recorded = trainer._recorded if recorded else None
    for stop in stops:
        trainer.run_until(stop)
    assert torch.are_deterministic_algorithms_enabled() is False
    return [torch.tensor(history.losses), *(parameter.detach().cpu() for parameter in model.parameters())]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"accumulate": 3},
        {"dropout": 0.1},
        {"masked": True, "dropout": 0.1, "accumulate": 2},
        {"dtype": "float32", "accumulate": 2},
        {"trainable": ["lora"], "noise": 0.1},
        {"optimizer": "muon"},
        {"optimizer": "sgd", "recompute_blocks": 1, "dropout": 0.1},
    ],
    ids=str,
)
def test_recorded_updates_are_those_that_are_computed_one_by_one(given: dict[str, object]) -> None:
    expected = trained([7], recorded=False, **given)  # type: ignore[arg-type]
    assert all(map(torch.equal, trained([7], **given), expected))  # type: ignore[arg-type]
    assert all(map(torch.equal, trained([1, 2, 5, 7], **given), expected))  # type: ignore[arg-type]


def test_only_a_gpu_has_anything_to_record() -> None:
    model = GPT2(GPT2Config(300, 64, 64, 2, 2)).initialise(0)
    trainer = Trainer(model, Batches(TEXT, 64, 4, 0), TrainSettings(batch_size=4))
    assert not isinstance(trainer._recorded, RecordedGradient)


def test_a_processor_needs_no_other_kernels_for_the_same_bits() -> None:
    with same_bits_every_time(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()


def test_pytorchs_setting_holds_for_the_gradient_alone() -> None:
    with same_bits_every_time(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
