"""What a token store holds, in figures: sizes, lengths, twins, and whether held-out text stands in the training text as well.

Everything is read from the store; the source may be gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import rensa

from gpt2core.store.token_store import TokenStore, TokenStream

SHINGLE = 5
"""Tokens whose sequence counts as a feature of a document."""
PERMUTATIONS = 128
SIMILAR = 0.8
"""Jaccard similarity from which two documents are near-duplicates."""
COMPARED_DOCUMENTS = 20_000
COMPARED_TOKENS = 2048
"""At most so many documents, spread evenly, are compared by at most so many of their first tokens."""
OVERLAP = 13
"""Tokens in a row that count as the same passage, as in the papers on contamination of GPT-3."""
PROBES = 1 << 20
"""At most so many passages of the validation text, spread evenly, are looked for in the training text."""
FILTER_BITS = 24
CHUNK = 1 << 18
FACTOR = 0x9E3779B97F4A7C15
Numbers = np.ndarray[Any, np.dtype[np.uint64]]
Ids = Sequence[int] | np.ndarray[Any, Any]


@dataclass(frozen=True)
class CorpusReport:
    """The figures of one store."""

    documents: dict[str, int]
    """By split."""
    bytes: dict[str, int]
    tokens: dict[str, int]
    tokens_per_byte: float
    dropped: dict[str, int]
    """Left out: empty documents and exact duplicates."""
    decode_errors: int
    longest_line: int
    """Characters."""
    scripts: dict[str, int]
    """Characters by block of scripts."""
    notes: list[str]
    """How tables were read: column, delimiter, rows, share."""
    warnings: list[str]
    length_edges: list[int]
    """Powers of two, in tokens."""
    length_counts: list[int]
    """Documents from each edge up to the next one."""
    shorter_than_block: int
    """Documents of fewer tokens than a block."""
    near_duplicates: int
    """Documents that are nearly the same as an earlier one, among those compared."""
    compared: int
    shared_hashes: int
    """Texts that stand in both splits; always 0 in a sound store."""
    overlapping: float
    """Share of the validation text's 13-token passages that the training text holds too."""
    probes: int
    """Passages looked for."""


def report_on(store: TokenStore, n_ctx: int) -> CorpusReport:
    """Read the whole store once and count."""
    manifest, table = store.manifest, store.documents()
    lengths: np.ndarray[Any, Any] = table["n_tokens"].to_numpy()
    edges = [1 << power for power in range(int(lengths.max()).bit_length() + 1)]
    hashes: dict[str, set[str]] = {split: set() for split in manifest.counts}
    for sha256, split in zip(table["sha256"].to_pylist(), table["split"].to_pylist(), strict=True):
        hashes[split].add(sha256)
    compared, near = near_duplicates(store)
    probes, overlapping = overlap(store.stream("train"), store.stream("validation"))
    n_bytes = sum(count.bytes for count in manifest.counts.values())
    return CorpusReport(
        documents={split: count.documents for split, count in manifest.counts.items()},
        bytes={split: count.bytes for split, count in manifest.counts.items()},
        tokens={split: count.tokens for split, count in manifest.counts.items()},
        tokens_per_byte=sum(count.tokens for count in manifest.counts.values()) / n_bytes,
        dropped=manifest.dropped,
        decode_errors=manifest.findings["decode_errors"],
        longest_line=manifest.findings["longest_line"],
        scripts=manifest.findings["scripts"] or {},
        notes=manifest.findings.get("notes", []),
        warnings=manifest.findings.get("warnings", []),
        length_edges=edges,
        length_counts=np.histogram(lengths, [*edges, edges[-1] * 2])[0].tolist(),
        shorter_than_block=int((lengths < n_ctx).sum()),
        near_duplicates=near,
        compared=compared,
        shared_hashes=len(hashes["train"] & hashes["validation"]),
        overlapping=overlapping,
        probes=probes,
    )


def near_duplicates(store: TokenStore) -> tuple[int, int]:
    """(documents compared, those of them that resemble an earlier one) by MinHash over shingles of tokens."""
    compared, seen = 0, _deduplicator()
    found = 0
    for doc_id, ids in _spread(store, store.documents()):
        compared += 1
        found += not seen.add(doc_id, _sketch(ids))
    return compared, found


