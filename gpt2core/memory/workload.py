"""What is to be trained, how and where: what plans and trials are asked about."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from configs.evaluation import EvaluateSettings
from configs.schema import LENGTHS, TrainSettings
from gpt2core.model.config import GPT2Config


@dataclass(frozen=True)
class Workload:
    """What is to be trained, how and where."""

    config: GPT2Config
    settings: TrainSettings
    device: torch.device
    mask_documents: bool = False
    evaluation: EvaluateSettings | None = None
    """How it is evaluated meanwhile, if it is."""

    def with_settings(self, **changes: object) -> Workload:
        """The same with other settings."""
        return replace(self, settings=self.settings.model_copy(update=changes))

    def with_length(self, steps: int) -> Workload:
        """The same for so many steps, whatever the length was given as."""
        return self.with_settings(**{**dict.fromkeys(LENGTHS), "steps": steps})
