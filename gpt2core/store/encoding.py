"""From the files of a corpus to a published token store.

First each file that is new is surveyed, then the plan of all shards is made, then each shard is encoded, or copied where an
older store holds its documents. Memory holds a batch of text and a row group, whatever the corpus's size.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.machine.durable import fsync, named_write_errors
from gpt2core.machine.lock import is_held, locked
from gpt2core.store.contracts import DOCUMENTS, check_store
from gpt2core.store.index import TABLE_RULES, CorpusIndex, may_hold_tables, reading_options
from gpt2core.store.manifest import (
    MANIFEST,
    ROW_TOKENS,
    SCHEMA_VERSION,
    Manifest,
    SplitCounts,
    StoredFile,
    store_hash,
    write_store_manifest,
)
from gpt2core.store.reuse import KnownTokens
from gpt2core.store.shard_plan import ShardPlan, describe_findings, plan_path, plan_shards
from gpt2core.store.shards import ShardEncoder, finished, lengths_path
from gpt2core.store.splitting import SPLITS, Split
from gpt2core.store.token_store import file_sha256, open_store
from gpt2core.text.documents import SourceFile
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer

OLDER_STORES = 4
"""Stores, newest first, in which documents that are encoded already are looked for."""

EncodingProgress = Callable[[str, int, int], None]
"""Hears (stage, bytes done, bytes in all); the stages are "reading" and "encoding"."""


@dataclass(frozen=True)
class ShardWork:
    """Neighbouring shards of a plan, to be encoded by any process that sees the same files and folders."""

    folder: Path
    """Where the plan and the vocabulary lie and the shards go."""
    files: list[SourceFile]
    settings: DataSettings
    known: list[Path]
    """Stores in which documents are looked for that are encoded already."""
    first: int
    last: int


ShareOut = Callable[[list[ShardWork]], None]
"""Has each piece of work done by `encode_work`, wherever, and returns or raises when all is done."""


def encode_store(
    files: list[SourceFile],
    settings: DataSettings,
    tokenizer: Tokenizer,
    stores_dir: Path,
    progress: EncodingProgress | None = None,
    share_out: ShareOut | None = None,
) -> Path:
    """Publish `<stores_dir>/<hash>` and return its path; a store that is already there and whole is returned at once.

    A store that is damaged is made again: what is undamaged is copied. An encode that was killed goes on with the shard it was
    at. With `data.workers` above 1 the shards are given to `share_out`; the bytes are the same.

    Raises UserError for unreadable or missing text, for a full disk and for a store that breaks its contract; nothing is left
    behind then.
    """
    with named_write_errors(stores_dir):
        stores_dir.mkdir(parents=True, exist_ok=True)
    target = stores_dir / name_of_store(files, settings, tokenizer)
    with locked(stores_dir):  # two runs of one corpus encode it once
        if not _is_whole(target):
            with _set_aside(target) as damaged, named_write_errors(target):
                _Encoding(files, settings, tokenizer, target, damaged, progress, share_out).publish()
    return target


def encode_work(work: ShardWork) -> None:
    """Encode the shards; those that are finished are left as they are. Ends when whoever shares out the work is gone."""
    tokenizer = load_tokenizer(work.folder)
    encoder = ShardEncoder(work.folder, work.files, work.settings, tokenizer, KnownTokens(work.known, tokenizer.sha256))
    for shard in range(work.first, work.last + 1):
        encoder.encode(shard, lambda _: _refuse_if_abandoned(work.folder.parent))


def name_of_store(files: list[SourceFile], settings: DataSettings, tokenizer: Tokenizer) -> str:
    """Hash of all that goes into the store."""
    sources = [(file.source, file.sha256) for file in files]
    return store_hash(sources, tokenizer.sha256, _options(files, settings))


class _Encoding:
    """One store in the making, in `<target>.tmp`."""

    def __init__(
        self,
        files: list[SourceFile],
        settings: DataSettings,
        tokenizer: Tokenizer,
        target: Path,
        damaged: Path | None,
        progress: EncodingProgress | None,
        share_out: ShareOut | None,
    ) -> None:
        self._files = files
        self._settings = settings
        self._tokenizer = tokenizer
        self._target = target
        self._folder = target.with_name(target.name + ".tmp")
        self._damaged = damaged
        self._progress = progress
        self._share_out = share_out

    def publish(self) -> None:
        """Survey, plan, encode, check, rename. What a killed process finished is kept; an error leaves nothing."""
        self._folder.mkdir(exist_ok=True)
        try:
            plan = self._plan()
            with self._named_need(plan.n_bytes):
                if self._share_out and min(self._settings.workers, plan.shards) > 1:
                    self._tokenizer.save(self._folder)
                    self._share_out(self._shares(plan.shards))
                else:
                    self._encode_shards(plan)
            self._complete(plan)
        except Exception:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        for path in [*self._folder.iterdir(), self._folder]:
            fsync(path)
        self._folder.rename(self._target)
        fsync(self._target.parent)

    def _plan(self) -> ShardPlan:
        heard = self._progress
        with CorpusIndex(self._target.parent) as index:
            report = (lambda done, total: heard("reading", done, total)) if heard else None
            return plan_shards(self._files, self._settings, self._tokenizer, index, self._folder, report)

    def _encode_shards(self, plan: ShardPlan) -> None:
        known = KnownTokens(self._older_stores(), self._tokenizer.sha256)
        encoder = ShardEncoder(self._folder, self._files, self._settings, self._tokenizer, known)
        done = 0

        def advance(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            if self._progress:
                self._progress("encoding", done, plan.n_bytes)

        for shard in range(plan.shards):
            encoder.encode(shard, advance)

    def _shares(self, shards: int) -> list[ShardWork]:
        """Neighbouring shards for each worker: a file that is read from its beginning is best read on."""
        workers = min(self._settings.workers, shards)
        borders = [worker * shards // workers for worker in range(workers + 1)]
        known = self._older_stores()
        return [ShardWork(self._folder, self._files, self._settings, known, first, end - 1) for first, end in pairwise(borders)]

    def _older_stores(self) -> list[Path]:
        """The newest other stores; not those in the making, which may be this one, complete but for its name."""
        others = [path for path in self._target.parent.iterdir() if path.suffix != ".tmp" and (path / MANIFEST).is_file()]
        newest = sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
        return [*([self._damaged] if self._damaged else []), *newest][:OLDER_STORES]

    def _complete(self, plan: ShardPlan) -> None:
        """Number the documents, remove the scaffolding, check everything and write the manifest."""
        counts, tokens_in = self._write_documents(plan)
        rows = [{"source": file.source, "n_bytes": file.n_bytes, "sha256": file.sha256} for file in self._files]
        pq.write_table(pa.Table.from_pylist(rows), self._folder / "sources.parquet", write_page_checksum=True)
        for path in self._folder.iterdir():
            if path.name.startswith(("plan-", "lengths-")):
                path.unlink()
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            hash=self._target.name,
            tokenizer_sha256=self._tokenizer.sha256,
            n_vocab=self._tokenizer.n_vocab,
            end_of_text=self._tokenizer.end_of_text,
            row_tokens=ROW_TOKENS,
            options=_options(self._files, self._settings),
            cut={"few": plan.rule.few, "all": plan.rule.all},
            dropped={"empty": plan.findings.empty, "duplicate": plan.duplicates},
            findings=describe_findings(plan.findings),
            counts=counts,
            files={path.name: _stored(path, tokens_in) for path in sorted(self._folder.iterdir())},
        )
        check_store(self._folder, manifest)
        write_store_manifest(self._folder, manifest)

    def _write_documents(self, plan: ShardPlan) -> tuple[dict[Split, SplitCounts], dict[str, StoredFile]]:
        """Turn the lengths of each shard into its documents file."""
        counts = {split: SplitCounts() for split in SPLITS}
        tokens_in: dict[str, StoredFile] = {}
        for shard in range(plan.shards):
            found = finished(self._folder, shard)
            assert found, f"shard {shard} is not finished"
            table, files = found
            tokens_in |= files
            documents = _numbered(table, counts)
            pq.write_table(documents, self._folder / f"documents-{shard:05d}.parquet", write_page_checksum=True)
        wanted = {*tokens_in, *(path(self._folder, n).name for n in range(plan.shards) for path in (plan_path, lengths_path))}
        for path in self._folder.iterdir():
            if path.name not in wanted and not path.name.startswith("documents-"):
                path.unlink()  # left by a killed process
        return counts, tokens_in

    @contextmanager
    def _named_need(self, total: int) -> Iterator[None]:
        """Say of a full disk how large the whole store will be."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            width = 2 if self._tokenizer.n_vocab <= 1 << 16 else 4
            need = f"the token store needs about {1 + (total * width // 3 >> 20):,} MiB"
            raise UserError(f"The disk is full at {self._target.parent}: {need}; free them and run it again.") from error


