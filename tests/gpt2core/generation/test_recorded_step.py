"""Steps that a GPU repeats, and the cache they look through. Also tests `gpt2core.model.key_value_cache`."""

import pytest
import torch
from torch import Tensor

from gpt2core.generation.decoding import Continuation, TokenRow
from gpt2core.generation.sampling import generate
from gpt2core.generation.token_choice import TokenChoice
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.key_value_cache import KeyValueCache, WholeCache

CONFIG = GPT2Config(50, 32, 64, 2, 2)


def without_cache(model: GPT2, tokens: Tensor, new: int) -> list[int]:
    with torch.no_grad():
        for _ in range(new):
            tokens = torch.cat([tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    return tokens[0].tolist()


def test_rows_of_any_length_see_through_the_mask_what_they_see_in_the_cache() -> None:
    model = GPT2(CONFIG).initialise(0).eval()
    tokens = torch.arange(30).view(3, 10)
    one, other = (KeyValueCache(CONFIG, 3, 32, torch.device("cpu"), torch.float32) for _ in range(2))
    for memory in (one.keys, one.values):
        memory.zero_()  # as on a device; memory that nobody wrote to may hold a NaN, which no mask hides
    with torch.no_grad():
        for row, length in enumerate((4, 9, 1)):
            model.hidden(tokens[row : row + 1, :length], one.row(row))
        for mine, its in ((other.keys, one.keys), (other.values, one.values), (other.lengths, one.lengths)):
            mine.copy_(its)
        other.keys[:, 2, :, 20:], other.values[:, 2, :, 20:] = 1e4, 1e4  # what an older text left there
        whole = WholeCache(other)
        for step in range(5):
            last = tokens[:, step : step + 1]
            expected = model(last, one)
            whole.places.copy_(other.lengths)
            found = model.head(model.hidden(last, whole))
            other.advance(1)
            assert (found - expected).abs().max() < 1e-6
    assert one.lengths.tolist() == other.lengths.tolist() == [9, 14, 6]


@pytest.mark.usefixtures("gpu")
def test_recorded_steps_write_what_a_model_without_a_cache_writes() -> None:
    model = GPT2(CONFIG).initialise(0).eval().to("cuda")
    tokens = torch.arange(12, device="cuda").view(3, 4)
    found = generate(model, tokens, 20, temperature=0.0).tolist()
    assert found == [without_cache(model, row[None], 20) for row in tokens]


@pytest.mark.usefixtures("gpu")
def test_rows_of_different_lengths_go_on_when_one_is_taken_out() -> None:
    model = GPT2(CONFIG).initialise(0).eval().to("cuda")
    rows = [TokenRow(range(length), 0, number) for number, length in enumerate((2, 7, 11))]
    batch = Continuation(model, rows, TokenChoice(temperature=0.0), 20)
    for _ in range(5):
        batch.step()
    batch.keep([0, 2])
    for _ in range(5):
        batch.step()
    for row in (rows[0], rows[2]):
        start = torch.tensor([row.tokens[: row.prompt_length]], device="cuda")
        assert row.tokens == without_cache(model, start, 10)


@pytest.mark.usefixtures("gpu")
def test_text_goes_on_beyond_the_context() -> None:
    model = GPT2(CONFIG).initialise(0).eval().to("cuda")
    assert generate(model, torch.tensor([[1, 2]], device="cuda"), 80, temperature=0.0).shape == (1, 82)
