"""The vocabulary: trained on the corpus, taken from the base model, or read from a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import DataSettings, TokenizerSettings
from gpt2core.corpus_index import reading_options
from gpt2core.documents import SourceFile, texts_of
from gpt2core.durable import publish_folder
from gpt2core.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from tasks.console import begin, say
from tasks.workspace import Workspace

RECIPE = "byte-level BPE, 1"  # part of the name of a trained vocabulary: change it when training would give another one


@task(cache_policy=NO_CACHE, persist_result=False)
def prepare_tokenizer(files: list[SourceFile], data: DataSettings, settings: TokenizerSettings, base: Path | None) -> Tokenizer:
    """The run's tokenizer; one that was trained before on the same text is read again, not trained again."""
    if settings.source != "train":
        tokenizer = load_tokenizer(base if settings.source == "base" and base else Path(settings.source))
        say("vocabulary", f"{tokenizer.n_vocab:,} entries from {base if settings.source == 'base' else settings.source}")
        return tokenizer
    folder = Workspace.current().tokenizers / _training_key(files, data, settings)
    if folder.is_dir():
        tokenizer = load_tokenizer(folder)
        say("vocabulary", f"{tokenizer.n_vocab:,} entries, trained on this corpus before")
        return tokenizer
    begin("vocabulary", f"training {settings.vocab_size:,} entries on the corpus")
    tokenizer = train_tokenizer(texts_of(files, data), settings.vocab_size)
    with publish_folder(folder) as temporary:
        tokenizer.save(temporary)
    say("vocabulary", f"{tokenizer.n_vocab:,} entries, trained on the corpus")
    return tokenizer


def _training_key(files: list[SourceFile], data: DataSettings, settings: TokenizerSettings) -> str:
    reading = json.dumps(reading_options(data), sort_keys=True)
    ingredients = [RECIPE, str(settings.vocab_size), reading, *(file.sha256 for file in files)]
    return hashlib.sha256("\n".join(ingredients).encode()).hexdigest()[:32]