def _numbered(table: pa.Table, counts: dict[Split, SplitCounts]) -> pa.Table:
    """The documents of a shard as they stand in the store; `counts` is what stood before and is brought up to date."""
    first = sum(count.documents for count in counts.values())
    splits = np.array(table["split"].to_pylist())
    n_tokens, n_bytes = table["n_tokens"].to_numpy(), table["n_bytes"].to_numpy()
    offsets = np.zeros(len(splits), dtype=np.int64)
    for split in SPLITS:
        own, before = splits == split, counts[split]
        offsets[own] = before.tokens + np.cumsum(n_tokens[own]) - n_tokens[own]
        counts[split] = SplitCounts(
            documents=before.documents + int(own.sum()),
            bytes=before.bytes + int(n_bytes[own].sum()),
            tokens=before.tokens + int(n_tokens[own].sum()),
        )
    columns = {
        "doc_id": np.arange(first, first + len(splits)),
        "token_offset": offsets,
        **{name: table[name] for name in ("source", "sha256", "n_bytes", "n_tokens", "split")},
    }
    return pa.table({name: columns[name] for name in DOCUMENTS.names}, schema=DOCUMENTS)


def _stored(path: Path, tokens_in: dict[str, StoredFile]) -> StoredFile:
    return tokens_in.get(path.name) or StoredFile(bytes=path.stat().st_size, sha256=file_sha256(path))


def _options(files: Iterable[SourceFile], settings: DataSettings) -> dict[str, Any]:
    """The settings that decide about the store's content, beside the text itself."""
    files = list(files)
    held = sum(file.validation for file in files)
    tables = {"tables": TABLE_RULES} if any(may_hold_tables(file) for file in files) else {}
    return {"validation": settings.validation, "validation_files": held, **reading_options(settings), **tables}


def _is_whole(store: Path) -> bool:
    if not store.is_dir():
        return False
    try:
        open_store(store)
    except UserError:
        return False
    return True


@contextmanager
def _set_aside(target: Path) -> Iterator[Path | None]:
    """Move a damaged store out of the way; its undamaged shards serve while it is made again."""
    aside = target.with_name(target.name + ".damaged")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    yield aside if aside.exists() else None
    shutil.rmtree(aside, ignore_errors=True)


def _refuse_if_abandoned(stores_dir: Path) -> None:
    """Raise UserError where nobody holds the folder's lock any more: what is encoded now would be for nobody."""
    if not is_held(stores_dir):
        raise UserError(f"The encode that shared out the shards of {stores_dir} was stopped: run it again.")
