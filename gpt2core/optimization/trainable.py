"""Which parameters training changes; the others have no gradient and no optimizer state."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from configs.errors import UserError
from configs.schema import LORA, TrainSettings
from gpt2core.model.gpt2 import GPT2
from gpt2core.model.lora import add_adapters

SETS = {"all": "*", "transformer": "h.*"}
"""Words for patterns; `transformer` is nshepperd/gpt-2's only_train_transformer_layers: no wte, wpe and ln_f."""


def choose_trainable(model: GPT2, settings: TrainSettings) -> None:
    """Set `requires_grad` of every parameter as `train.trainable` says, for `lora` after adding adapters to the model.

    Raises UserError for a pattern that matches no parameter.
    """
    if settings.adapts:
        chosen = add_adapters(model, settings.lora, settings.seed)
    else:
        chosen = matching(settings.trainable, [name for name, _ in model.named_parameters()])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)


def matching(patterns: Iterable[str], names: list[str]) -> set[str]:
    """The parameter names that one of the patterns matches; raises UserError for a pattern that matches none."""
    chosen = set[str]()
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, SETS.get(pattern, pattern))]
        if not found:
            near = difflib.get_close_matches(pattern, [*SETS, LORA, *names], n=3, cutoff=0.4)
            nearest = f"; the nearest names are {', '.join(near)}" if near else ""
            last = max(int(name.split(".")[1]) for name in names if name.startswith("h."))
            raise UserError(
                f"train.trainable '{pattern}' matches no parameter: use all, transformer, lora or patterns such as h.{last}.* "
                f"(the last block){nearest}."
            )
        chosen.update(found)
    return chosen
