"""What the tables of a token store promise, checked with pandera before a store is published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np
import pandera.pyarrow as pap
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pandera.api.pyarrow.types import PyArrowData
from pandera.errors import SchemaError, SchemaErrorReason

from configs.errors import UserError
from gpt2core.store.manifest import Manifest, read_manifest
from gpt2core.store.splitting import SPLITS, Split
from gpt2core.store.token_store import file_sha256, token_pages

DOCUMENTS = pa.schema(
    [
        pa.field("doc_id", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("n_bytes", pa.int64(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),
        pa.field("token_offset", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)

SHOWN = 40
"""Characters of a value that an error shows."""


@dataclass(frozen=True)
class Failure:
    """One broken promise: where, what was found, and the rule."""

    file: str
    row: int | None
    column: str
    value: str
    rule: str


class ContractError(UserError):
    """A table breaks its contract; `failure` says where."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        row = "" if failure.row is None else f", row {failure.row}"
        super().__init__(
            f"{failure.file}{row}: {failure.column} is {failure.value} but {failure.rule}; nothing was published, encode again."
        )


def check_store(folder: Path, manifest: Manifest) -> None:
    """Read every table back, page checksums verified, and check it. Raises ContractError."""
    documents: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    streams: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    seen = set[str]()
    for name in sorted(manifest.files):
        if name.startswith("documents-"):
            check_documents(pq.read_table(folder / name, page_checksum_verification=True), name, documents, len(seen), seen)
        for split in SPLITS:
            if name.startswith(f"tokens-{split}-"):
                _check_shard(folder / name, manifest)
                streams[split] += manifest.files[name].tokens or 0
    check_totals(documents, streams)


