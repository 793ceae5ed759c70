"""With data.mask_documents a document is learnt as if it stood alone, whatever shares its window."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from configs.schema import DataSettings, TrainSettings
from gpt2core.evaluation.scoring import score_windows
from gpt2core.evaluation.windows import held_out_windows
from gpt2core.model.attention import attend
from gpt2core.model.config import GPT2Config
from gpt2core.model.document_mask import document_mask
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStore
from gpt2core.training.batches import Batches
from gpt2core.training.trainer import Trainer
from gpt2core.training.working_copy import WorkingCopy

END = 63
SHAPE = GPT2Config(n_vocab=64, n_ctx=24, n_embd=32, n_head=4, n_layer=2)
DTYPES = [torch.float32, torch.bfloat16]  # on a CPU these take the two ways of `attend`


def documents(*lengths: int, seed: int = 0) -> list[Tensor]:
    """Each begins with the end-of-text id that closes the one before it."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.cat([torch.tensor([END]), torch.randint(0, END, (length - 1,), generator=draw)]) for length in lengths]


def window(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts).unsqueeze(0)


def logits(model: GPT2, tokens: Tensor) -> Tensor:
    return model.head(model.hidden(tokens, mask=document_mask(tokens, END)))


@pytest.fixture(params=DTYPES, ids=["fused", "plain"])
def model(request: pytest.FixtureRequest) -> GPT2:
    working = WorkingCopy(GPT2(SHAPE).initialise(0), request.param)
    working.refresh()
    return working.model


def test_logits_of_a_document_are_those_it_has_alone(model: GPT2) -> None:
    parts = documents(9, 8, 7)
    together = logits(model, window(parts))[0].split([9, 8, 7])
    for part, found in zip(parts, together, strict=True):
        alone = model(part.unsqueeze(0))[0]
        assert torch.allclose(found, alone, atol=1e-6 if model.wte.weight.dtype is torch.float32 else 2e-2)


def test_logits_of_a_document_do_not_depend_on_its_neighbours(model: GPT2) -> None:
    before, document, after = documents(9, 8, 7)
    others = documents(9, 8, 7, seed=1)
    found = logits(model, window([before, document, after]))[0, 9:17]
    assert torch.equal(found, logits(model, window([others[0], document, others[2]]))[0, 9:17])
    without = model(window([before, document, after]))[0, 9:17]
    assert not torch.allclose(without, model(window([others[0], document, others[2]]))[0, 9:17], atol=1e-3)


def test_the_loss_is_the_mean_over_documents_that_stand_alone() -> None:
    model = GPT2(SHAPE).initialise(0)
    parts = documents(9, 8, 7)
    tokens = torch.cat([window(parts), torch.tensor([[END]])], dim=1)
    alone = [torch.cat([part, torch.tensor([END])]).unsqueeze(0) for part in parts]
    found = model.loss(tokens[:, :-1], tokens[:, 1:], document_mask(tokens[:, :-1], END))
    losses = [model.loss(document[:, :-1], document[:, 1:]) * (document.shape[1] - 1) for document in alone]
    assert found.item() == pytest.approx(sum(losses).item() / 24, abs=1e-6)
    assert model.loss(tokens[:, :-1], tokens[:, 1:]).item() != pytest.approx(found.item(), abs=1e-5)


def test_both_ways_of_attention_see_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 24, 8, generator=draw).to(torch.bfloat16)
    visible = document_mask(torch.randint(60, 64, (2, 24), generator=draw), END).visible
    plain = attend(query, key, value, 0.0, visible)
    fused = attend(query.float(), key.float(), value.float(), 0.0, visible)
    assert torch.allclose(plain.float(), fused, atol=2e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recomputed_blocks_give_the_same_weights(store: TokenStore, dtype: str) -> None:
    weights = []
    for recomputed in (0, 2):
        settings = TrainSettings.model_validate({"steps": 3, "batch_size": 2, "dtype": dtype, "recompute_blocks": recomputed})
        model = GPT2(GPT2Config(300, 64, 64, 2, 2, dropout=0.1)).initialise(0)
        model.separator = store.manifest.end_of_text
        Trainer(model, Batches(store.stream("train"), 64, 2, 0), settings).run_until(3)
        weights.append(list(model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


def test_training_and_validation_see_the_mask(store: TokenStore) -> None:
    model = GPT2(GPT2Config(300, 64, 64, 2, 2)).initialise(0)
    losses = []
    for separator in (None, store.manifest.end_of_text):
        model.separator = separator
        trainer = Trainer(model, Batches(store.stream("train"), 64, 2, 0), TrainSettings(dtype="bfloat16"))
        held = held_out_windows(store.stream("validation"), 64, 8, max_windows=64)
        scores = list(score_windows(trainer.computing_model(), held))
        trainer.run_until(1)
        losses.append((torch.cat([score.nats for score in scores]).mean().item(), trainer.model.wte.weight.sum().item()))
    assert losses[0][0] != losses[1][0]
    assert losses[0][1] != losses[1][1]


def test_it_is_off_by_default() -> None:
    assert DataSettings().mask_documents is False
    assert GPT2(SHAPE).separator is None
