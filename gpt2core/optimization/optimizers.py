"""The optimizers that a run's settings ask for, acting as one, with a state that is plain tensors by name.

AdamW divides by sqrt(v / (1 - beta2^t)) + epsilon, as Kingma and Ba's algorithm 1 has it and torch does. TensorFlow adds its
"epsilon hat" before the bias is corrected: the same update as ours with epsilon = epsilon hat / sqrt(1 - beta2^t).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Muon, Optimizer

from configs.errors import UserError
from configs.schema import TrainSettings
from gpt2core.kernels import training_kernels
from gpt2core.model.gpt2 import GPT2
from gpt2core.optimization.one_pass_adamw import OnePassAdamW

MOMENTS: dict[type[Optimizer], tuple[str, ...]] = {
    AdamW: ("exp_avg", "exp_avg_sq"),
    OnePassAdamW: ("exp_avg", "exp_avg_sq"),
    SGD: ("momentum_buffer",),
    Muon: ("momentum_buffer",),
}
DEFAULT_MOMENTUM = {"sgd": 0.9, "muon": 0.95}


class Optimization:
    """Updates the parameters of `model` that have `requires_grad`, as `settings` say; weight decay is for matrices only.

    `copies` are the bfloat16 weights that compute on a CPU, by parameter, which AdamW then changes too (`fills_copies`).
    """

    def __init__(self, model: GPT2, settings: TrainSettings, copies: Mapping[Tensor, Tensor] | None = None) -> None:
        self._names: dict[Tensor, str] = {
            parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.is_shared_out = False
        """Whether other processes keep a part of the state."""
        self.optimizers = _build(self._names, settings)
        computing = list(copies.values()) if copies else self.parameters
        if settings.optimizer == "adamw" and all(map(training_kernels.supports, computing)):
            self.optimizers = [OnePassAdamW(_groups(self._names, settings), copies or {}, **_adamw_options(settings))]
        self.moments = [
            (f"{key}.{self._names[parameter]}", parameter)
            for optimizer in self.optimizers
            for parameter in _parameters_of(optimizer)
            for key in _moments_of(optimizer)
        ]
        """The name of every tensor that is kept for a parameter, and the parameter, whose shape it has."""

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained, in the model's order."""
        return list(self._names)

    @property
    def fills_copies(self) -> bool:
        """Whether an update changes the bfloat16 weights as well."""
        return isinstance(self.optimizers[0], OnePassAdamW) and not self.is_shared_out

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """Moments and update counts by parameter."""
        return {parameter: state for optimizer in self.optimizers for parameter, state in optimizer.state.items()}

    @property
    def checkpoint_bytes(self) -> int:
        """Size of what changes with every update: weights and moments in float32."""
        return self.weights_bytes + sum(4 * parameter.numel() for _, parameter in self.moments)

    @property
    def weights_bytes(self) -> int:
        """The part of it that is weights."""
        return sum(4 * parameter.numel() for parameter in self._names)

    @property
    def kept(self) -> list[Tensor]:
        """What this process updates."""
        return [parameter for optimizer in self.optimizers for parameter in _parameters_of(optimizer)]

    @property
    def own_names(self) -> set[str]:
        """Of the tensors that this process keeps."""
        own = set(self.kept)
        return {"step", *(name for name, parameter in self.moments if parameter in own)}

    def keep(self, own: set[Tensor]) -> None:
        """Update these parameters alone, and keep no state of the others: other processes do."""
        self.is_shared_out = True
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if parameter in own]
            for parameter in optimizer.state.keys() - own:
                del optimizer.state[parameter]

    def clip(self, most: float, norms: Tensor | None = None) -> Tensor:
        """The norm [] of all gradients together; the next update scales them down where it is larger than `most`.

        `norms` [n] of all gradients must be given where they are not all here.
        """
        norm: Tensor = torch.linalg.vector_norm(gradient_norms(self.parameters) if norms is None else norms)
        (first, *_) = self.optimizers
        if isinstance(first, OnePassAdamW):
            first.clip = min(1.0, most / (norm.item() + 1e-6))
        else:
            nn.utils.clip_grads_with_norm_(self.parameters, most, norm)
        return norm

    def update(self, rate: float, left_out: Tensor) -> None:
        """Change the weights by their gradients at this learning rate, or nothing at all where `left_out` (bool []) is true.

        Fused optimizers read it on the device; for Muon, which has no fused form, the host waits for the answer.
        """
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            if optimizer.defaults.get("fused"):
                optimizer.found_inf = left_out.float()  # type: ignore[attr-defined]
            elif left_out:
                continue
            optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """The state for a checkpoint: each moment as MOMENT.PARAMETER and, where one is kept, the count of updates `step`."""
        found: dict[str, Tensor] = {}
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                found |= {f"{key}.{self._names[parameter]}": state[key] for key in _moments_of(optimizer)}
                found |= {"step": state["step"]} if "step" in state else {}  # updates applied: fewer if some were skipped
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned; raises KeyError where a moment is missing."""
        for optimizer in self.optimizers:
            for parameter in _parameters_of(optimizer):
                state = {key: tensors[f"{key}.{self._names[parameter]}"] for key in _moments_of(optimizer)}
                if isinstance(optimizer, AdamW):
                    state["step"] = tensors["step"].to(parameter.device, copy=True)
                optimizer.state[parameter] = state


def gradient_norms(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of each gradient that there is, float32 [n]: with our kernel the same bits for any number of threads."""
    gradients = [parameter.grad.contiguous() for parameter in parameters if parameter.grad is not None]
    if not gradients or not all(map(training_kernels.supports, gradients)):
        return torch.stack(torch._foreach_norm(gradients))
    squares = torch.empty(len(gradients), dtype=torch.float64)
    training_kernels.sums_of_squares(gradients, squares)
    return squares.sqrt().float()


