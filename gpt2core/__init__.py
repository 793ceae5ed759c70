"""GPT-2 in PyTorch: model, tokenizer, token store, batches, trainer, checkpoints, sampling, evaluation.

It knows neither Prefect nor MLflow and can be used alone. Names are imported on first use, so that a part which needs no
PyTorch does not wait for it.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.errors import UserError
    from gpt2core.generation.sampling import generate, generate_response
    from gpt2core.model.config import RELEASED_SIZES, GPT2Config
    from gpt2core.model.gpt2 import GPT2
    from gpt2core.model.key_value_cache import KeyValueCache
    from gpt2core.text.tokenizer import Tokenizer, load_tokenizer
    from gpt2core.weights.loading import load_model, save_model

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to give the same bits every time

_HOME = {
    "UserError": "configs.errors",
    "GPT2Config": "gpt2core.model.config",
    "RELEASED_SIZES": "gpt2core.model.config",
    "GPT2": "gpt2core.model.gpt2",
    "KeyValueCache": "gpt2core.model.key_value_cache",
    "generate": "gpt2core.generation.sampling",
    "generate_response": "gpt2core.generation.sampling",
    "Tokenizer": "gpt2core.text.tokenizer",
    "load_tokenizer": "gpt2core.text.tokenizer",
    "load_model": "gpt2core.weights.loading",
    "save_model": "gpt2core.weights.loading",
}

__all__ = [
    "GPT2",
    "RELEASED_SIZES",
    "GPT2Config",
    "KeyValueCache",
    "Tokenizer",
    "UserError",
    "generate",
    "generate_response",
    "load_model",
    "load_tokenizer",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gpt2core' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
