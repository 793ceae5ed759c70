"""The model that is served: loaded once, and loaded anew when its alias moves to another version."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from configs.errors import UserError
from configs.generation import CompletionSettings
from gpt2core.generation import completion
from gpt2core.generation.completion import Completion, Step, encode_prompt
from gpt2core.generation.decoding import Draw
from gpt2core.generation.inference import for_inference
from gpt2core.generation.prompt_draws import prompt_draws
from gpt2core.machine.devices import choose_device, choose_threads
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer
from gpt2core.weights.loading import load_model
from tasks.registry.lookup import URI, alias_version
from tasks.runs.models import resolve_model
from tasks.terminal.console import say, warn

LOOK_INTERVAL = 1.0  # seconds between two looks at the alias


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory. `name` is what it is called to clients: models:/NAME/VERSION of a registered one."""

    name: str
    model: GPT2
    tokenizer: Tokenizer
    folder: Path

    def complete(
        self, prompts: Sequence[str], settings: CompletionSettings, after_step: Callable[[], None]
    ) -> Iterator[Completion]:
        """Completions of each prompt in turn."""
        return completion.complete(self.model, self.tokenizer, prompts, settings, after_step=after_step)

    def steps(self, prompt: str, settings: CompletionSettings) -> Iterator[Step]:
        """One completion, token by token."""
        return completion.steps(self.model, self.tokenizer, prompt, settings)

    def prompt_draws(self, tokens: list[int], alternatives: int) -> list[Draw | None]:
        """How likely each token of a prompt is."""
        return prompt_draws(self.model, tokens, alternatives)

    def encode(self, prompt: str) -> list[int]:
        """Tokens of a prompt; raises UserError where it is no text."""
        return encode_prompt(self.tokenizer, prompt)


class ServedModel:
    """What `reference` (see `resolve_model`) stands for at each moment; a request keeps the model that it began with."""

    def __init__(self, reference: str | None, weights: str) -> None:
        self.reference, self._weights = reference, weights
        match = URI.fullmatch(reference) if reference else None
        self._followed = (match[1], match[2]) if match and match[2] else None
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._complained = ""
        self._loaded = self._load(self._named_now())

    def current(self) -> LoadedModel:
        """The model for a request that comes now; loads another one first where the alias has moved, which takes seconds."""
        with self._lock:
            if self._followed and time.monotonic() - self._looked > LOOK_INTERVAL:
                self._looked = time.monotonic()
                self._follow()
            return self._loaded

    def _follow(self) -> None:
        """What cannot be loaded is said once, and the model before stays."""
        try:
            name = self._named_now()
            if name != self._loaded.name:
                self._loaded = self._load(name)
                say("model", f"{self.reference} is {name} now")
            self._complained = ""
        except (UserError, MlflowException, OSError) as error:
            if str(error) != self._complained:
                warn("model", f"{self._loaded.name} goes on being served: {error}")
            self._complained = str(error)

    def _named_now(self) -> str:
        if not self._followed:
            return Path(self.reference).name if self.reference else resolve_model(None).name  # no place on this machine
        model, alias = self._followed
        version = alias_version(MlflowClient(), model, alias)
        if version is None:
            raise UserError(f"No version of '{model}' is '{alias}': gpt2flow models {model} shows what there is.")
        return version.uri

    def _load(self, name: str) -> LoadedModel:
        folder = resolve_model(name if self._followed else self.reference)
        model = load_model(folder).to(choose_device("auto"))
        choose_threads(model.config.n_embd)
        small = for_inference(model, self._weights)  # type: ignore[arg-type]
        return LoadedModel(name, small, load_tokenizer(folder), folder)
