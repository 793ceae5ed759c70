"""A token stream with the documents it is made of, and how many bytes each token stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from configs.errors import UserError
from gpt2core.store.manifest import token_dtype
from gpt2core.store.splitting import Split
from gpt2core.store.token_store import TokenStore, TokenStream
from gpt2core.text.documents import Document
from gpt2core.text.tokenizer import Tokenizer

Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class DocumentStream:
    """Documents side by side in one stream; D documents, V entries of the vocabulary."""

    stream: TokenStream
    doc_ids: Integers
    """[D]"""
    sources: list[str]
    """[D], where each document came from."""
    starts: Integers
    """[D], place of each document's first token in the stream, ascending."""
    byte_lengths: Integers
    """[V], bytes of text that each token stands for; the end of text stands for none."""

    def documents_at(self, positions: Integers | int) -> Integers:
        """Which document (0 to D - 1) each place in the stream belongs to."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    @property
    def lengths(self) -> Integers:
        """[D], tokens of each document, the end of text included."""
        return np.diff(self.starts, append=len(self.stream))


def split_of_store(store: TokenStore, tokenizer: Tokenizer, split: Split = "validation") -> DocumentStream:
    """One split of a token store, encoded with this very tokenizer."""
    table = store.documents()
    table = table.filter(pc.equal(table["split"], split)).sort_by("token_offset")
    doc_ids, starts = (table[name].to_numpy() for name in ("doc_id", "token_offset"))
    return DocumentStream(store.stream(split), doc_ids, table["source"].to_pylist(), starts, byte_lengths(tokenizer))


def text_of_documents(documents: Iterable[Document], tokenizer: Tokenizer) -> DocumentStream:
    """Documents encoded into memory, each with its end of text; raises UserError where they make no two tokens."""
    arrays, sources = [], []
    dtype = np.dtype(token_dtype(tokenizer.n_vocab))
    for document in documents:
        ids = tokenizer.encode_ordinary([document.text])[0].astype(dtype)
        arrays.append(np.append(ids, dtype.type(tokenizer.end_of_text)))
        sources.append(document.source)
    if sum(map(len, arrays)) < 2:
        raise UserError("The text is empty: there is nothing to evaluate on.")
    starts = np.cumsum([0, *map(len, arrays[:-1])], dtype=np.int64)
    stream = TokenStream([np.concatenate(arrays)])
    return DocumentStream(stream, np.arange(len(arrays)), sources, starts, byte_lengths(tokenizer))


def byte_lengths(tokenizer: Tokenizer) -> Integers:
    """Bytes of text that each id stands for, [V]; the end of text stands for none."""
    lengths = np.zeros(tokenizer.n_vocab, dtype=np.int64)
    for token, spelled in tokenizer.token_bytes.items():
        lengths[token] = len(spelled)
    lengths[tokenizer.end_of_text] = 0
    return lengths
