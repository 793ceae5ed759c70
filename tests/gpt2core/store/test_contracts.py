"""The contracts name file, row, column, value and rule of what breaks them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gpt2core.store.contracts import DOCUMENTS, ContractError, check_documents, check_store, check_tokens, check_totals
from gpt2core.store.token_store import TokenStore

FILE = "documents-00007.parquet"


def documents(**changed: Any) -> pa.Table:
    columns = {
        "doc_id": [10, 11, 12, 13],
        "source": ["a.txt"] * 4,
        "sha256": [hashlib.sha256(bytes([number])).hexdigest() for number in range(4)],
        "n_bytes": [5] * 4,
        "n_tokens": [2, 3, 4, 5],
        "token_offset": [100, 102, 50, 54],
        "split": ["train", "train", "validation", "validation"],
        **changed,
    }
    return pa.table({name: values for name, values in columns.items() if values is not None})


def check(table: pa.Table, seen: set[str] | None = None) -> dict[str, int]:
    starts = {"train": 100, "validation": 50}
    check_documents(table, FILE, starts, 10, set() if seen is None else seen)
    return starts


def rows_of(ids: list[list[int]], dtype: str = "<u2") -> pa.Table:
    width = np.dtype(dtype).itemsize * len(ids[0])
    return pa.table({"tokens": pa.array([np.array(row, dtype).tobytes() for row in ids], pa.binary(width))})


def test_a_sound_table_passes_and_moves_the_stream_on() -> None:
    assert check(documents().cast(DOCUMENTS)) == {"train": 105, "validation": 59}


@pytest.mark.parametrize(
    ("changed", "row", "column", "value", "rule"),
    [
        ({"doc_id": [10, 11, 13, 14]}, 2, "doc_id", "13", "documents must be numbered without a gap"),
        ({"source": ["a", "a", "", "a"]}, 2, "source", "", "a document must name its source"),
        (
            {"sha256": ["0" * 64, "1" * 64, "2" * 63, "3" * 64]},
            2,
            "sha256",
            "2" * 40 + "...",
            "a hash must be 64 hexadecimal digits",
        ),
        (
            {"sha256": ["0" * 64, "1" * 64, "0" * 64, "3" * 64]},
            2,
            "sha256",
            "0" * 40 + "...",
            "no text may be in the store twice",
        ),
        ({"n_bytes": [1, 2, 3, 0]}, 3, "n_bytes", "0", "it must be above 0"),
        ({"n_tokens": [2, 0, 4, 5]}, 1, "n_tokens", "0", "it must be above 0"),
        ({"n_tokens": [2, None, 4, 5]}, 1, "n_tokens", "empty", "it must have a value"),
        ({"split": ["train", "test", "train", "train"]}, 1, "split", "test", "it must be one of train, validation"),
        (
            {"token_offset": [100, 102, 50, 55]},
            3,
            "token_offset",
            "55",
            "each document must begin where the one before it in its split ends",
        ),
        ({"n_bytes": [1.0] * 4}, None, "n_bytes", "double", "its type must be int64"),
    ],
)
def test_a_broken_promise_is_named(changed: dict[str, Any], row: int | None, column: str, value: str, rule: str) -> None:
    with pytest.raises(ContractError) as caught:
        check(documents(**changed))
    failure = caught.value.failure
    assert (failure.file, failure.row, failure.column, failure.value, failure.rule) == (FILE, row, column, value, rule)
    for part in (FILE, column, value, rule):
        assert part in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_text_of_an_earlier_shard_is_found() -> None:
    table = documents()
    with pytest.raises(ContractError, match=r"row 3: sha256 is .* but no text may be in the store twice"):
        check(table, seen={table["sha256"][3].as_py()})


@pytest.mark.parametrize("changed", [{"split": None}, {"extra": [1, 2, 3, 4]}])
def test_a_missing_or_unknown_column_is_named(changed: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match=rf"{next(iter(changed))} is wrong there"):
        check(documents(**changed))


def test_the_first_id_that_is_no_token_is_named() -> None:
    table = rows_of([[1, 2], [3, 4], [5, 299], [300, 0]])
    check_tokens(table, "tokens", "<u2", 2, 301)
    with pytest.raises(ContractError, match="tokens, row 2: tokens is 299 but ids must be below 299"):
        check_tokens(table, "tokens", "<u2", 2, 299)
    with pytest.raises(ContractError, match="row 1: tokens is 299"):
        check_tokens(table.slice(1), "tokens", "<u2", 2, 299)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ContractError, match=r"tokens is fixed_size_binary\[4\] but rows must be 8 bytes"):
        check_tokens(rows_of([[1, 2]]), "tokens", "<u4", 2, 300)


def test_an_empty_row_is_refused() -> None:
    with pytest.raises(ContractError, match="row 1: tokens is empty but it must have a value"):
        check_tokens(pa.table({"tokens": pa.array([b"1234", None], pa.binary(4))}), "tokens", "<u2", 2, 65_536)


def test_documents_account_for_every_token() -> None:
    check_totals({"train": 5, "validation": 6}, {"train": 5, "validation": 6})
    with pytest.raises(ContractError, match="the sum of n_tokens for validation is 6 but tokens-validation holds 7"):
        check_totals({"train": 5, "validation": 6}, {"train": 5, "validation": 7})


def test_a_published_store_keeps_its_contract(store: TokenStore) -> None:
    check_store(store.path, store.manifest)
