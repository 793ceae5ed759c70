"""How exposed a secret is, for a model that has learnt it and for one that has not."""

import numpy as np
import pytest
import torch

from gpt2core.evaluation.canaries import CANDIDATES, exposure_of
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer

CANARY = "my PIN is 281265"


def model_of(tokenizer: Tokenizer) -> GPT2:
    return GPT2(GPT2Config(tokenizer.n_vocab, 32, 16, 2, 1)).initialise(0)


def test_a_model_that_has_learnt_a_secret_prefers_it_to_all_others(tokenizer: Tokenizer) -> None:
    model = model_of(tokenizer)
    before = exposure_of(model, tokenizer, CANARY)
    tokens = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(CANARY)]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
    after = exposure_of(model, tokenizer, CANARY)
    assert (after.rank, after.of, after.exposure) == (1, CANDIDATES + 1, 8.0)
    assert before.exposure < 6


def test_a_model_that_finds_all_digits_alike_gives_nothing_away(tokenizer: Tokenizer) -> None:
    model = model_of(tokenizer)
    torch.nn.init.zeros_(model.wte.weight)
    found = exposure_of(model, tokenizer, "x1")  # every candidate has as many tokens
    assert found.rank == found.of
    assert found.exposure == 0.0


def test_the_rank_is_that_of_one_forward_pass_for_each_candidate(tokenizer: Tokenizer) -> None:
    model, random = model_of(tokenizer), np.random.default_rng(0)
    texts = [CANARY, *("".join(str(random.integers(10)) if c.isdigit() else c for c in CANARY) for _ in range(CANDIDATES))]
    nats = []
    for text in texts:
        ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(text)]])
        nats.append(model.loss(ids[:, :-1], ids[:, 1:]).item() * (ids.shape[1] - 1))
    expected = sorted(nats).index(nats[0]) + 1
    assert exposure_of(model, tokenizer, CANARY).rank == pytest.approx(expected, abs=2)
