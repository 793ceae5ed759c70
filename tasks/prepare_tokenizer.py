"""The vocabulary: trained on the corpus, taken from the base model, or read from a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import DataSettings, TokenizerSettings
from gpt2core.machine.durable import publish_folder
from gpt2core.store.index import reading_options
from gpt2core.text.documents import SourceFile, texts_of
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from tasks.terminal.console import begin, say
from tasks.workspace.folders import Workspace

RECIPE = "byte-level BPE, 1"  # part of the name of a trained vocabulary: change it when training would give another one


@task(cache_policy=NO_CACHE, persist_result=False)
def prepare_tokenizer(files: list[SourceFile], data: DataSettings, settings: TokenizerSettings, base: Path | None) -> Tokenizer:
    """The run's tokenizer; one that was trained before on the same text is read again, not trained again."""
    if tokenizer := known_tokenizer(files, data, settings, base):
        taken_from = base if settings.source == "base" else settings.source
        origin = "trained on this corpus before" if settings.source == "train" else f"from {taken_from}"
        say("vocabulary", f"{tokenizer.n_vocab:,} entries, {origin}")
        return tokenizer
    begin("vocabulary", f"training {settings.vocab_size:,} entries on the corpus")
    tokenizer = train_tokenizer(texts_of(files, data), settings.vocab_size)
    with publish_folder(_trained_folder(files, data, settings)) as temporary:
        tokenizer.save(temporary)
    say("vocabulary", f"{tokenizer.n_vocab:,} entries, trained on the corpus")
    return tokenizer


def known_tokenizer(
    files: list[SourceFile], data: DataSettings, settings: TokenizerSettings, base: Path | None
) -> Tokenizer | None:
    """The run's tokenizer; None where it is still to be trained."""
    if settings.source != "train":
        return load_tokenizer(base if settings.source == "base" and base else Path(settings.source))
    folder = _trained_folder(files, data, settings)
    return load_tokenizer(folder) if folder.is_dir() else None


def _trained_folder(files: list[SourceFile], data: DataSettings, settings: TokenizerSettings) -> Path:
    return Workspace.current().tokenizers / _training_key(files, data, settings)


def _training_key(files: list[SourceFile], data: DataSettings, settings: TokenizerSettings) -> str:
    reading = json.dumps(reading_options(data), sort_keys=True)
    ingredients = [RECIPE, str(settings.vocab_size), reading, *(file.sha256 for file in files)]
    return hashlib.sha256("\n".join(ingredients).encode()).hexdigest()[:32]
