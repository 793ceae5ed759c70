"""The model as MLflow's registry serves it: prompts in, completions out.

MLflow runs this file as it stands ("models from code"): the weights are safetensors, so loading executes no pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from configs.generation import CompletionSettings
from gpt2core import load_model, load_tokenizer
from gpt2core.generation.completion import complete
from gpt2core.generation.inference import for_inference


class RegisteredGPT2(PythonModel):
    """GPT-2 behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load weights and vocabulary from the version's own folder."""
        folder = Path(context.artifacts["model"])
        self._model = for_inference(load_model(folder))
        self._tokenizer = load_tokenizer(folder)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  (MLflow fixes the names)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """A frame with the column `prompt` -> a frame with the column `completion`; params are CompletionSettings' fields.

        Of several samples of a prompt the frame has as many rows.
        """
        settings = CompletionSettings.model_validate(params or {})
        prompts = model_input["prompt"].explode()  # MLflow puts the list of {"prompt": [...]} into one cell
        found = complete(self._model, self._tokenizer, list(prompts), settings)
        return pd.DataFrame({"completion": [completion.text for completion in found]})


mlflow.models.set_model(RegisteredGPT2())
