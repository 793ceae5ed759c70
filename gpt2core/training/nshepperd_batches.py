"""Batches as nshepperd/gpt-2 draws them, for those who compare losses with it (`train.compat: nshepperd`).

As its load_dataset.py has it: files are joined with `<|endoftext|>` as ordinary text between them until they reach 50,000
characters, and that is a chunk; a file that reaches the limit is followed by no mark; each array of an .npz is a chunk. A
window starts anywhere in any chunk where it fits with a token to spare, so the last token of a chunk is never seen, and all
windows of all chunks are equally likely. The last token of a window has no target.

Not reproduced: files come in sorted order, text is encoded by document (where it meets a mark, other merges are possible), the
held-out documents are left out, and which windows are drawn is a function of (seed, step).
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from configs.errors import UserError
from gpt2core.model.linear_cross_entropy import IGNORED
from gpt2core.store.shuffle import Words, mix
from gpt2core.store.token_store import TokenStore, TokenStream
from gpt2core.text.sources import END_OF_TEXT
from gpt2core.text.tokenizer import Tokenizer
from gpt2core.training.batches import Batches

COMBINE = 50_000
"""Characters after which a chunk ends with its file."""
Ids = np.ndarray[Any, Any]


class Chunks(NamedTuple):
    """The training text as a list of chunks."""

    stream: TokenStream
    """All chunks, one after the other."""
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    """Tokens of each."""


class CompatBatches(Batches):
    """Random windows with replacement, never across chunks. Raises UserError where no chunk is long enough."""

    def __init__(self, chunks: Chunks, n_ctx: int, batch_size: int, seed: int) -> None:
        windows = np.maximum(chunks.lengths - n_ctx, 0)
        if not windows.any():
            raise UserError(
                f"train.compat nshepperd finds no chunk of more than {n_ctx:,} tokens: give longer files, or lower model.n_ctx."
            )
        super().__init__(chunks.stream, n_ctx, batch_size, seed, "random")
        self._ends = np.cumsum(windows)
        # From the number of a window over all chunks to its place: what chunks before it hold beside starts of windows.
        self._skipped = np.cumsum(chunks.lengths - windows) - (chunks.lengths - windows)

    def at(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of batch `index`, int64 [batch_size, n_ctx] each; the last target of a window is -100."""
        inputs, targets = super().at(index)
        targets = targets.clone()
        targets[:, -1] = IGNORED
        return inputs, targets

    def _starts(self, numbers: Words) -> Words:
        drawn = mix(numbers + mix(np.uint64(self._seed))) % np.uint64(self._ends[-1])
        chunk = np.searchsorted(self._ends, drawn, side="right")
        starts: Words = drawn + self._skipped[chunk].astype(np.uint64)
        return starts


def chunks_of(store: TokenStore, tokenizer: Tokenizer) -> Chunks:
    """The training documents of a store, file by file, in chunks; nothing is copied."""
    mark = np.array(tokenizer.encode(END_OF_TEXT, special=False), dtype=store.manifest.dtype)
    maker = _ChunkMaker(mark, _characters_of_ids(tokenizer))
    rows = store.documents().select(["source", "split", "token_offset", "n_tokens"]).to_pylist()
    rows = [row for row in rows if row["split"] == "train"]
    stream = store.stream("train")
    for source, documents in groupby(rows, key=lambda row: row["source"]):
        maker.add_file(source, [stream.pieces(row["token_offset"], row["n_tokens"] - 1) for row in documents])
    return maker.chunks()


class _ChunkMaker:
    def __init__(self, mark: Ids, characters: Ids) -> None:
        self._mark = mark
        self._characters = characters
        self._segments: list[Ids] = []
        self._lengths: list[int] = []
        self._held: list[Ids] = []
        self._held_characters = 0

    def add_file(self, source: str, documents: list[list[Ids]]) -> None:
        """The next file: the pieces of each of its documents."""
        if source.endswith(".npz"):
            for pieces in documents:
                self._close(pieces)
            return
        for number, pieces in enumerate(documents):
            self._hold(([self._mark] if number else []) + pieces)
        if self._held_characters < COMBINE:
            self._hold([self._mark])
        else:
            self._close(self._held)
            self._held, self._held_characters = [], 0

    def chunks(self) -> Chunks:
        """All chunks; what did not reach the limit is the last one."""
        if self._held:
            self._close(self._held)
        return Chunks(TokenStream(self._segments), np.array(self._lengths, dtype=np.int64))

    def _hold(self, pieces: list[Ids]) -> None:
        self._held += pieces
        self._held_characters += sum(int(self._characters[piece].sum()) for piece in pieces)

    def _close(self, pieces: list[Ids]) -> None:
        self._segments += pieces
        self._lengths.append(sum(len(piece) for piece in pieces))


def _characters_of_ids(tokenizer: Tokenizer) -> Ids:
    """How many characters begin in each id: a character of UTF-8 has one byte that continues none."""
    counts = np.zeros(tokenizer.n_vocab, dtype=np.int64)
    for token, raw in tokenizer.token_bytes.items():
        counts[token] = sum(byte & 0xC0 != 0x80 for byte in raw)
    return counts