def _build(names: dict[Tensor, str], settings: TrainSettings) -> list[Optimizer]:
    momentum = settings.momentum if settings.momentum is not None else DEFAULT_MOMENTUM.get(settings.optimizer, 0.0)
    if settings.optimizer == "sgd":
        return [_with_empty_buffers(SGD(_groups(names, settings), settings.learning_rate, momentum, fused=True))]
    if settings.optimizer == "adamw":
        return [_adamw(names, settings)]
    in_blocks = {parameter: parameter.ndim == 2 and name.startswith("h.") for parameter, name in names.items()}
    matrices = [parameter for parameter, is_matrix in in_blocks.items() if is_matrix]
    others = [parameter for parameter, is_matrix in in_blocks.items() if not is_matrix]
    if not matrices:
        raise UserError("train.optimizer muon is for the blocks' matrices, and train.trainable has none of them: use adamw.")
    muon = Muon(matrices, settings.learning_rate, settings.weight_decay, momentum, adjust_lr_fn="match_rms_adamw")
    return [_with_empty_buffers(muon), *([_adamw(others, settings)] if others else [])]


def _adamw(parameters: Iterable[Tensor], settings: TrainSettings) -> AdamW:
    return AdamW(_groups(parameters, settings), fused=True, **_adamw_options(settings))


def _adamw_options(settings: TrainSettings) -> dict[str, Any]:
    return {"lr": settings.learning_rate, "betas": (settings.beta1, settings.beta2), "eps": settings.epsilon}


def _groups(parameters: Iterable[Tensor], settings: TrainSettings) -> list[dict[str, Any]]:
    kinds: dict[bool, list[Tensor]] = {True: [], False: []}
    for parameter in parameters:
        kinds[parameter.ndim >= 2].append(parameter)
    decay = {True: settings.weight_decay, False: 0.0}
    return [{"params": kind, "weight_decay": decay[matrices]} for matrices, kind in kinds.items() if kind]


def _with_empty_buffers(optimizer: Optimizer) -> Optimizer:
    """Momentum that begins at zero is what torch computes too, but it would leave the buffer unset if update 1 is left out."""
    for parameter in _parameters_of(optimizer):
        optimizer.state[parameter] = {key: torch.zeros_like(parameter) for key in _moments_of(optimizer)}
    return optimizer


def _moments_of(optimizer: Optimizer) -> tuple[str, ...]:
    """Names of the tensors that the optimizer keeps for every parameter; SGD without momentum keeps none."""
    return MOMENTS[type(optimizer)] if optimizer.defaults.get("momentum") != 0 else ()


def _parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
