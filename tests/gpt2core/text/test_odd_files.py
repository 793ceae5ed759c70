"""Small files as people really have them: each is read as its owner meant it, or refused in a sentence with the remedy.

Also tests `gpt2core.text.csv_dialect`, `gpt2core.text.json_records`, `gpt2core.text.text_column`.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.text import tables
from gpt2core.text.documents import find_files, pieces_of
from gpt2core.text.pieces import Tally

A, B = "First, a text; with signs.", "Second text, longer: é 三."


class Odd(NamedTuple):
    """A file and what is to come of it: its texts, or a part of the sentence that refuses it."""

    name: str
    content: bytes | str
    expected: list[str] | str
    said: str = ""
    """What the notes and warnings must say (a pattern)."""
    options: dict[str, Any] = {}


def lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def parquet(**columns: pa.Array) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def zipped(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def npz(dtype: str) -> bytes:
    out = io.BytesIO()
    np.savez(out, np.array([1, 258, 50256, 3], dtype=dtype))
    return out.getvalue()


TEXTS = pa.array([A, None, B])
CHAT = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
ODD = {
    "semicolons": Odd("a.csv", f"title;text\nt;{A.replace(';', ',')}\nu;{B}\n", [A.replace(";", ","), B], "semicolons between"),
    "semicolons, quoted": Odd("a.csv", f'id;text\n1;"{A}"\n2;"a ""b""\nc"\n', [A, 'a "b"\nc'], "semicolons"),
    "semicolons and a mark": Odd("a.csv", f"\ufefftext;n\n{B};1\n{B}2;2\n", [B, B + "2"], "column 'text', semicolons"),
    "tabs in a .csv": Odd("a.csv", f"id\ttext\n1\t{A}\n2\t{B}\n", [A, B], "tabs between"),
    "commas in a .tsv": Odd("a.tsv", 'id,text\n1,one\n2,"two, three"\n', ["one", "two, three"], "commas between"),
    "bars": Odd("a.csv", f"id|text\n1|{A}\n2|{B}\n", [A, B], "bars between"),
    "line ends of old Macs": Odd("a.csv", "text\rone\rtwo\r", ["one", "two"]),
    "Mac line ends and tabs": Odd("a.csv", f"id\ttext\r1\t{A}\r2\t{B}\r", [A, B], "tabs"),
    "line ends of Windows": Odd("a.csv", f'id,text\r\n1,"{A}"\r\n2,"a\r\nb"\r\n', [A, "a\nb"]),
    "one column of commas": Odd("a.csv", "text\none\ntwo, too\nthree, four, five\n", ["one", "two, too", "three, four, five"]),
    "backslash quotes": Odd("a.csv", 'id,text\n1,"a \\"b\\", c"\n2,"d"\n', ['a "b", c', "d"], "backslashes before quotes"),
    "a path that ends with a backslash": Odd("a.csv", 'id,text\n1,"C:\\"\n2,"d"\n', ["C:\\", "d"]),
    "a delimiter of one's own": Odd("a.csv", "id^text\n1^a,b\n", ["a,b"], r"'\^' between", {"delimiter": "^"}),
    "a given tab": Odd("a.csv", "id\ttext\n1\ta\n", ["a"], "tabs", {"delimiter": "tab"}),
    "empty cells at the end": Odd("a.csv", "id,text\n1,a,,\n2,b\n", ["a", "b"]),
    "more cells than the head": Odd("a.csv", "id,text\n1,a\n2,b\n3,c\n4,d,e\n", r"row 5: Expected 2 columns, got 3.*in quotes"),
    "fewer cells than the head": Odd("a.csv", "id,text\n1,a\n2\n3,c\n4,d\n", "row 3: Expected 2 columns, got 1"),
    "an unclosed quote": Odd("a.csv", 'id,text\n1,a\n2,"b\n3,c\n4,d\n', r"row 3: a quote is opened and never closed.*close"),
    "a quote closed too late": Odd(
        "a.csv", 'id,text\n1,"a\n2,b\n3,c\n4,d\n5,"e\n6,f\n', ["a\n2,b\n3,c\n4,d\n5,e", "f"], "row 2 has lines .* not closed"
    ),
    "a cell of verses": Odd("a.csv", 'id,text\n1,"a\nb, c\nd\ne\nf"\n2,g\n', ["a\nb, c\nd\ne\nf", "g"]),
    "numbers that are longer": Odd("a.csv", "number,said\n123456789012345,a\n123456789012345,b\n", ["a", "b"], "'said'"),
    "two columns of one name": Odd(
        "a.csv", "id,text,text\n1,a,b\n", ["b"], "several columns are named text: the last one counts"
    ),
    "a short text column": Odd(
        "a.csv", f"text,speech\nx,{'s' * 90}\n", ["x"], r"only 1% of the text.*data\.text_column.*speech"
    ),
    "UTF-16 with a mark": Odd("a.txt", A.encode("utf-16"), "is UTF-16 text and not UTF-8: set data.encoding to utf-16"),
    "UTF-16, named": Odd("a.csv", f"id;text\n1;{B}\n".encode("utf-16"), [B], "semicolons", {"encoding": "utf-16"}),
    "UTF-16 without a mark": Odd("a.txt", A.encode("utf-16-le"), r"looks like UTF-16 .*little-endian.*utf-16-le"),
    "big-endian UTF-16 without a mark": Odd("a.csv", A.encode("utf-16-be"), r"looks like UTF-16 .*big-endian.*utf-16-be"),
    "a mark twice": Odd("a.txt", f"\ufeff\ufeff{A}", [A]),
    "Latin-1 among UTF-8": Odd("a.txt", b"caf\xc3\xa9 caf\xe9 x", r"byte 9 is 0xe9.*data\.encoding"),
    "Latin-1 among UTF-8 in a table": Odd("a.csv", b"text\ncaf\xe9\n", r"byte 8 is 0xe9.*data\.encoding"),
    "NULs": Odd("a.txt", b"ab\0\0cd\0e", r"is a binary file \(NUL at byte 2\)"),
    "JSONL, null first": Odd(
        "a.jsonl", lines({"text": None, "origin": "forum"}, {"text": A}), ["", A], "1 of them without text"
    ),
    "JSONL, empty first": Odd("a.jsonl", lines({}, {"text": A}), ["", A], "column 'text'"),
    "JSONL, missing first": Odd("a.jsonl", lines({"id": 1}, {"text": A, "id": 2}), ["", A], "column 'text'"),
    "JSONL of lists": Odd("a.jsonl", lines({"text": ["a", "b"], "origin": "x"}), ["a\nb"], "column 'text'"),
    "JSONL of chats": Odd("a.jsonl", lines({"messages": CHAT}), ["user: Hi?\nassistant: Hello."], "'messages', chats read"),
    "JSONL of ShareGPT's chats": Odd("a.jsonl", lines({"conversations": [{"from": "human", "value": "Hi"}]}), ["human: Hi"]),
    "JSONL, a number later": Odd("a.jsonl", lines({"text": "a"}, {"text": 12}), r"line 2: text is no text but the number 12"),
    "JSONL of numbers": Odd("a.jsonl", lines({"id": 1, "year": 2}), r"no column of text in its first rows \(it has id, year\)"),
    "JSONL, most without text": Odd("a.jsonl", lines({"text": A}, {}, {}), [A, "", ""], "2 of 3 rows have no text"),
    "JSONL of old Macs": Odd("a.jsonl", '{"text": "a"}\r{"text": "b"}\r', ["a", "b"]),
    "an array named .jsonl": Odd("a.jsonl", '[\n{"text": "a"}\n]', r"line 1 is not JSON.*name the file \.json"),
    "a JSON array": Odd("a.json", json.dumps([{"text": A}, {"text": B}]), [A, B], "column 'text'"),
    "a JSON array in many lines": Odd(
        "a.json", json.dumps([{"text": A, "n": [1]}, {"text": B}], indent=2), [A, B], "column 'text'"
    ),
    "a JSON array of texts": Odd("a.json", json.dumps([A, B]), [A, B], "a text in each record"),
    "an object that holds the array": Odd("a.json", json.dumps({"version": 1, "data": [{"text": A}]}), [A], "column 'text'"),
    "JSON lines named .json": Odd("a.json", lines({"text": A}, {"text": B}), [A, B], "column 'text'"),
    "JSON that holds no records": Odd(
        "a.json", '{"a": {"b": 1}}', ['{"a": {"b": 1}}'], "read as plain text, with its brackets"
    ),
    "JSON that breaks off": Odd("a.json", '[{"text": "a"}, {"text": "b"', r"record 2 is not JSON"),
    "JSON with NaN": Odd("a.json", '[{"text": "a", "n": NaN}]', ["a"]),
    "Parquet, large strings": Odd(
        "a.parquet", parquet(text=TEXTS.cast(pa.large_string())), [A, "", B], "1 of them without text"
    ),
    "Parquet, dictionary": Odd("a.parquet", parquet(text=TEXTS.dictionary_encode()), [A, "", B], "column 'text'"),
    "Parquet, lists": Odd("a.parquet", parquet(text=pa.array([["a", "b"], None])), ["a\nb", ""], "column 'text'"),
    "Parquet, chats": Odd("a.parquet", parquet(talk=pa.array([CHAT])), ["user: Hi?\nassistant: Hello."], "column 'talk'"),
    "Parquet, null column": Odd("a.parquet", parquet(text=pa.nulls(2), body=pa.array([A, B])), [A, B], "column 'body'"),
    "Parquet, numbers": Odd("a.parquet", parquet(n=pa.array([1])), r"no column of text.*n \(int64\)"),
    "a zip with pictures": Odd("a.zip", zipped(("a.txt", b"a"), ("b.png", b"\x89PNG\r\n")), r"a\.zip/b\.png is a picture"),
    "a zip with a name twice": Odd("a.zip", zipped(("a.txt", b"one"), ("a.txt", b"two")), ["one", "two"]),
    "a table in a zip": Odd("a.zip", zipped(("in/a.csv", b"id;text\n1;a, b\n")), ["a, b"], "in/a.csv: text from column"),
    "big-endian ids": Odd("a.npz", npz(">i4"), ["[1, 258]", "[3]"]),
    "little-endian ids": Odd("a.npz", npz("<u2"), ["[1, 258]", "[3]"]),
}


def read(path: Path, **options: Any) -> tuple[list[str], str]:
    """(texts, all that is said) of one file; ids are shown as a list."""
    chosen, tally = DataSettings(source=str(path), **options), Tally()
    found = [""]
    for file in find_files(chosen):
        for piece in pieces_of(file, chosen, tally):
            found[-1] += piece.text if piece.ids is None else str(piece.ids.tolist()).replace("[]", "")
            found += [""] if piece.last else []
    return found[:-1], "\n".join([*tally.notes, *tally.warnings])


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", ODD)
def test_an_odd_file_is_read_as_meant_or_refused_in_a_sentence(tmp_path: Path, case: str) -> None:
    name, content, expected, said, options = ODD[case]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            read(path, **options)
        return
    found, all_said = read(path, **options)
    assert found == expected
    assert re.search(said, all_said)


def test_a_quote_that_swallows_more_than_a_cell_may_hold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LONGEST_CELL", 1000)
    (tmp_path / "a.csv").write_text('id,text\n1,a\n2,"b\n' + "3,c\n" * 500)
    with pytest.raises(UserError, match=r"a\.csv, row 3 cannot be read .*opened there and never closed"):
        read(tmp_path / "a.csv")


SHARED = {
    "array.json": 60,
    "backslash.csv": 100,
    "chat.jsonl": 60,
    "empty_obj_first.jsonl": 60,
    "excel.csv": 60,
    "excel_commas.csv": 60,
    "list_text.jsonl": 60,
    "mac.csv": 60,
    "missing_first.jsonl": 60,
    "morecols.csv": "row 9: Expected 2 columns, got 3",
    "null_first.jsonl": 60,
    "number_later.jsonl": "line 61: text is no text but the number 12",
    "oneline.jsonl": 1,
    "openquote.csv": "row 7: a quote is opened and never closed",
    "semi_bom.csv": 60,
    "tabs.csv": 60,
    "utf16le_nobom.txt": "looks like UTF-16",
}


@pytest.mark.parametrize("name", SHARED)
def test_files_after_public_bug_reports(shared: Path, name: str) -> None:
    expected = SHARED[name]
    path = shared / "data" / "odd" / name
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            read(path)
        return
    found = [text for text in read(path)[0] if text]
    assert len(found) == expected
    assert not any(re.match(r"t\d+[;\t]|[\[{]|\d+,", text) for text in found)
