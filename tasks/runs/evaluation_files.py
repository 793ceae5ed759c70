"""What an evaluated step left behind in files: sealed when it is written, so that a flipped bit is found afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2core.machine.durable import file_hash
from gpt2core.machine.sealed_json import DamagedFileError, read_sealed, write_sealed
from tasks.runs.run_folder import RunFolder


def write_evaluation(folder: RunFolder, step: int, report: dict[str, Any]) -> None:
    """Write the report of an evaluated step, with the hashes of the files that were written before it."""
    path, *others = _files(folder, step)
    write_sealed(path, {"step": step, **report, "files": {file.name: file_hash(file) for file in others}})


def read_report(folder: RunFolder, step: int) -> dict[str, Any]:
    """The report of an evaluated step; empty where it is missing or damaged."""
    try:
        return read_sealed(folder.report_files(step)[0])
    except (FileNotFoundError, DamagedFileError):
        return {}


def damaged_evaluation_files(folder: RunFolder) -> Iterator[Path]:
    """Files of the evaluated steps that are missing or not what was written; a report without hashes is taken as it is."""
    for row in folder.evaluations.rows():
        path, *others = _files(folder, int(row["step"]))
        report = read_report(folder, int(row["step"]))
        known = report.get("files", {})
        if not report:
            yield path
        yield from (file for file in others if file.name in known and not _is(file, known[file.name]))


def _files(folder: RunFolder, step: int) -> tuple[Path, Path, Path, Path]:
    as_data, by_document = folder.report_files(step)
    return as_data, by_document, *folder.sample_files(step)


def _is(file: Path, hashed: str) -> bool:
    return file.is_file() and file_hash(file) == hashed
