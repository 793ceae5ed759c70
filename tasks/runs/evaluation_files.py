"""What an evaluated step left behind in files: sealed when it is written, so that a flipped bit is found afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2core.machine.durable import file_hash, write_json
from tasks.runs.run_folder import RunFolder, checksum


def write_report(folder: RunFolder, step: int, report: dict[str, Any]) -> None:
    """Write the report of an evaluated step, with the hashes of the files that were written before it, and one of itself."""
    path, *others = _files(folder, step)
    sealed = {"step": step, **report, "files": {file.name: file_hash(file) for file in others}}
    write_json(path, {**sealed, "checksum": checksum(sealed)})


def damaged_files(folder: RunFolder) -> Iterator[Path]:
    """Files of the evaluated steps that are missing or not what was written; a report without hashes is taken as it is."""
    for row in folder.evaluations.rows():
        path, *others = _files(folder, int(row["step"]))
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            seal, known = report.pop("checksum", None), report.get("files", {})
            sound = seal == checksum(report) if seal or known else True
        except (FileNotFoundError, ValueError, AttributeError, TypeError):
            sound, known = False, {}
        if not sound:
            yield path
        else:
            yield from (file for file in others if file.name in known and not _is(file, known[file.name]))


def _files(folder: RunFolder, step: int) -> tuple[Path, Path, Path, Path]:
    as_data, by_document = folder.report_files(step)
    return as_data, by_document, *folder.sample_files(step)


def _is(file: Path, hashed: str) -> bool:
    return file.is_file() and file_hash(file) == hashed
