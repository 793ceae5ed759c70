"""Low-rank adapters (Hu et al., LoRA, 2021): a frozen projection plus a trained product of two thin matrices.

The adapters are those of the library `peft`, which calls GPT-2's [in, out] weights "fan in, fan out"; their files are in
`gpt2core.weights.adapter_files`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.errors import UserError
from configs.schema import LoraSettings
from gpt2core.model.gpt2 import GPT2, Projection


class AdaptedProjection(Projection):
    """x W + b + scale * dropout(x) A^T B^T, where W [in, out] and b belong to the projection that is adapted."""

    def __init__(self, base: Projection, rank: int, scale: float, dropout: float, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        n_in, n_out = base.weight.shape
        self.weight, self.bias = base.weight, base.bias
        # A as nn.Linear draws its weights, B zero: training begins at the base model.
        drawn = torch.empty(rank, n_in).uniform_(-1 / math.sqrt(n_in), 1 / math.sqrt(n_in), generator=generator)
        self.lora_A = nn.Parameter(drawn.to(base.weight))  # [rank, in]
        self.lora_B = nn.Parameter(base.weight.new_zeros(n_out, rank))  # [out, rank]
        self.scale = scale
        self.drop = nn.Dropout(dropout)

    def whole_weight(self) -> Tensor:
        """The weight [in, out] with its adapter merged into it."""
        return merged_weight(self.weight, self.lora_A, self.lora_B, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        added = F.linear(F.linear(self.drop(x), self.lora_A), self.lora_B)
        return super().forward(x) + self.scale * added


def add_adapters(model: GPT2, settings: LoraSettings, seed: int) -> set[str]:
    """Replace the targeted projections by adapted ones, drawn from `seed`; returns the names of the adapters' parameters.

    A target is the end of a projection's name, as in peft: c_proj is attn.c_proj and mlp.c_proj. Raises UserError for a target
    that is no projection, and for a rank above the projections' own.
    """
    projections = {name: module for name, module in model.named_modules() if isinstance(module, Projection)}
    for target in settings.targets:
        if not any(_is_target(name, target) for name in projections):
            known = "c_attn, c_proj, c_fc, attn.c_proj, mlp.c_proj"
            raise UserError(f"train.lora.targets '{target}' is no projection of the model: known are {known}.")
    if settings.rank > (most := model.config.n_embd):
        raise UserError(f"train.lora.rank {settings.rank} is more than the model's projections have: give {most} at most.")
    generator, added = torch.Generator().manual_seed(seed), set[str]()
    for name, projection in projections.items():
        if any(_is_target(name, target) for target in settings.targets):
            scale = settings.alpha / settings.rank
            adapted = AdaptedProjection(projection, settings.rank, scale, settings.dropout, generator)
            model.set_submodule(name, adapted)
            added |= {f"{name}.lora_A", f"{name}.lora_B"}
    return added


def merged_weight(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scale: float) -> Tensor:
    """The projection's weight [in, out] with its adapter A [rank, in], B [out, rank] added to it, in float32."""
    return weight.float() + scale * (lora_b.float() @ lora_a.float()).t()


def _is_target(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)
