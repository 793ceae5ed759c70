"""GGUF files, those of llama.cpp and Ollama: opening one safely, and the byte-level BPE in its head, read and written.

The library `gguf`, which is optional, does the parsing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

MODEL, SPLITTING = "gpt2", "gpt-2"  # tokenizer.ggml.model and .pre, by which llama.cpp knows GPT-2's own way
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens, gguf.TokenType


@dataclass(frozen=True)
class GGUFVocabulary:
    """Entries by token, merges in order, and which entries are matched as a whole (True: special ones)."""

    ids: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    added: Mapping[str, bool]


def open_gguf(file: Path) -> GGUFReader:
    """The file's head, read, and its tensors, mapped; raises UserError where it is damaged or the library is not installed."""
    library = require_gguf(file)

    class BoundedReader(library.GGUFReader):  # type: ignore[name-defined,misc]
        """Refuses to go on behind the end of the file, where the library would count on for as long as the file asks."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            if offset + np.dtype(dtype).itemsize * int(count) > self.data.size:
                raise ValueError("it ends too early")
            return super()._get(offset, dtype, count, override_order)

    try:
        reader: GGUFReader = BoundedReader(file)
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError, OSError) as error:
        raise UserError(f"{file} is damaged or no GGUF file ({error}): fetch it again.") from error
    return reader


def require_gguf(file: Path) -> Any:
    """The library; raises UserError where it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(f"{file} needs the library gguf: pip install 'gpt2flow[gguf]'.") from error
    return gguf


def gguf_value(reader: GGUFReader, key: str) -> Any:
    """A value of the head; None where it is not there or unreadable."""
    try:
        return reader.fields[key].contents()
    except (ValueError, LookupError, AttributeError):
        return None


def read_gguf_vocabulary(file: Path) -> GGUFVocabulary:
    """The vocabulary in the file; raises UserError where there is none, or one of another kind than GPT-2's."""
    reader = open_gguf(file)
    found = {key: gguf_value(reader, f"tokenizer.ggml.{key}") for key in ("model", "pre", "tokens", "token_type", "merges")}
    if found["model"] != MODEL or found["pre"] not in (SPLITTING, None):
        raise UserError(
            f"{file} has a vocabulary of the kind {found['model']!r}, {found['pre']!r}: GPT-2 needs its own byte-level BPE."
        )
    tokens, merges = _texts(found["tokens"]), _texts(found["merges"] or [])
    kinds = found["token_type"] or [NORMAL] * len(tokens)
    pairs = [(first, second) for first, _, second in (pair.partition(" ") for pair in merges)]
    if not tokens or not isinstance(kinds, list) or len(kinds) != len(tokens) or not all(map(all, pairs)):
        raise UserError(f"{file} has a vocabulary that cannot be read: fetch the file again.")
    ids = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != UNUSED}
    added = {token: kinds[i] == CONTROL for token, i in ids.items() if kinds[i] in (CONTROL, USER_DEFINED)}
    return GGUFVocabulary(ids, pairs, added)


def _texts(value: object) -> list[str]:
    return value if isinstance(value, list) and all(isinstance(each, str) for each in value) else []


def add_gguf_vocabulary(writer: GGUFWriter, vocabulary: GGUFVocabulary, end_of_text: int, n_vocab: int) -> None:
    """Put the vocabulary into the head of a file whose model has `n_vocab` rows; those without an entry are marked unused."""
    tokens = [f"[PAD{i}]" for i in range(n_vocab)]
    kinds = [UNUSED] * n_vocab
    for token, i in vocabulary.ids.items():
        tokens[i] = token
        kinds[i] = NORMAL if token not in vocabulary.added else CONTROL if vocabulary.added[token] else USER_DEFINED
    writer.add_tokenizer_model(MODEL)
    writer.add_tokenizer_pre(SPLITTING)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in vocabulary.merges])
    writer.add_bos_token_id(end_of_text)
    writer.add_eos_token_id(end_of_text)
    writer.add_add_bos_token(False)
