"""Tokens that an older store holds already: a document that is known by its hash is copied and not encoded again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import UserError
from gpt2core.store.manifest import Manifest, read_manifest
from gpt2core.store.splitting import SPLITS
from gpt2core.store.token_store import file_sha256, token_pages

IDS = ".npz"
"""A source of ids: its ids need not be those that encoding its text gives, so they are neither copied nor replaced."""
COLUMNS = ["source", "sha256", "n_bytes", "n_tokens", "token_offset", "split"]
Numbers = np.ndarray[Any, np.dtype[np.int64]]


class KnownTokens:
    """The documents of some stores of the same vocabulary. Damaged files of a store are left out."""

    def __init__(self, stores: Iterable[Path], tokenizer_sha256: str) -> None:
        self._shards: list[_KnownShard] = []
        for store in stores:
            try:
                manifest = read_manifest(store)
            except UserError:
                continue
            if manifest.tokenizer_sha256 == tokenizer_sha256:
                self._shards += _shards_of(store, manifest)
        sizes = [len(shard.keys) for shard in self._shards]
        keys = np.concatenate([shard.keys for shard in self._shards]) if sizes else np.empty(0, dtype=np.uint64)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        self._starts = np.cumsum([0, *sizes])

    def find(self, sha256: str, n_bytes: int, source: str) -> np.ndarray[Any, Any] | None:
        """Token ids of the document without its end of text, or None where it is not known."""
        if not len(self._keys) or source.endswith(IDS):
            return None
        place = int(np.searchsorted(self._keys, _key(sha256)))
        while place < len(self._keys) and self._keys[place] == _key(sha256):
            row = int(self._order[place])
            shard = int(np.searchsorted(self._starts, row, side="right")) - 1
            found = self._shards[shard].read(row - int(self._starts[shard]), sha256, n_bytes)
            if found is not None:
                return found
            place += 1
        return None


class _KnownShard:
    """One documents file and the token files beside it."""

    def __init__(self, store: Path, number: str, manifest: Manifest, before: dict[str, int]) -> None:
        table = pq.read_table(store / f"documents-{number}.parquet", columns=COLUMNS)
        self._store = store
        self._number = number
        self._manifest = manifest
        self._streams: dict[str, np.ndarray[Any, Any] | None] = {}
        hashes = table["sha256"].to_pylist()
        self._is_ids: np.ndarray[Any, Any] = pc.ends_with(table["source"], IDS).to_numpy()
        self.keys = np.array([_key(sha256) for sha256 in hashes], dtype=np.uint64)
        self._rest = np.array([int(sha256[16:32], 16) for sha256 in hashes], dtype=np.uint64)
        self._n_bytes: Numbers = table["n_bytes"].to_numpy()
        self._n_tokens: Numbers = table["n_tokens"].to_numpy()
        self._is_held: np.ndarray[Any, Any] = pc.equal(table["split"], "validation").to_numpy()
        offsets = table["token_offset"].to_numpy()
        self._places: Numbers = offsets - np.where(self._is_held, before["validation"], before["train"])
        for split, held in (("train", False), ("validation", True)):
            before[split] += int(self._n_tokens[self._is_held == held].sum())

    def read(self, row: int, sha256: str, n_bytes: int) -> np.ndarray[Any, Any] | None:
        """Ids of a document, if it is the one that is wanted and its file is undamaged."""
        if self._is_ids[row] or int(self._n_bytes[row]) != n_bytes or int(self._rest[row]) != int(sha256[16:32], 16):
            return None
        tokens = self._tokens("validation" if self._is_held[row] else "train")
        start = int(self._places[row])
        return None if tokens is None else tokens[start : start + int(self._n_tokens[row]) - 1]

    def _tokens(self, split: str) -> np.ndarray[Any, Any] | None:
        """The shard's token file, memory-mapped, or None if it is damaged."""
        if split not in self._streams:
            name = f"tokens-{split}-{self._number}.parquet"
            file, expected = self._store / name, self._manifest.files.get(name)
            whole = expected is not None and file.is_file() and file_sha256(file) == expected.sha256
            self._streams[split] = _joined(file, self._manifest) if whole else None
        return self._streams[split]


def _shards_of(store: Path, manifest: Manifest) -> list[_KnownShard]:
    found: list[_KnownShard] = []
    before = dict.fromkeys([str(split) for split in SPLITS], 0)
    for name in sorted(name for name in manifest.files if name.startswith("documents-")):
        file = store / name
        if not file.is_file() or file_sha256(file) != manifest.files[name].sha256:
            number = name.split("-")[1].removesuffix(".parquet")
            for split in before:  # its tokens are known by number, though its documents are lost
                stored = manifest.files.get(f"tokens-{split}-{number}.parquet")
                before[split] += (stored.tokens or 0) if stored else 0
            continue
        found.append(_KnownShard(store, name.split("-")[1].removesuffix(".parquet"), manifest, before))
    return found


def _joined(file: Path, manifest: Manifest) -> np.ndarray[Any, Any]:
    pages = token_pages(file, np.dtype(manifest.dtype), manifest.row_tokens)
    return pages[0] if len(pages) == 1 else np.concatenate(pages)


def _key(sha256: str) -> np.uint64:
    return np.uint64(int(sha256[:16], 16))
