"""Validation figures against closed formulas and against scoring token by token.

Also tests `gpt2core.evaluation.scoring`.
"""

import math

import numpy as np
import pytest
import torch

from configs.errors import UserError
from gpt2core.evaluation.held_out import BINS, evaluate
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.document_stream import DocumentStream
from gpt2core.store.token_store import TokenStream

VOCABULARY = 64
STARTS = [0, 7, 30, 31, 100]


def text_of(length: int = 150) -> DocumentStream:
    """Five documents of three sources; id i stands for i % 5 bytes."""
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, length).astype(np.int32)
    sources = ["a", "b", "a", "c", "b"]
    return DocumentStream(TokenStream([tokens]), np.arange(5), sources, np.array(STARTS), np.arange(VOCABULARY) % 5)


def tokens_of(text: DocumentStream) -> torch.Tensor:
    tokens = np.empty(len(text.stream), dtype=np.int64)
    text.stream.read(0, len(tokens), tokens)
    return torch.from_numpy(tokens)


def small_model(**options: float) -> GPT2:
    return GPT2(GPT2Config(VOCABULARY, 8, 8, 2, 1, **options)).initialise(0)


def sharp_model() -> GPT2:
    """One whose guesses are far from uniform."""
    model = small_model()
    with torch.no_grad():
        model.wte.weight.mul_(40)
    return model


def probabilities(model: GPT2, text: DocumentStream, stride: int) -> torch.Tensor:
    """[150 - 1, V], of each token but the first, by a forward pass for each token with the context that it should have."""
    tokens, n_ctx, rows = tokens_of(text), model.config.n_ctx, []
    for place in range(1, len(tokens)):
        window = 0 if place <= n_ctx else -(-(place - n_ctx) // stride) * stride
        rows.append(model(tokens[None, window:place])[0, -1].double().softmax(-1))
    return torch.stack(rows).detach()


def test_a_uniform_model_has_the_loss_of_its_vocabulary() -> None:
    model, text = small_model(), text_of()
    torch.nn.init.zeros_(model.wte.weight)
    found = evaluate(model, text).figures
    n_bytes = int((tokens_of(text)[1:] % 5).sum())
    assert found.val_loss == pytest.approx(math.log(64), rel=1e-6)
    assert found.perplexity == pytest.approx(64, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(6 * 149 / n_bytes, rel=1e-6)
    assert found.val_tokens == 149
    assert found.accuracy == pytest.approx(float((tokens_of(text)[1:] == 0).double().mean()))  # the first of equals
    assert found.calibration_error == pytest.approx(abs(found.accuracy - 1 / 64), abs=1e-6)


@pytest.mark.parametrize("stride", [8, 3, 1])
def test_every_figure_equals_scoring_token_by_token(stride: int) -> None:
    model, text = sharp_model(), text_of()
    report, targets = evaluate(model, text, batch_size=3, stride=stride), tokens_of(text)[1:]
    expected = probabilities(model, text, stride)
    nats = -expected.gather(1, targets[:, None])[:, 0].log()
    confidence, guess = expected.max(-1)
    assert report.figures.val_loss == pytest.approx(nats.mean().item(), rel=1e-5)
    assert report.figures.accuracy == pytest.approx((guess == targets).double().mean().item())
    documents = np.searchsorted(STARTS, np.arange(1, 150), side="right") - 1
    for document in range(5):
        mine = documents == document
        assert report.documents.nats[document] == pytest.approx(nats[mine].sum().item(), rel=1e-5)
        assert report.documents.tokens[document] == mine.sum()
        assert report.documents.bytes[document] == (targets[mine] % 5).sum()
    error = 0.0
    for number in range(BINS):
        inside = (confidence > number / BINS) & (confidence <= (number + 1) / BINS)
        if inside.any():
            gap = (guess == targets)[inside].double().mean() - confidence[inside].mean()
            error += inside.double().mean().item() * abs(gap.item())
    assert report.figures.calibration_error == pytest.approx(error, rel=1e-5)


def test_the_parts_add_up_to_the_whole() -> None:
    report = evaluate(sharp_model(), text_of())
    whole = report.figures.val_loss * report.figures.val_tokens
    assert [part.name for part in report.by_source] == ["a", "b", "c"]
    assert [(part.name, part.documents, part.val_tokens) for part in report.by_length] == [("1-64", 4, 80), ("65-256", 1, 69)]
    for parts in (report.by_source, report.by_length):
        assert sum(part.val_tokens for part in parts) == report.figures.val_tokens
        assert sum(part.val_loss * part.val_tokens for part in parts) == pytest.approx(whole)
        assert sum(part.documents for part in parts) == 5


def test_of_many_sources_the_small_ones_are_reported_together() -> None:
    sources = [f"s{number:03d}" for number in range(150)]
    text = DocumentStream(text_of().stream, np.arange(150), sources, np.arange(150), np.ones(VOCABULARY, dtype=np.int64))
    parts = evaluate(sharp_model(), text).by_source
    assert len(parts) == 100
    assert parts[-1].name == "51 others"
    assert sum(part.val_tokens for part in parts) == 149


def test_batches_do_not_change_the_figures() -> None:
    model, text = sharp_model(), text_of()
    one, many = (evaluate(model, text, batch_size=size).figures for size in (1, 64))
    assert one.val_loss == pytest.approx(many.val_loss, rel=1e-6)
    assert one.accuracy == many.accuracy


def test_evaluating_leaves_mode_weights_and_random_state_alone() -> None:
    model = small_model(dropout=0.5).train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    first = evaluate(model, text_of()).figures
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert first == evaluate(model, text_of()).figures


def test_a_batch_that_does_not_fit_into_memory_is_scored_in_halves() -> None:
    model, text = sharp_model(), text_of()
    expected = evaluate(model, text, batch_size=7)
    most = 2

    def fill(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    model.h[0].register_forward_pre_hook(fill)
    found = evaluate(model, text, batch_size=7)
    assert found.figures.val_tokens == expected.figures.val_tokens == 149
    assert found.figures.val_loss == pytest.approx(expected.figures.val_loss, rel=1e-6)
    most = 0
    with pytest.raises(UserError, match="too little memory to score a window of 8 tokens"):
        evaluate(model, text)
