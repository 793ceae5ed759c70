"""A model that takes part in a promotion: where it lies, how it is loaded, what it was trained beside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mlflow import MlflowClient
from pydantic import ValidationError

from configs.schema import ModelSettings, RunConfig
from gpt2core.machine.devices import choose_device
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer
from gpt2core.weights.model_folder import read_config
from tasks.evaluation.compare import load_to_score, read_provenance
from tasks.evidence.deciding_text import Learner
from tasks.evidence.evidence import Role
from tasks.registry.lookup import URI, Version, content_hash, find_version, lineage
from tasks.runs.models import resolve_model


@dataclass(frozen=True)
class Entrant:
    """Candidate or rival. Not measured yet."""

    title: str
    reference: str
    folder: Path
    version: Version | None = None
    untrained_seed: int | None = None
    """Of the initial weights, where the rival is the untrained model; `folder` then gives its sizes and vocabulary."""

    @cached_property
    def content(self) -> str:
        """Hash of weights and vocabulary."""
        content = content_hash(self.folder)
        return content if self.untrained_seed is None else f"untrained-{self.untrained_seed}-{content}"

    def load(self) -> tuple[GPT2, Tokenizer]:
        """Model and vocabulary, as it is scored."""
        if self.untrained_seed is None:
            return load_to_score(self.folder)
        model = GPT2(read_config(self.folder)).initialise(self.untrained_seed).to(choose_device("auto"))
        return model, load_tokenizer(self.folder)

    def learner(self, client: MlflowClient) -> Learner | None:
        """What it has learnt from; None for an untrained model."""
        if self.untrained_seed is not None:
            return None
        ancestors = lineage(client, self.version) if self.version else ()
        stores = tuple(store for ancestor in ancestors if (store := ancestor.tags.get("store")))
        return Learner(self.title, self.folder, read_provenance(self.folder).store, stores)


def config_of(version: Version) -> RunConfig:
    """The settings of the version's run, as far as they are recorded and still valid; the defaults otherwise."""
    recorded = version.metadata.get("config")
    try:
        return RunConfig.model_validate(recorded)
    except ValidationError:  # nothing is recorded, or by a version of gpt2flow whose settings were others
        return RunConfig(model=ModelSettings(n_ctx=1, n_embd=1, n_head=1, n_layer=1))


def rival_of_first(client: MlflowClient, candidate: Version) -> tuple[Entrant, Role]:
    """What a first model must beat: its base, or itself before training. Raises UserError where the base is gone."""
    base = candidate.base
    if base is None or base == "scratch":
        seed = config_of(candidate).train.seed
        return Entrant("untrained model", f"{candidate.uri} before training", candidate.folder, None, seed), "untrained"
    match = URI.fullmatch(base)
    version = find_version(client, match[1], match[3] or match[2]) if match else None
    return Entrant("base", base, version.folder if version else resolve_model(base), version), "base"
