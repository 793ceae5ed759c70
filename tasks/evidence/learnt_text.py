"""Which documents a model has learnt from, by their hashes, also where the token store itself is gone.

learnt/STORE.parquet   hashes of the training documents of a token store that gc has removed, 64 bytes a document
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import UserError
from gpt2core.machine.durable import fsync
from gpt2core.store.splitting import Split
from gpt2core.store.token_store import TokenStore, open_store
from tasks.workspace.folders import Workspace


def store_here(name: str | None) -> TokenStore | None:
    """The token store of that hash, if this workspace has it."""
    folder = Workspace.current().stores / (name or "unknown")
    return open_store(folder, verify=False) if folder.is_dir() else None


def hashes_of(store: TokenStore, split: Split) -> set[str]:
    """Of the documents of one side."""
    table = store.documents()
    column: Iterable[str] = table.filter(pc.equal(table["split"], split))["sha256"].to_pylist()
    return set(column)


def learnt_hashes(name: str) -> set[str]:
    """Of the documents that were trained on beside the store of that hash; nothing where that is not known here."""
    if store := store_here(name):
        return hashes_of(store, "train")
    if not (file := hashes_file(name)).is_file():
        return set()
    try:
        return set(pq.read_table(file, page_checksum_verification=True)["sha256"].to_pylist())
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{file} is damaged, and nobody can say what its model has learnt from: restore it from a backup, or delete it "
            "to decide without."
        ) from error


def keep_hashes(store: TokenStore) -> None:
    """Write down what `learnt_hashes` says of a store that is going to be removed."""
    file, table = hashes_file(store.hash), store.documents()
    file.parent.mkdir(exist_ok=True)
    temporary = file.with_suffix(".tmp")
    pq.write_table(table.filter(pc.equal(table["split"], "train")).select(["sha256"]), temporary, write_page_checksum=True)
    fsync(temporary)
    temporary.replace(file)
    fsync(file.parent)


def hashes_file(name: str) -> Path:
    """Where the hashes of a store's training documents are kept once it is gone."""
    return Workspace.current().learnt / f"{name}.parquet"
