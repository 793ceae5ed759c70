"""The model as MLflow's registry serves it: prompts in, completions out.

MLflow runs this file as it stands ("models from code"): the weights are safetensors, so loading executes no pickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from configs.schema import SampleSettings
from gpt2core import load_model, load_tokenizer
from gpt2core.sampling import generate_text


class RegisteredGPT2(PythonModel):
    """GPT-2 behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load weights and vocabulary from the version's own folder."""
        folder = Path(context.artifacts["model"])
        self._model = load_model(folder)
        self._tokenizer = load_tokenizer(folder)

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  (MLflow fixes the names)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """A frame with the column `prompt` -> a frame with the column `completion`; params are SampleSettings' fields."""
        settings = SampleSettings.model_validate(params or {})
        prompts = model_input["prompt"].explode()  # MLflow puts the list of {"prompt": [...]} into one cell
        completions = [generate_text(self._model, self._tokenizer, prompt, settings) for prompt in prompts]
        return pd.DataFrame({"completion": completions})


mlflow.models.set_model(RegisteredGPT2())
