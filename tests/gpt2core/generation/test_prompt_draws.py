"""How likely a prompt's tokens are, beside the whole logits and beside what the same tokens get when they are drawn."""

import pytest
import torch

from configs.generation import CompletionSettings
from gpt2core.generation import prompt_draws as module
from gpt2core.generation.completion import complete
from gpt2core.generation.decoding import Draw
from gpt2core.generation.prompt_draws import prompt_draws
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer


def test_each_token_has_what_the_logits_behind_those_before_it_say(tiny: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POSITIONS", 5)
    tokens = list(range(60, 82))
    first, *found = prompt_draws(tiny, tokens, 3)
    with torch.no_grad():
        wanted = tiny(torch.tensor([tokens])).log_softmax(-1)[0]
    assert first is None
    for place, draw in enumerate(found):
        assert draw is not None
        best = wanted[place].topk(3)
        assert draw.log_probability == pytest.approx(float(wanted[place, tokens[place + 1]]), abs=1e-5)
        assert [token for token, _ in draw.alternatives] == best.indices.tolist()
        assert [log for _, log in draw.alternatives] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_a_drawn_token_is_as_likely_when_it_stands_in_a_prompt(tiny: GPT2, bytes_tokenizer: Tokenizer) -> None:
    settings = CompletionSettings(max_new_tokens=12, log_probabilities=True, alternatives=2)
    (one,) = complete(tiny, bytes_tokenizer, ["Hello"], settings)
    found = prompt_draws(tiny, bytes_tokenizer.encode("Hello") + one.tokens, 2)[5:]
    assert [draw and draw.log_probability for draw in found] == pytest.approx(one.log_probabilities, abs=1e-5)
    assert [draw and [token for token, _ in draw.alternatives] for draw in found] == [
        [token for token, _ in each] for each in one.alternatives
    ]


@pytest.mark.parametrize("tokens", [[7], [7, 8]])
def test_one_token_has_nothing_before_it(tiny: GPT2, tokens: list[int]) -> None:
    first, *rest = prompt_draws(tiny, tokens, 0)
    assert first is None
    assert [isinstance(draw, Draw) and draw.alternatives for draw in rest] == [[]] * (len(tokens) - 1)
