"""The token store's table of contents."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from configs.errors import UserError
from gpt2core.machine.sealed_json import DamagedFileError, read_sealed, write_sealed
from gpt2core.store.splitting import Split

MANIFEST = "manifest.json"
SCHEMA_VERSION = 2
ROW_TOKENS = 256
"""Tokens in a row of a token shard: the last row of a shard is padded, so few are wasted."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SplitCounts(_Record):
    """How much a split holds."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    """End-of-text ids included."""


class StoredFile(_Record):
    """One file of the store."""

    bytes: int
    sha256: str
    tokens: int | None = None
    """Tokens before the padding of the last row; None for a file that is no token shard."""


class Manifest(_Record):
    """Everything needed to read the store, and to tell whether it is whole."""

    schema_version: int
    hash: str
    """The store's name: hash of all that went in."""
    tokenizer_sha256: str
    n_vocab: int
    end_of_text: int
    row_tokens: int
    options: dict[str, Any]
    """Settings of `data` that decide about the content."""
    cut: dict[str, bool]
    """Which rules of `splitting` cut documents of any size: few, all."""
    dropped: dict[str, int]
    """Documents left out, by reason: empty, duplicate."""
    findings: dict[str, Any]
    """What reading noticed: decode errors, longest line, characters by script block."""
    counts: dict[Split, SplitCounts]
    files: dict[str, StoredFile]

    @property
    def dtype(self) -> str:
        """Token ids as NumPy names them."""
        return token_dtype(self.n_vocab)


def token_dtype(n_vocab: int) -> str:
    """The smallest type that holds every id."""
    return "<u2" if n_vocab <= 1 << 16 else "<u4"


def store_hash(sources: list[tuple[str, str]], tokenizer_sha256: str, options: dict[str, Any]) -> str:
    """Name of the store made of these (source, sha256) in this order with this vocabulary and these options."""
    went_in = {
        "schema_version": SCHEMA_VERSION,
        "row_tokens": ROW_TOKENS,
        "sources": sources,
        "tokenizer": tokenizer_sha256,
        "options": options,
    }
    return hashlib.sha256(json.dumps(went_in, sort_keys=True).encode()).hexdigest()[:32]


def write_store_manifest(folder: Path, manifest: Manifest) -> None:
    """The last file written into a store."""
    write_sealed(folder / MANIFEST, manifest.model_dump(mode="json"))


def read_manifest(folder: Path) -> Manifest:
    """Raises UserError if there is none, or if a bit of it differs from what was written."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate(read_sealed(path))
    except OSError as error:
        raise UserError(f"{folder} is not a token store ({MANIFEST}: {error.strerror}): encode the corpus first.") from error
    except (DamagedFileError, ValidationError) as error:
        remedy = f"delete the folder {folder} and encode again"
        raise UserError(f"{path} is damaged or of another version: {remedy}.") from error
