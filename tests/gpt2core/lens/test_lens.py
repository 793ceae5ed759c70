"""The lens against brute force on the golden model."""

from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from gpt2core import GPT2, load_model
from gpt2core.lens.lens import Lens, Prediction

TOKENS = [72, 101, 108, 108, 111, 32, 119, 111]


@pytest.fixture(scope="module")
def model(golden: Path) -> GPT2:
    return load_model(golden / "openai-tiny" / "models" / "tiny")


@pytest.fixture(scope="module")
def lens(model: GPT2) -> Lens:
    return Lens(model, TOKENS)


def layer_by_hand(model: GPT2, layer: int) -> torch.Tensor:
    """Logits [T, V] of the model with all blocks above `layer` cut off."""
    with torch.no_grad():
        x = model.wte.weight[TOKENS] + model.wpe.weight[: len(TOKENS)]
        for block in list(model.h)[:layer]:
            x = block(x.unsqueeze(0), None)[0]
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        x = (x - mean) / (variance + 1e-5).sqrt() * model.ln_f.weight + model.ln_f.bias
        return x @ model.wte.weight.T


def test_every_layer_says_what_a_model_cut_off_there_would_say(model: GPT2, lens: Lens) -> None:
    assert lens.layers == 4
    for layer in range(4):
        torch.testing.assert_close(lens.logits(layer), layer_by_hand(model, layer), rtol=1e-4, atol=1e-4)


def test_the_last_layer_is_the_model_itself(model: GPT2, lens: Lens) -> None:
    with torch.no_grad():
        assert torch.equal(lens.logits(3), model(torch.tensor([TOKENS]))[0])


def test_predictions_are_the_likeliest_tokens_in_order(model: GPT2, lens: Lens) -> None:
    rows = lens.predictions(position=4, top_k=3)
    for layer, row in enumerate(rows):
        probabilities = layer_by_hand(model, layer)[4].softmax(-1)
        expected = sorted(range(257), key=lambda token: -probabilities[token])[:3]
        assert [prediction.token for prediction in row] == expected
        assert row[0] == Prediction(expected[0], pytest.approx(float(probabilities[expected[0]]), rel=1e-3))


def test_a_rank_counts_the_tokens_that_are_likelier(model: GPT2, lens: Lens) -> None:
    ranks = lens.rankings(start=3)
    assert ranks.shape == (4, 5)
    for layer in range(4):
        logits = layer_by_hand(model, layer)
        for column, position in enumerate(range(3, 8)):
            order = sorted(range(257), key=lambda token: -logits[position - 1, token])
            assert ranks[layer, column] == order.index(TOKENS[position]) + 1


def test_watched_tokens_are_ranked_at_one_position(lens: Lens) -> None:
    following = TOKENS[5]
    ranks = lens.watched_rankings([following, 0], position=4)
    assert torch.equal(ranks[:, 0], lens.rankings(start=5)[:, 0])
    assert ranks.shape == (4, 2)


def test_ecco_compat_leaves_the_last_norm_out_below_the_last_layer(model: GPT2) -> None:
    plain, compat = Lens(model, TOKENS), Lens(model, TOKENS, ecco_compat=True)
    assert torch.equal(plain.logits(3), compat.logits(3))
    with torch.no_grad():
        assert torch.equal(compat.logits(1), compat.states[1] @ model.wte.weight.T)


def test_saliency_is_the_gradient_times_the_input(model: GPT2) -> None:
    exact = load_model_in_double(model)
    lens = Lens(exact, TOKENS)
    saliency = lens.saliency(position=5)

    def probability(embeddings: torch.Tensor) -> float:
        x = embeddings + exact.wpe.weight[:6]
        with torch.no_grad():
            for block in exact.h:
                x = block(x.unsqueeze(0), None)[0]
            return float((exact.ln_f(x)[-1] @ exact.wte.weight.T).softmax(-1)[TOKENS[6]])

    embeddings = exact.wte.weight[TOKENS[:6]].detach()
    weight = torch.zeros(6, dtype=torch.float64)
    for token in range(6):
        for i in range(48):  # central differences
            step = torch.zeros_like(embeddings)
            step[token, i] = 1e-5
            slope = (probability(embeddings + step) - probability(embeddings - step)) / 2e-5
            weight[token] += (slope * embeddings[token, i]) ** 2
    expected = weight.sqrt() / weight.sqrt().sum()
    torch.testing.assert_close(saliency.double(), expected, rtol=1e-4, atol=1e-6)
    assert saliency.sum() == pytest.approx(1.0)


def load_model_in_double(model: GPT2) -> GPT2:
    exact = GPT2(model.config).double()
    exact.load_state_dict(model.state_dict())
    return exact


def test_looking_changes_nothing(model: GPT2) -> None:
    model.train()
    Lens(model, TOKENS).saliency(3)
    assert model.training
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in model.h)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("tokens", "sentence"), [([], "not 0"), ([1] * 33, "1 to 32 tokens at once, not 33"), ([999], "999")])
def test_what_cannot_be_read_is_one_sentence(model: GPT2, tokens: list[int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Lens(model, tokens)
