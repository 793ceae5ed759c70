"""From documents to a published token store.

The corpus is read twice: once to learn sizes and hashes, from which the split follows, and once to encode. Memory holds one
document, one batch of encoded text and one row group for each split, whatever the corpus's size.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.contracts import check_store
from gpt2core.documents import Document, SourceFile, documents_of
from gpt2core.durable import named_write_errors, publish_folder
from gpt2core.manifest import ROW_TOKENS, SCHEMA_VERSION, Manifest, store_hash, write_manifest
from gpt2core.splitting import Passage, place_documents, survey_documents
from gpt2core.store_writer import StoreWriter
from gpt2core.token_store import open_store
from gpt2core.tokenizer import Tokenizer

BATCH_CHARACTERS = 1 << 20
"""Text encoded at once; its pieces are shared out among threads."""

Progress = Callable[[int, int], None]


def encode_store(
    files: list[SourceFile],
    settings: DataSettings,
    tokenizer: Tokenizer,
    stores_dir: Path,
    progress: Progress | None = None,
) -> Path:
    """Publish `<stores_dir>/<hash>` and return its path; a store that is already there and whole is returned at once.

    `progress` hears (bytes of text done, bytes in all). Raises UserError for unreadable or missing text, for a full disk and
    for a store that breaks its contract; nothing is left behind then.
    """
    with named_write_errors(stores_dir):
        stores_dir.mkdir(parents=True, exist_ok=True)
    sources = [(file.source, file.sha256) for file in files]
    target = stores_dir / store_hash(sources, tokenizer.sha256, _options(settings))
    with _alone_in(stores_dir):
        if not _is_whole(target):
            shutil.rmtree(target, ignore_errors=True)
            _publish(files, settings, tokenizer, target, progress)
    return target


def _publish(
    files: list[SourceFile], settings: DataSettings, tokenizer: Tokenizer, target: Path, progress: Progress | None
) -> None:
    survey = survey_documents(_documents(files), settings.validation)
    rule = survey.rule(settings.validation)
    with publish_folder(target) as folder:
        writer = StoreWriter(folder, tokenizer)
        with _named_need(writer, survey.n_bytes):
            _encode(place_documents(_documents(files), rule), tokenizer, writer, survey.n_bytes, progress)
            counts, stored = writer.finish(files)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            hash=target.name,
            tokenizer_sha256=tokenizer.sha256,
            n_vocab=tokenizer.n_vocab,
            end_of_text=tokenizer.end_of_text,
            row_tokens=ROW_TOKENS,
            options=_options(settings),
            cut_above=rule.cut_above,
            dropped={"empty": survey.empty, "duplicate": survey.duplicates},
            counts=counts,
            files=stored,
        )
        check_store(folder, manifest)
        write_manifest(folder, manifest)


def _options(settings: DataSettings) -> dict[str, Any]:
    """The settings that decide about the store's content, beside the text itself."""
    return {"validation": settings.validation}


@dataclass(frozen=True)
class _Piece:
    passage: Passage
    text: str
    last: bool


def _encode(
    passages: Iterable[Passage], tokenizer: Tokenizer, writer: StoreWriter, total: int, progress: Progress | None
) -> None:
    """Encode all passages, `total` bytes of text or a little less, and append them to the store."""
    done = 0
    for batch in _batches(passages, tokenizer):
        found = tokenizer.encode_batch([piece.text for piece in batch], special=False)
        for piece, ids in zip(batch, found, strict=True):
            writer.add(piece.passage, ids, piece.last)
            done += len(piece.text.encode())
        if progress:
            progress(done, total)


@contextmanager
def _named_need(writer: StoreWriter, total: int) -> Iterator[None]:
    """Say of a full disk how large the whole store will be, judged by the documents that are encoded."""
    try:
        yield
    except OSError as error:
        done, size = writer.encoded
        if error.errno != errno.ENOSPC or not done:
            raise
        need = f"the token store needs about {-(-size * total // done >> 20):,} MiB"
        raise UserError(f"The disk is full at {writer.folder.parent}: {need}; free them and run it again.") from error


def _batches(passages: Iterable[Passage], tokenizer: Tokenizer) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    characters = 0
    for piece in chain.from_iterable(_pieces(passage, tokenizer) for passage in passages):
        batch.append(piece)
        characters += len(piece.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _pieces(passage: Passage, tokenizer: Tokenizer) -> Iterator[_Piece]:
    """Long texts in pieces, so that one long document keeps all threads busy and memory small."""
    held: str | None = None
    for text in tokenizer.pieces(passage.text):
        if held is not None:
            yield _Piece(passage, held, last=False)
        held = text
    yield _Piece(passage, held or "", last=True)


def _documents(files: Iterable[SourceFile]) -> Iterator[Document]:
    return chain.from_iterable(documents_of(file) for file in files)


def _is_whole(store: Path) -> bool:
    if not store.is_dir():
        return False
    try:
        open_store(store)
    except UserError:
        return False
    return True


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: two runs of one corpus encode it once. The lock goes with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
