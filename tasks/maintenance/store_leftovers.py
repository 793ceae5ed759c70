"""Token stores that no run and no version needs; of those that a version's ancestors have learnt from the hashes stay."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from configs.errors import UserError
from configs.retention import RetentionSettings
from gpt2core.store.manifest import MANIFEST
from gpt2core.store.token_store import open_store
from tasks.evidence.learnt_text import keep_hashes, learnt_hashes
from tasks.maintenance.leftover import Leftover, discard, freed_by, last_change, of_files
from tasks.workspace.folders import Workspace

Lineage = tuple[str, ...]
"""Token stores of a version and of those that it comes from, its own first."""
HALF_MADE = {".tmp": "an encode of it was interrupted", ".damaged": "it was made again"}


def store_leftovers(
    workspace: Workspace, needed: frozenset[str], lineages: Sequence[Lineage], settings: RetentionSettings
) -> Iterator[Leftover]:
    """Stores that are not needed, half-made ones, indexes of stores that are gone, hashes that no lineage needs."""
    half_made, going, staying = _sorted_out(workspace, needed, settings)
    for path in half_made:
        yield of_files("half-made or made again", f"store {path.name}", HALF_MADE[path.suffix], [path], workspace.trash)
    kept_hashes = sorted(workspace.learnt.glob("*.parquet"), key=last_change)
    known_otherwise = _known_otherwise([path.stem for path in (*kept_hashes, *going)], lineages)
    for path in going:
        yield _store(workspace, path, path.name in known_otherwise)
    for file in kept_hashes:
        if file.stem in known_otherwise:
            why = "no version learnt only there what it holds"
            yield of_files("half-made or made again", f"hashes of store {file.stem}", why, [file], workspace.trash)
    for index in sorted(workspace.copy_indexes.glob("*/")):
        if index.name.split(".")[0] not in staying:
            why = "its token store goes, or is gone"
            yield of_files("half-made or made again", f"index of {index.name}", why, [index], workspace.trash)


def _sorted_out(
    workspace: Workspace, needed: frozenset[str], settings: RetentionSettings
) -> tuple[list[Path], list[Path], set[str]]:
    """Half-made stores and whole ones that may go, oldest first, and the names of those that stay."""
    half_made, going, staying = [], [], set()
    changed = {path: last_change(path) for path in workspace.stores.glob("*/") if path.is_dir()}
    for path in sorted(changed, key=changed.__getitem__):
        old = time.time() - changed[path] > settings.older_than
        if old and path.suffix in HALF_MADE:
            half_made.append(path)
        elif old and path.name not in needed and (path / MANIFEST).is_file():
            going.append(path)
        else:
            staying.add(path.name)
    return half_made, going, staying


def _store(workspace: Workspace, path: Path, known_otherwise: bool) -> Leftover:
    why = "no run and no version needs it"
    if known_otherwise:
        return of_files("token store", path.name, why, [path], workspace.trash)

    def detach() -> None:
        with suppress(UserError):  # a damaged one says nothing
            keep_hashes(open_store(path, verify=False))
        discard([path], workspace.trash)

    return Leftover("token store", path.name, f"{why}; the hashes of its documents stay", freed_by([path]), detach)


def _known_otherwise(stores: list[str], lineages: Sequence[Lineage]) -> set[str]:
    """Stores, of these in turn, without which it is still known what each lineage has learnt from."""
    found: set[str] = set()
    for store in stores:
        if all(_is_covered(store, lineage, found) for lineage in lineages if store in lineage):
            found.add(store)
    return found


def _is_covered(store: str, lineage: Lineage, without: set[str]) -> bool:
    """Whether the lineage has learnt all that it learnt from this store from others as well."""
    left = learnt_hashes(store)
    for other in lineage:
        if not left:
            break
        if other != store and other not in without:
            left -= learnt_hashes(other)
    return not left
