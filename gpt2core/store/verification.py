"""Finding what is damaged in a token store, by name."""

from __future__ import annotations

from pathlib import Path

from configs.errors import UserError
from gpt2core.store.contracts import ContractError, check_store
from gpt2core.store.manifest import read_manifest
from gpt2core.store.token_store import file_sha256


def damaged_files(store: Path) -> list[tuple[str, str]]:
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
