"""From the surveys of a corpus to a plan: which passages stand in the store, in which order and in which shard.

The plan is all that encoding a shard needs, so shards can be encoded in any order, anywhere, any number of times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.store.index import CorpusIndex, DocumentFacts, Findings, Seen
from gpt2core.store.scan import Vocabulary, ids_to_bytes, survey_file, total
from gpt2core.store.splitting import Shares, Side, Split, SplitRule, cut_document
from gpt2core.text.documents import pieces_of
from gpt2core.text.pieces import Piece
from gpt2core.text.sources import SourceFile

SHARD_BYTES = 64 << 20
"""Text in a shard: it ends with the document that reaches this many bytes."""
SCHEMA = pa.schema(
    [
        pa.field("file", pa.int32(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("n_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
ROWS = 1 << 14
PlanProgress = Callable[[int, int], None]


@dataclass
class ShardPlan:
    """A corpus as it will stand in the store."""

    shards: int = 0
    n_bytes: int = 0
    rule: SplitRule = field(default_factory=lambda: SplitRule(0.0))
    duplicates: int = 0
    findings: Findings = field(default_factory=Findings)


def plan_path(folder: Path, shard: int) -> Path:
    """The rows of one shard's plan."""
    return folder / f"plan-{shard:05d}.parquet"


def plan_shards(
    files: list[SourceFile],
    settings: DataSettings,
    vocabulary: Vocabulary,
    index: CorpusIndex,
    folder: Path,
    progress: PlanProgress | None = None,
) -> ShardPlan:
    """Survey what is new in the corpus and write the plan's shards into the folder. Raises UserError where there is no text."""
    surveys: list[int] = []
    findings: list[Findings] = []
    total_bytes, done = sum(file.n_bytes for file in files), 0
    for file in files:
        number, found = survey_file(file, settings, vocabulary, index)
        surveys.append(number)
        findings.append(found)
        done += file.n_bytes
        if progress:
            progress(done, total_bytes)
    return _Planner(files, settings, vocabulary, index, surveys).write(folder, total(files, findings))


