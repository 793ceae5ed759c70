"""The lens on the model that is played with, which may be in memory with smaller weights than gradients can go through."""

from __future__ import annotations

import threading

from configs.generation import SampleSettings
from gpt2core.generation.inference import InferenceModel
from gpt2core.lens.pages import render_reading
from gpt2core.lens.reading import read_lens
from gpt2core.model.gpt2 import GPT2
from gpt2core.weights.loading import load_model
from tasks.play.play_request import LensRequest
from tasks.serving.refusal import RefusedRequestError
from tasks.serving.served_model import LoadedModel

LONGEST = 200
"""Tokens of a prompt; a longer one makes a page that nobody can read, and takes long."""


class LensView:
    """Pages of readings. Keeps one model with its own weights, loaded when it is first looked into."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name = ""
        self._model: GPT2 | None = None

    def page(self, loaded: LoadedModel, asked: LensRequest) -> str:
        """The reading as a self-contained page; raises UserError or RefusedRequestError that says what does not fit."""
        if len(loaded.encode(asked.prompt)) > LONGEST:
            sentence = f"The prompt has more than {LONGEST} tokens, and the lens page has a column for each: shorten it."
            raise RefusedRequestError(sentence, parameter="prompt")
        settings = SampleSettings(max_new_tokens=asked.tokens, temperature=0.0)
        reading = read_lens(self._whole(loaded), loaded.tokenizer, asked.prompt, settings, asked.watch, top_k=5)
        return render_reading(reading, f"The lens: {loaded.name}")

    def _whole(self, loaded: LoadedModel) -> GPT2:
        if not isinstance(loaded.model, InferenceModel):
            return loaded.model
        with self._lock:
            if self._model is None or self._name != loaded.name:
                self._model, self._name = load_model(loaded.folder), loaded.name
            return self._model
