"""What every layer of a GPT-2 would say if it were the last: predictions, rankings and saliency, as in Ecco.

Layer 0 is the embedding, layer n_layer the last block. A layer's state goes through ln_f and the output head, so that layers
can be compared; `ecco_compat` leaves ln_f out for all but the last layer, as Ecco does. Shapes: L n_layer + 1, T tokens,
C n_embd, V n_vocab.
Source: nostalgebraist, "interpreting GPT: the logit lens", 2020; jalammar/ecco, src/ecco/output.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from configs.errors import UserError
from gpt2core.model.gpt2 import GPT2


@dataclass(frozen=True)
class Prediction:
    """A token that a layer would choose, and with what probability."""

    token: int
    probability: float


class Lens:
    """Reads what the layers of `model` make of one sequence of token ids."""

    def __init__(self, model: GPT2, tokens: list[int], ecco_compat: bool = False) -> None:
        """Runs the model once; raises UserError where tokens are none, too many or not the model's, or states not finite."""
        config = model.config
        if not 0 < len(tokens) <= config.n_ctx:
            raise UserError(f"The lens reads 1 to {config.n_ctx} tokens at once, not {len(tokens)}: shorten the text.")
        if wrong := [token for token in tokens if not 0 <= token < config.n_vocab]:
            raise UserError(f"Token id {wrong[0]} is not in the model's vocabulary of {config.n_vocab}.")
        self._model = model
        self.ecco_compat = ecco_compat
        self.tokens = torch.tensor(tokens, device=model.wte.weight.device)  # [T]
        self.states = _residual_stream(model, self.tokens)  # [L, T, C]
        _require_finite(self.states)
        with torch.no_grad():
            normed = model.ln_f(self.states)
        self._read = torch.cat([self.states[:-1], normed[-1:]]) if ecco_compat else normed  # [L, T, C], what the head sees

    @property
    def layers(self) -> int:
        """Rows of every picture: the embedding and each block."""
        return self.states.shape[0]

    @torch.no_grad()
    def logits(self, layers: slice | int = slice(None), positions: slice | int = slice(None)) -> Tensor:
        """Next-token logits, float32 [..., V], as the layers see them after the given positions."""
        return self._model.head(self._read[layers, positions])

    def predictions(self, position: int, top_k: int = 10) -> list[list[Prediction]]:
        """For each layer its likeliest tokens after `position`, the likeliest first."""
        best = self.logits(positions=position).softmax(-1).topk(min(top_k, self._model.config.n_vocab))  # [L, k]
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [[Prediction(token, share) for token, share in zip(*row, strict=True)] for row in rows]

    def rankings(self, start: int) -> Tensor:
        """Rank (1 is best) of each token from position `start` >= 1 on, at every layer: int64 [L, T - start]."""
        chosen = self.tokens[start:]
        positions = slice(start - 1, len(self.tokens) - 1)
        return torch.stack([_ranks(self.logits(layer, positions), chosen) for layer in range(self.layers)])

    def watched_rankings(self, watch: list[int], position: int) -> Tensor:
        """Rank of each watched token as the one after `position`, at every layer: int64 [L, len(watch)]."""
        chosen = torch.tensor(watch, device=self.tokens.device)
        rows = [_ranks(self.logits(layer, position).expand(len(watch), -1), chosen) for layer in range(self.layers)]
        return torch.stack(rows)

    def saliency(self, position: int) -> Tensor:
        """How much each token up to `position` >= 0 bears on the next one: float32 [position + 1], summing to 1.

        L2 norm over the embedding of the gradient of the next token's probability, times the embedding. The next token is
        the one that stands there, or the likeliest one at the end of the text.
        """
        embeddings, hidden = self._differentiable
        with torch.enable_grad():
            probabilities = self._model.head(hidden[position]).softmax(-1)  # [V]
            behind = position + 1 < len(self.tokens)
            chosen = self.tokens[position + 1] if behind else probabilities.argmax()
            (gradient,) = torch.autograd.grad(probabilities[chosen], embeddings, retain_graph=True)
        weight: Tensor = (gradient * embeddings.detach())[: position + 1].norm(dim=-1)
        return (weight / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)).float()

    @cached_property
    def _differentiable(self) -> tuple[Tensor, Tensor]:
        """Token embeddings [T, C] and the final hidden states [T, C] that come of them, with the graph between them."""
        embeddings = self._model.wte(self.tokens).detach().requires_grad_()
        with torch.enable_grad(), _evaluating(self._model):
            return embeddings, run_blocks(self._model, embeddings)


def _ranks(logits: Tensor, chosen: Tensor) -> Tensor:
    """1 + the number of tokens with higher logits [N, V] than the chosen ones [N]."""
    return (logits > logits.gather(-1, chosen.unsqueeze(-1))).sum(-1) + 1


@torch.no_grad()
def _residual_stream(model: GPT2, tokens: Tensor) -> Tensor:
    """States after the embedding and after each block, [L, T, C]."""
    states: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0][0])) for block in model.h]
    hooks.append(model.h[-1].register_forward_hook(lambda _, __, output: states.append(output[0])))
    try:
        with _evaluating(model):
            model.hidden(tokens.unsqueeze(0))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(states)


def run_blocks(model: GPT2, embeddings: Tensor) -> Tensor:
    """Final hidden states [T, C] of token embeddings [T, C], which the gradient is taken for."""
    x = (embeddings + model.wpe.weight[: len(embeddings)]).unsqueeze(0)
    for block in model.h:
        x = block(x, None)
    hidden: Tensor = model.ln_f(x[0])
    return hidden


def _require_finite(states: Tensor) -> None:
    """Layer 0 is the embedding."""
    finite = states.isfinite().flatten(1).all(1)  # [L]
    if not bool(finite.all()):
        first = int((~finite).int().argmax())
        name = f"layer {first}" if first else "the embedding"
        raise UserError(f"What {name} computes is not finite: the model's weights are damaged, take another checkpoint.")


@contextmanager
def _evaluating(model: GPT2) -> Iterator[None]:
    """The model without dropout for a while; its mode is put back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
