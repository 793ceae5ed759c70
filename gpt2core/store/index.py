"""What is known of a corpus's files: hashes, and the size and hash of each document. Kept between encodes in SQLite.

It is a cache and nothing else: without it everything is found again by reading. It lies beside the token stores.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from configs.schema import DataSettings
from gpt2core.text.sources import SourceFile

FILE = ".index.sqlite"
VERSION = 2
TABLE_RULES = 2
"""Goes up when the same table would be read in another way."""
TABLES_WITHIN = {
    ".csv",
    ".tsv",
    ".jsonl",
    ".ndjson",
    ".json",
    ".parquet",
    ".arrow",
    ".zip",
    ".tar",
    ".tgz",
    ".tbz2",
    ".txz",
    ".tzst",
}
SETTLED = 2_000_000_000
"""Nanoseconds after its last change before a file's stamp is trusted: a second write within a clock tick would not show."""
TABLES = f"""
CREATE TABLE IF NOT EXISTS hashes (location TEXT PRIMARY KEY, stamp TEXT, sha256 TEXT, n_bytes INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS surveys (id INTEGER PRIMARY KEY, key TEXT UNIQUE, findings TEXT);
CREATE TABLE IF NOT EXISTS documents (survey INTEGER, number INTEGER, source TEXT, n_bytes INTEGER, n_characters INTEGER,
    sha256 BLOB, PRIMARY KEY (survey, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cuts (survey INTEGER, number INTEGER, validation REAL, sides TEXT,
    PRIMARY KEY (survey, number, validation)) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""


class DocumentFacts(NamedTuple):
    """One document with text in it, by a first reading."""

    number: int
    """Position within its file."""
    source: str
    """Member of an archive, or empty."""
    n_bytes: int
    n_characters: int
    sha256: bytes


@dataclass(frozen=True)
class Findings:
    """What a first reading of one file found."""

    documents: int = 0
    empty: int = 0
    decode_errors: int = 0
    longest_line: int = 0
    """Characters."""
    scripts: dict[str, int] | None = None
    """Characters by block of scripts."""
    notes: tuple[str, ...] = ()
    """How tables were read: column, delimiter, rows, share."""
    warnings: tuple[str, ...] = ()
    """What looks wrong in that."""


class CorpusIndex:
    """The index beside the stores of a folder. Use it as a context manager."""

    def __init__(self, folder: Path | None) -> None:
        path = ":memory:" if folder is None else str(folder / FILE)
        self._database = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def known_hash(self, location: str, stamp: str) -> tuple[str, int] | None:
        """(sha256, bytes) of a file that was hashed with this stamp before."""
        query = "SELECT sha256, n_bytes FROM hashes WHERE location = ? AND stamp = ?"
        found: tuple[str, int] | None = self._database.execute(query, (str(Path(location).absolute()), stamp)).fetchone()
        return found

    def remember_hash(self, location: str, stamp: str, sha256: str, n_bytes: int) -> None:
        """Note the hash of a file, unless it was changed just now."""
        path = Path(location).absolute()
        if "://" not in location and time.time_ns() - path.stat().st_ctime_ns < SETTLED:
            return
        with self._database:
            self._database.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", (str(path), stamp, sha256, n_bytes))

    def survey(self, file: SourceFile, settings: DataSettings, vocabulary: str) -> tuple[int, Findings] | None:
        """Number and findings of the survey of a file with this content, if there is one."""
        key = survey_key(file, settings, vocabulary)
        row = self._database.execute("SELECT id, findings FROM surveys WHERE key = ?", (key,)).fetchone()
        return row and (row[0], Findings(**json.loads(row[1])))

    def add_survey(self, key: str, documents: Iterable[DocumentFacts], findings: FindingsInTheMaking) -> int:
        """Store a survey whole or not at all; `findings` is asked after the last document. Returns its number."""
        with self._database:
            number = self._database.execute("INSERT INTO surveys (key) VALUES (?)", (key,)).lastrowid or 0
            rows = ((number, *facts) for facts in documents)
            self._database.executemany("INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?)", rows)
            found = json.dumps(vars(findings.findings()))
            self._database.execute("UPDATE surveys SET findings = ? WHERE id = ?", (found, number))
        return number

    def documents(self, survey: int) -> Iterator[DocumentFacts]:
        """The documents of a file in order."""
        query = "SELECT number, source, n_bytes, n_characters, sha256 FROM documents WHERE survey = ? ORDER BY number"
        return map(DocumentFacts._make, self._database.execute(query, (survey,)))

    def cut(self, survey: int, number: int, validation: float) -> list[list[object]] | None:
        """The sides of a cut document as they were noted."""
        query = "SELECT sides FROM cuts WHERE survey = ? AND number = ? AND validation = ?"
        row = self._database.execute(query, (survey, number, validation)).fetchone()
        sides: list[list[object]] | None = row and json.loads(row[0])
        return sides

    def add_cut(self, survey: int, number: int, validation: float, sides: list[list[object]]) -> None:
        """Note the sides of a cut document."""
        with self._database:
            row = (survey, number, validation, json.dumps(sides))
            self._database.execute("INSERT OR REPLACE INTO cuts VALUES (?, ?, ?, ?)", row)


class FindingsInTheMaking(Protocol):
    """Gathers what is noticed while the documents of a file stream by."""

    def findings(self) -> Findings:
        """What was found so far."""


class Seen:
    """A set of hashes of any size on disk; the file goes with the object."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA cache_size = -32000")
        self._database.execute("CREATE TABLE seen (sha256 BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, sha256: bytes) -> bool:
        """Whether the hash is new."""
        return self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (sha256,)).rowcount == 1


def survey_key(file: SourceFile, settings: DataSettings, vocabulary: str) -> str:
    """Hash of all that decides about the documents of a file: content, format and the settings of reading."""
    kind = "".join(part.lower() for part in Path(file.location).suffixes)
    parts = [VERSION, file.sha256, kind, reading_options(settings), vocabulary if ".npz" in kind or "." not in kind else ""]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def reading_options(settings: DataSettings) -> dict[str, object]:
    """The settings that decide about the text of the documents."""
    options = {name: getattr(settings, name) for name in ("text_column", "encoding", "errors", "newlines")}
    return options | ({"delimiter": settings.delimiter} if settings.delimiter else {})


def may_hold_tables(file: SourceFile) -> bool:
    """Whether a column or a delimiter may be guessed in the file: such a store depends on the rules of guessing as well."""
    return not TABLES_WITHIN.isdisjoint(suffix.lower() for suffix in Path(file.location).suffixes)


def _open(path: str) -> sqlite3.Connection:
    try:
        return _prepared(path)
    except sqlite3.DatabaseError:
        for end in ("", "-wal", "-shm"):  # a cache that is damaged or of another version
            Path(path + end).unlink(missing_ok=True)
        return _prepared(path)


def _prepared(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60)
    found = database.execute("PRAGMA user_version").fetchone()[0]
    if found not in (0, VERSION):
        database.close()
        raise sqlite3.DatabaseError
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose entries, never mix them up
    database.execute("PRAGMA cache_size = -32000")
    database.executescript(TABLES)
    return database
