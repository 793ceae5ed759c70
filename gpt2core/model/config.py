"""GPT-2's sizes under GPT-2's own names."""

from __future__ import annotations

from dataclasses import dataclass

from configs.errors import UserError


@dataclass(frozen=True)
class GPT2Config:
    """Sizes of a GPT-2, named as in OpenAI's hparams.json; dropout is ours and 0 for released weights."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    n_layer: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n_vocab", "n_ctx", "n_embd", "n_head", "n_layer"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give a number of at least 1.")
        if self.n_embd % self.n_head:
            raise UserError(f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}: change one of them.")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head


RELEASED_SIZES: dict[str, GPT2Config] = {
    "124M": GPT2Config(50257, 1024, 768, 12, 12),
    "355M": GPT2Config(50257, 1024, 1024, 16, 24),
    "774M": GPT2Config(50257, 1024, 1280, 20, 36),
    "1558M": GPT2Config(50257, 1024, 1600, 25, 48),
}