def _check_shard(path: Path, manifest: Manifest) -> None:
    tokens = manifest.files[path.name].tokens or 0
    rows = sum(len(page) for page in token_pages(path, np.dtype(manifest.dtype), manifest.row_tokens)) // manifest.row_tokens
    if rows != -(-tokens // manifest.row_tokens):
        rule = f"{tokens:,} tokens need {-(-tokens // manifest.row_tokens):,}"
        raise ContractError(Failure(path.name, None, "the number of rows", f"{rows:,}", rule))
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for number in range(file.num_row_groups):
            check_tokens(file.read_row_group(number), path.name, manifest.dtype, manifest.row_tokens, manifest.n_vocab)


def check_documents(table: pa.Table, file: str, starts: dict[Split, int], first_id: int, seen: set[str]) -> None:
    """Check one documents shard.

    `starts` is where each split's stream stands before this shard and `seen` the hashes of the shards before; both are
    brought up to date. Raises ContractError.
    """
    _check(_documents_schema(starts, first_id, seen), table, file, _shorten)
    seen.update(table["sha256"].to_pylist())
    for split in SPLITS:
        starts[split] += pc.sum(table.filter(pc.equal(table["split"], split))["n_tokens"]).as_py() or 0


def check_tokens(table: pa.Table, file: str, dtype: str, row_tokens: int, n_vocab: int) -> None:
    """Check one token shard, or a part of it. Raises ContractError."""
    width = np.dtype(dtype).itemsize * row_tokens

    def below_n_vocab(data: PyArrowData) -> pa.ChunkedArray:
        highest = [_ids(chunk, dtype, row_tokens).max(axis=1, initial=0) for chunk in data.table[data.key].chunks]
        return pa.chunked_array([pa.array(ids < n_vocab) for ids in highest], pa.bool_())

    def of_width(data: PyArrowData) -> bool:
        return bool(data.table[data.key].type == pa.binary(width))

    # pandera has no name for fixed_size_binary, so its type is a check of our own.
    checks = [
        pap.Check(of_width, name=f"rows must be {width} bytes"),
        pap.Check(below_n_vocab, name=f"ids must be below {n_vocab}"),
    ]
    _check(
        pap.DataFrameSchema({"tokens": pap.Column(None, checks)}, strict=True),
        table,
        file,
        lambda row: str(np.frombuffer(row, dtype).max()),
    )


def check_totals(documents: dict[Split, int], streams: dict[Split, int]) -> None:
    """The documents of each split must account for every token of its stream. Raises ContractError."""
    for split in SPLITS:
        if documents[split] != streams[split]:
            rule = f"tokens-{split} holds {streams[split]:,}"
            raise ContractError(Failure("documents", None, f"the sum of n_tokens for {split}", f"{documents[split]:,}", rule))


def _documents_schema(starts: dict[Split, int], first_id: int, seen: set[str]) -> pap.DataFrameSchema:
    def numbered(table: pa.Table) -> pa.Array:
        return pc.equal(table["doc_id"], pa.array(np.arange(first_id, first_id + table.num_rows)))

    def unique(table: pa.Table) -> pa.Array:
        hashes = table["sha256"].to_pylist()
        first = {sha256: row for row, sha256 in reversed(list(enumerate(hashes)))}
        return pa.array([first[sha256] == row and sha256 not in seen for row, sha256 in enumerate(hashes)])

    def contiguous(table: pa.Table) -> pa.Array:
        lengths = pc.fill_null(table["n_tokens"], 0).to_numpy()  # missing values are another rule's finding
        expected = np.full(table.num_rows, -1, dtype=np.int64)
        for split in SPLITS:
            rows = pc.fill_null(pc.equal(table["split"], split), False).to_numpy()
            expected[rows] = starts[split] + np.cumsum(lengths[rows]) - lengths[rows]
        return pc.equal(table["token_offset"], pa.array(expected))

    def at_least(column: str, least: int) -> Callable[[pa.Table], pa.Array]:
        return lambda table: pc.greater_equal(table[column], least)

    return pap.DataFrameSchema(
        {
            "doc_id": _column(pa.int64(), (numbered, "documents must be numbered without a gap")),
            "source": _column(pa.string(), (lambda t: pc.not_equal(t["source"], ""), "a document must name its source")),
            "sha256": _column(
                pa.string(),
                (lambda t: pc.match_substring_regex(t["sha256"], "^[0-9a-f]{64}$"), "a hash must be 64 hexadecimal digits"),
                (unique, "no text may be in the store twice"),
            ),
            "n_bytes": _column(pa.int64(), (at_least("n_bytes", 1), "it must be above 0")),
            "n_tokens": _column(pa.int64(), (at_least("n_tokens", 1), "it must be above 0")),
            "split": _column(
                pa.string(), (lambda t: pc.is_in(t["split"], pa.array(SPLITS)), f"it must be one of {', '.join(SPLITS)}")
            ),
            "token_offset": _column(
                pa.int64(), (contiguous, "each document must begin where the one before it in its split ends")
            ),
        },
        strict=True,
    )


def _column(dtype: pa.DataType, *rules: tuple[Callable[[pa.Table], pa.Array], str]) -> pap.Column:
    def on_table(rule: Callable[[pa.Table], pa.Array]) -> Callable[[PyArrowData], Any]:
        return lambda data: rule(data.table)

    return pap.Column(dtype, [pap.Check(on_table(rule), name=name) for rule, name in rules], nullable=False)


def _check(schema: pap.DataFrameSchema, table: pa.Table, file: str, show: Callable[[Any], str]) -> None:
    """Run pandera and turn its first finding into one short sentence; its own messages can hold whole tables."""
    try:
        schema.validate(table)
    except SchemaError as error:
        raise ContractError(_failure(error, table, file, show)) from None


def _failure(error: SchemaError, table: pa.Table, file: str, show: Callable[[Any], str]) -> Failure:
    column = getattr(error.schema, "name", None)
    if column is None:
        return Failure(
            file, None, "the list of columns", ", ".join(table.column_names), f"{error.failure_cases} is wrong there"
        )
    if error.reason_code == SchemaErrorReason.SERIES_CONTAINS_NULLS:
        return Failure(file, pc.index(table[column].is_null(), True).as_py(), column, "empty", "it must have a value")
    if not isinstance(error.check, pap.Check):
        return Failure(file, None, column, str(table[column].type), f"its type must be {error.schema.dtype}".lower())
    if error.check_output is None or isinstance(error.failure_cases, bool):
        return Failure(file, None, column, str(table[column].type), str(error.check.name))
    row: int = pc.index(nw.to_native(error.check_output)["check_output"], False).as_py()
    return Failure(file, row, column, show(table[column][row].as_py()), str(error.check.name))


def _shorten(value: object) -> str:
    return str(value) if len(str(value)) <= SHOWN else f"{str(value)[:SHOWN]}..."


def _ids(chunk: pa.Array, dtype: str, row_tokens: int) -> np.ndarray[Any, Any]:
    """Token ids [rows, row_tokens] of a fixed_size_binary array, without a copy."""
    width = np.dtype(dtype).itemsize * row_tokens
    raw = np.frombuffer(chunk.buffers()[1], dtype=np.uint8, count=(chunk.offset + len(chunk)) * width)
    return raw[chunk.offset * width :].view(dtype).reshape(len(chunk), row_tokens)


def damaged_store_files(store: Path) -> list[tuple[str, str]]:
    """(file, what is wrong) for everything in a store that is not as it was published; empty for a sound store.

    Checked are the hash of every file, page checksums, offsets, id ranges, and that no text stands in both splits.
    """
    try:
        manifest = read_manifest(store)
    except UserError as error:
        return [("manifest.json", str(error))]
    found = []
    for name, expected in manifest.files.items():
        if not (store / name).is_file():
            found.append((name, "it is missing"))
        elif file_sha256(store / name) != expected.sha256:
            found.append((name, "its content differs from when it was written"))
    strangers = sorted({path.name for path in store.iterdir()} - {*manifest.files, "manifest.json"})
    found += [(name, "it does not belong to the store") for name in strangers]
    if not found:
        try:
            check_store(store, manifest)
        except ContractError as error:
            found.append((error.failure.file, str(error)))
    return found