class _Planner:
    def __init__(
        self,
        files: list[SourceFile],
        settings: DataSettings,
        vocabulary: Vocabulary,
        index: CorpusIndex,
        surveys: list[int],
    ) -> None:
        self._files = files
        self._settings = settings
        self._vocabulary = vocabulary
        self._index = index
        self._surveys = surveys
        self._validation = 0.0 if settings.validation_source else settings.validation

    def write(self, folder: Path, findings: Findings) -> ShardPlan:
        """Write the plan of all shards."""
        plan = ShardPlan(findings=findings)
        shares = Shares()
        for _, facts in self._kept(plan):
            shares.add(facts.sha256, facts.n_bytes, self._validation)
        if not shares.whole + shares.cut:
            raise UserError("There is no text in data.source: give a file with text in it.")
        plan.rule = shares.rule(self._validation) if self._validation else SplitRule(0.0)
        rows: list[dict[str, Any]] = []
        n_bytes = 0
        for row in self._rows(plan.rule):
            if n_bytes >= SHARD_BYTES and _document(row) != _document(rows[-1]):
                self._close(folder, plan, rows)
                rows, n_bytes = [], 0
            rows.append(row)
            n_bytes += row["n_bytes"]
            plan.n_bytes += row["n_bytes"]
        if rows:
            self._close(folder, plan, rows)
        return plan

    def _close(self, folder: Path, plan: ShardPlan, rows: list[dict[str, Any]]) -> None:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), plan_path(folder, plan.shards))
        plan.shards += 1

    def _kept(self, plan: ShardPlan | None = None) -> Iterator[tuple[int, DocumentFacts]]:
        """(number of the file, document) for each text that was not there before."""
        seen = Seen()
        for number, survey in enumerate(self._surveys):
            for facts in self._index.documents(survey):
                if seen.add(facts.sha256):
                    yield number, facts
                elif plan:
                    plan.duplicates += 1

    def _rows(self, rule: SplitRule) -> Iterator[dict[str, Any]]:
        seen_sides = set[str]()
        cuts = self._cuts(rule)
        twins = self._whole_twins({side.sha256 for sides in cuts.values() for side in sides})
        for number, facts in self._kept():
            file = self._files[number]
            for side in self._sides(number, facts, file, rule, cuts):
                # The side of a cut document can equal another document, or another side.
                if (side.n_bytes != facts.n_bytes) and (side.sha256 in twins or side.sha256 in seen_sides):
                    continue
                seen_sides.update([side.sha256] if side.n_bytes != facts.n_bytes else [])
                values = (number, facts.number, facts.source or file.source, side.start, side.end, side.n_bytes)
                yield dict(zip(SCHEMA.names, (*values, side.sha256, side.split), strict=True))

    def _sides(
        self, number: int, facts: DocumentFacts, file: SourceFile, rule: SplitRule, cuts: dict[tuple[int, int], list[Side]]
    ) -> list[Side]:
        split: Split | None = "validation" if file.validation else rule.split(facts.sha256, facts.n_bytes)
        if split is None and (sides := cuts[number, facts.number]):
            return sides
        return [Side(split or "train", 0, facts.n_characters, facts.n_bytes, facts.sha256.hex())]

    def _cuts(self, rule: SplitRule) -> dict[tuple[int, int], list[Side]]:
        """Sides of every document to be cut; documents are read again for those that are not in the index."""
        wanted: dict[int, dict[int, DocumentFacts]] = {}
        for number, facts in self._kept():
            if not self._files[number].validation and rule.split(facts.sha256, facts.n_bytes) is None:
                wanted.setdefault(number, {})[facts.number] = facts
        found: dict[tuple[int, int], list[Side]] = {}
        for number, documents in wanted.items():
            for document in documents:
                known = self._index.cut(self._surveys[number], document, rule.validation)
                if known is not None:
                    found[number, document] = [Side(*side) for side in known]  # type: ignore[arg-type]
            missing = {document: facts for document, facts in documents.items() if (number, document) not in found}
            if missing:
                found |= self._cut_file(number, missing, rule.validation)
        return found

    def _cut_file(
        self, number: int, documents: dict[int, DocumentFacts], validation: float
    ) -> dict[tuple[int, int], list[Side]]:
        found = {}
        pieces = pieces_of(self._files[number], self._settings)
        for piece in pieces:
            facts = documents.get(piece.number)
            rest = _to_end(piece, pieces)
            if facts is None:
                for _ in rest:
                    pass
                continue
            if piece.ids is not None:
                sides = self._cut_ids(rest, facts, validation, self._files[number].location)
            else:
                sides = cut_document((part.text for part in rest), facts.n_characters, validation)
            self._index.add_cut(self._surveys[number], facts.number, validation, [list(side) for side in sides])
            found[number, facts.number] = sides
        return found

    def _cut_ids(self, pieces: Iterable[Piece], facts: DocumentFacts, validation: float, shown: str) -> list[Side]:
        """A document of ids is cut between two ids; an eighth of the held-out part before it is left out."""
        start = round(facts.n_characters * (1 - validation))
        end = start - max(1, int(facts.n_characters * validation / 8))
        decode = partial(ids_to_bytes, vocabulary=self._vocabulary, shown=shown)
        return cut_ids(((piece.ids, decode) for piece in pieces), end, start, facts.n_characters)

    def _whole_twins(self, hashes: set[str]) -> set[str]:
        """Those of the hashes that are also hashes of whole documents."""
        return {facts.sha256.hex() for _, facts in self._kept() if facts.sha256.hex() in hashes} if hashes else set()


def cut_ids(parts: Iterable[tuple[Any, Callable[[Any], bytes]]], end: int, start: int, n_ids: int) -> list[Side]:
    """The sides [0, end) and [start, n_ids) of a document of ids; none where one of them would hold no text."""
    import hashlib

    digests, sizes, place = (hashlib.sha256(), hashlib.sha256()), [0, 0], 0
    for ids, decode in parts:
        for side, (low, high) in enumerate(((0, end), (start, n_ids))):
            raw = decode(ids[max(0, low - place) : max(0, high - place)])
            digests[side].update(raw)
            sizes[side] += len(raw)
        place += len(ids)
    if not all(sizes):
        return []
    return [
        Side("train", 0, end, sizes[0], digests[0].hexdigest()),
        Side("validation", start, n_ids, sizes[1], digests[1].hexdigest()),
    ]


def _document(row: dict[str, Any]) -> tuple[int, int]:
    """Both sides of a cut document are encoded together."""
    return row["file"], row["number"]


def _to_end(piece: Piece, following: Iterator[Piece]) -> Iterator[Piece]:
    """The pieces of one document, of which the first one was taken already."""
    yield piece
    while not piece.last:
        piece = next(following)
        yield piece


def plan_of(folder: Path, shard: int) -> pa.Table:
    """The plan of one shard."""
    return pq.read_table(plan_path(folder, shard))


def describe_findings(findings: Findings) -> dict[str, Any]:
    """Findings as they stand in a manifest."""
    return json.loads(json.dumps(vars(findings)))  # type: ignore[no-any-return]