def resembling(store: TokenStore, texts: Iterable[Ids]) -> list[bool]:
    """Whether each text, in ids of the store's vocabulary, is nearly the same as a document that the store trains on."""
    table, seen = store.documents(), _deduplicator()
    for doc_id, ids in _spread(store, table.filter(pc.equal(table["split"], "train"))):
        seen.add(doc_id, _sketch(ids))
    return [bool(seen.is_duplicate(f"text-{number}", _sketch(ids))) for number, ids in enumerate(texts)]


def _deduplicator() -> Any:
    return rensa.RMinHashDeduplicator(threshold=SIMILAR, num_perm=PERMUTATIONS, use_lsh=True, num_bands=16)


def _spread(store: TokenStore, documents: pa.Table) -> Iterator[tuple[str, Ids]]:
    """Names and first tokens of documents spread evenly over the table."""
    chosen = np.linspace(0, documents.num_rows - 1, min(documents.num_rows, COMPARED_DOCUMENTS)).astype(np.int64)
    for row in documents.take(chosen).select(["doc_id", "token_offset", "n_tokens", "split"]).to_pylist():
        ids = np.empty(min(row["n_tokens"] - 1, COMPARED_TOKENS), dtype="<u4")
        store.stream(row["split"]).read(row["token_offset"], len(ids), ids)
        yield str(row["doc_id"]), ids


def _sketch(ids: Ids) -> Any:
    """MinHash of a document's shingles."""
    tokens = np.asarray(ids[:COMPARED_TOKENS], dtype="<u4")
    raw, width = tokens.tobytes(), tokens.itemsize
    features = [raw[at * width : (at + SHINGLE) * width] for at in range(max(1, len(tokens) - SHINGLE + 1))]
    sketch = rensa.RMinHash(num_perm=PERMUTATIONS, seed=42)  # the seed of the deduplicator
    sketch.update(features)
    return sketch


def overlap(train: TokenStream, validation: TokenStream) -> tuple[int, float]:
    """(passages of the validation text looked for, share of them that the training text holds)."""
    step = max(1, (len(validation) - OVERLAP + 1) // PROBES)
    wanted = np.unique(np.concatenate([part[::step] for part in _passages(validation)] or [np.empty(0, dtype=np.uint64)]))
    if not len(wanted):
        return 0, 0.0
    may_be_wanted = np.zeros(1 << FILTER_BITS, dtype=bool)
    shift = np.uint64(64 - FILTER_BITS)
    may_be_wanted[wanted >> shift] = True
    found = np.zeros(len(wanted), dtype=bool)
    for part in _passages(train):
        candidates = part[may_be_wanted[part >> shift]]  # binary search misses the cache at every step, so few are searched
        places = np.minimum(np.searchsorted(wanted, candidates), len(wanted) - 1)
        found[places[wanted[places] == candidates]] = True
    return len(wanted), float(found.mean())


def _passages(stream: TokenStream) -> Iterator[Numbers]:
    """Hashes of all runs of OVERLAP tokens, in chunks.

    The hash of a run is the sum of its ids times powers of FACTOR, modulo 2^64: a difference of two sums over the chunk, moved
    to power 0 by the inverse of FACTOR (Karp and Rabin, 1987).
    """
    size = min(CHUNK, len(stream)) + OVERLAP
    powers, inverses = (np.cumprod(np.full(size, base, dtype=np.uint64)) for base in (FACTOR, pow(FACTOR, -1, 1 << 64)))
    for start in range(0, max(0, len(stream) - OVERLAP + 1), CHUNK):
        ids = np.empty(min(CHUNK + OVERLAP - 1, len(stream) - start), dtype=np.uint64)
        stream.read(start, len(ids), ids)
        sums = np.cumsum(ids * powers[: len(ids)])
        hashes: Numbers = sums[OVERLAP - 1 :].copy()
        hashes[1:] -= sums[:-OVERLAP]
        hashes *= inverses[: len(hashes)]
        yield hashes
