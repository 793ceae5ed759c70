"""A model in another program's files: read from any layout, written, read back and compared before the folder has its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from configs.errors import UserError
from gpt2core.machine.durable import publish_folder, write_text
from gpt2core.model.gpt2 import GPT2
from gpt2core.text.gguf_vocabulary import GGUFVocabulary, add_gguf_vocabulary
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer
from gpt2core.weights.gguf_files import write_gguf
from gpt2core.weights.loading import load_model, save_model
from gpt2core.weights.model_folder import NANOGPT, AdapterFolder, recognise
from gpt2core.weights.nanogpt_files import write_nanogpt
from gpt2core.weights.openai_files import write_openai
from tasks.runs.models import resolve_model

WeightsFormat = Literal["hf", "openai", "nanogpt", "gguf"]
GGUF = "model.gguf"


@dataclass(frozen=True)
class Source:
    """What is to be converted, and what its files do not say themselves; see `load_model`."""

    model: str
    base: Path | None = None
    vocabulary: Path | None = None
    n_ctx: int | None = None
    tanh_gelu: bool = False


def convert(source: Source, folder: Path, to: WeightsFormat) -> None:
    """Write the model with its vocabulary as a new folder in the format `to`.

    Raises UserError where the folder is there already, where the model is not a GPT-2, and where the format cannot hold it.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already: give the name of a new folder.")
    place = resolve_model(source.model)
    model = load_model(place, n_ctx=source.n_ctx, base=source.base, tanh_gelu=source.tanh_gelu)
    tokenizer = _vocabulary(source, place)
    _require_rows(model, tokenizer)
    with publish_folder(folder) as made:
        WRITERS[to](model, tokenizer, made)
        _require_same(model, load_model(made), made)
        if load_tokenizer(made).sha256 != tokenizer.sha256:
            raise UserError(f"The vocabulary in {folder} would not read back as it is: nothing was written.")


def _vocabulary(source: Source, place: Path) -> Tokenizer:
    if source.vocabulary:
        return load_tokenizer(source.vocabulary)
    try:
        return load_tokenizer(place)
    except UserError as error:
        found = recognise(place, base=source.base, tanh_gelu=source.tanh_gelu)
        if isinstance(found, AdapterFolder):
            return load_tokenizer(found.base.weight_files[0].parent)
        raise UserError(f"{error} Or give the folder that has it as --vocabulary.") from error


def _require_rows(model: GPT2, tokenizer: Tokenizer) -> None:
    n_vocab = model.config.n_vocab
    if beyond := sorted((i, token) for token, i in tokenizer.ids.items() if i >= n_vocab):
        i, token = beyond[0]
        raise UserError(
            f"The vocabulary's entry {token!r} has the id {i}, and the model's last is {n_vocab - 1}: take them from one model."
        )


def _require_same(model: GPT2, read_back: GPT2, folder: Path) -> None:
    for (name, weight), other in zip(model.named_parameters(), read_back.parameters(), strict=True):
        if not torch.equal(weight.view(torch.int32), other.view(torch.int32)):
            raise UserError(f"{name} in {folder} does not read back as it was written: check the disk, nothing was kept.")


def _write_hf(model: GPT2, tokenizer: Tokenizer, folder: Path) -> None:
    save_model(model, folder, end_of_text=tokenizer.end_of_text)
    tokenizer.save(folder)


def _write_openai(model: GPT2, tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.save_as_openai(folder)
    write_openai(model, folder)


def _write_nanogpt(model: GPT2, tokenizer: Tokenizer, folder: Path) -> None:
    write_nanogpt(model, folder / NANOGPT)
    tokenizer.save(folder)


def _write_gguf(model: GPT2, tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.require_gpt2_splitting("GGUF")
    if not tokenizer.merges:
        raise UserError(
            "This vocabulary has no merges, and llama.cpp does not load a GGUF file without: choose another format."
        )
    vocabulary = GGUFVocabulary(tokenizer.ids, tokenizer.merges, tokenizer.added)
    n_vocab = model.config.n_vocab
    write_gguf(model, folder / GGUF, lambda head: add_gguf_vocabulary(head, vocabulary, tokenizer.end_of_text, n_vocab))
    write_text(folder / "Modelfile", f"FROM ./{GGUF}\nTEMPLATE {{{{ .Prompt }}}}\n")


WRITERS: dict[WeightsFormat, Callable[[GPT2, Tokenizer, Path], None]] = {
    "hf": _write_hf,
    "openai": _write_openai,
    "nanogpt": _write_nanogpt,
    "gguf": _write_gguf,
}
