"""Every format, compression and archive gives the same documents; what cannot be read is one sentence.

Also tests `gpt2core.text.tables`, `gpt2core.text.token_arrays`.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.text import containers
from gpt2core.text.documents import find_files, pieces_of, read_documents
from gpt2core.text.pieces import Tally

STORIES = ["One.", 'Two\nlines, "quoted".', "Três — 三 😀", "with,comma\tand tab"]
WRITERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
}


def texts(source: Path | str, **options: object) -> list[str]:
    chosen = DataSettings(source=str(source), **options)  # type: ignore[arg-type]
    return [document.text for document in read_documents(find_files(chosen), chosen)]


def sources(source: Path) -> list[str]:
    chosen = DataSettings(source=str(source))
    return [document.source for document in read_documents(find_files(chosen), chosen)]


def text_file() -> bytes:
    return "<|endoftext|>".join(STORIES).encode()


def csv_file(delimiter: str = ",") -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(STORIES))
    return out.getvalue().encode()


def jsonl_file() -> bytes:
    return "\n".join(json.dumps({"id": number, "text": text}) for number, text in enumerate(STORIES)).encode()


def parquet_file() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(STORIES)), "text": STORIES}), out)
    return out.getvalue()


def arrow_file() -> bytes:
    out = io.BytesIO()
    table = pa.table({"id": range(len(STORIES)), "text": STORIES})
    with pa.ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return out.getvalue()


FORMATS = {
    "a.txt": text_file(),
    "a.md": text_file(),
    "a.csv": csv_file(),
    "a.tsv": csv_file("\t"),
    "a.jsonl": jsonl_file(),
    "a.parquet": parquet_file(),
    "a.arrow": arrow_file(),
}


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name])
    assert texts(tmp_path / name) == STORIES


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_may_be_compressed(tmp_path: Path, name: str, suffix: str) -> None:
    (tmp_path / (name + suffix)).write_bytes(WRITERS[suffix](FORMATS[name]))
    assert texts(tmp_path / (name + suffix)) == STORIES


@pytest.mark.parametrize("suffix", WRITERS)
def test_streams_that_were_compressed_one_by_one_and_joined_are_read_to_the_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(WRITERS[suffix](b"one, ") + WRITERS[suffix](b"two"))
    assert texts(path) == ["one, two"]


@pytest.mark.parametrize(("name", "pack"), [("a.zip", zipped), ("a.tar", tarred)])
def test_an_archive_holds_any_of_them_and_its_hidden_members_are_left_out(
    tmp_path: Path, name: str, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    files = {**FORMATS, "in/b.csv.gz": gzip.compress(csv_file()), ".hidden.txt": b"no", "__MACOSX/a.txt": b"no"}
    (tmp_path / name).write_bytes(pack(files))
    assert texts(tmp_path / name) == STORIES * 8
    assert set(sources(tmp_path / name)) == {f"{name}/{member}" for member in FORMATS} | {f"{name}/in/b.csv"}


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2"])
def test_a_tar_archive_may_be_compressed(tmp_path: Path, suffix: str) -> None:
    compress = WRITERS[".gz" if suffix == ".tgz" else suffix.removeprefix(".tar")]
    (tmp_path / f"a{suffix}").write_bytes(compress(tarred(FORMATS)))
    assert texts(tmp_path / f"a{suffix}") == STORIES * 7


@pytest.mark.parametrize("member", ["../a.txt", "/etc/a.txt", "in/../../a.txt", "..\\a.txt"])
@pytest.mark.parametrize(("name", "pack"), [("a.zip", zipped), ("a.tar", tarred)])
def test_an_archive_that_points_outside_is_refused(
    tmp_path: Path, name: str, pack: Callable[[dict[str, bytes]], bytes], member: str
) -> None:
    (tmp_path / name).write_bytes(pack({member: b"text"}))
    with pytest.raises(UserError, match="points outside of it"):
        texts(tmp_path / name)


def test_a_bomb_is_stopped_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"0" * (4 << 20)))
    (tmp_path / "b.zip").write_bytes(zipped({f"{n}.txt": b"0" * (1 << 20) for n in range(4)}))
    monkeypatch.setattr(containers, "GIBIBYTE", 1 << 20)
    for name in ("a.txt.gz", "b.zip"):
        assert "".join(texts(tmp_path / name, expanded_limit=4)) == "0" * (4 << 20)
        with pytest.raises(UserError, match=r"expands to more than 3 GiB: raise data\.expanded_limit"):
            texts(tmp_path / name, expanded_limit=3)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.txt.bz2", "a.txt.xz", "a.zip", "a.tar", "a.tar.gz", "a.parquet"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_a_damaged_container_is_named(tmp_path: Path, name: str, damage: str) -> None:
    content = "".join(f"Line {n * n}\n" for n in range(5000)).encode()
    pack = {"a.zip": zipped, "a.tar": tarred, "a.tar.gz": lambda files: gzip.compress(tarred(files))}.get(name)
    whole = pack({"b.txt": content}) if pack else WRITERS.get(name[5:], lambda _: parquet_file())(content)
    middle = len(whole) // 2
    flipped = whole[:200] + bytes(64) + whole[264:] if name == "a.tar" else whole[:middle] + bytes(64) + whole[middle + 64 :]
    (tmp_path / name).write_bytes({"cut": whole[:middle], "flipped": flipped, "other": b"no container at all" * 40}[damage])
    with pytest.raises(UserError, match=name):
        texts(tmp_path / name)


def test_tricky_cells_come_as_they_are(shared: Path) -> None:
    path = shared / "data" / "csv" / "tricky.csv"
    with path.open(newline="", encoding="utf-8") as file:
        cells = [row["text"].replace("\r\n", "\n") for row in csv.DictReader(file)]
    expected = [part for cell in cells for part in cell.split("<|endoftext|>") if part.strip()]
    assert texts(path) == expected
    assert any("\n" in text for text in expected)
    with path.open(newline="", encoding="utf-8") as file:
        kept = [part for row in csv.DictReader(file) for part in row["text"].split("<|endoftext|>") if part.strip()]
    assert texts(path, newlines="keep") == kept != expected


def test_every_tweet_is_a_document(shared: Path) -> None:
    path = shared / "data" / "csv" / "tweets.csv"
    with path.open(newline="", encoding="utf-8") as file:
        assert texts(path) == [row["text"] for row in csv.DictReader(file) if row["text"].strip()]


def test_latin_1_gives_the_text_of_the_utf_8_file(shared: Path) -> None:
    folder = shared / "data" / "text"
    latin = texts(folder / "don-quijote.latin1.txt", encoding="latin-1")
    utf8 = texts(folder / "don-quijote.utf8.txt")
    assert len(latin) == len(utf8) == 1
    assert utf8[0].strip() in latin[0]  # which has Project Gutenberg's licence around it


def test_line_ends_are_kept_where_that_is_wished(shared: Path) -> None:
    path = shared / "data" / "text" / "hongloumeng.zh.txt"
    raw = path.read_bytes().decode("utf-8-sig")
    assert "".join(texts(path, newlines="keep")) == raw
    assert "".join(texts(path)) == raw.replace("\r\n", "\n") != raw


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.sampled_from(["utf-16", "utf-8", "utf-32"])
)
def test_any_text_comes_back_in_any_encoding(tmp_path_factory: pytest.TempPathFactory, text: str, encoding: str) -> None:
    path = tmp_path_factory.mktemp("encoded") / "a.txt"
    path.write_bytes(("x" + text).encode(encoding))
    if "<|" not in text:
        assert "".join(texts(path, encoding=encoding, newlines="keep")) == "x" + text


@pytest.mark.parametrize(("errors", "expected"), [("replace", "caf� olé �"), ("ignore", "caf olé ")])
def test_bytes_that_are_not_in_the_encoding_are_replaced_or_left_out_and_counted(
    tmp_path: Path, errors: str, expected: str
) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 ol\xc3\xa9 \xe2\x82")
    chosen = DataSettings(source=str(tmp_path / "a.txt"), errors=errors)
    tally = Tally()
    found = "".join(piece.text for file in find_files(chosen) for piece in pieces_of(file, chosen, tally))
    assert (found, tally.decode_errors) == (expected, 2)


@settings(max_examples=50)
@given(st.binary(max_size=60), st.integers(1, 7))
def test_replacing_equals_pythons_own(tmp_path_factory: pytest.TempPathFactory, raw: bytes, chunk: int) -> None:
    from gpt2core.text import pieces

    raw = raw.replace(b"\0", b"")
    chosen = DataSettings(errors="replace", newlines="keep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "CHUNK", chunk)
        found = "".join(pieces.decoded(io.BytesIO(raw), "a", chosen, Tally()))
    assert found == raw.decode("utf-8", "replace").removeprefix("\ufeff")


def test_start_of_text_begins_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("<|startoftext|>one<|endoftext|>\n<|startoftext|>two<|endoftext|>\n<|startoftext|>three")
    assert texts(tmp_path / "a.txt") == ["one", "two", "three"]


def test_html_is_read_as_the_text_that_it_shows(tmp_path: Path) -> None:
    page = "<html><head><style>p {}</style></head><body><p>Caf&eacute; &amp; <b>bar</b></p><script>no()</script>end"
    (tmp_path / "a.html").write_text(page)
    assert texts(tmp_path / "a.html")[0].split() == ["Café", "&", "bar", "end"]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
def test_the_column_is_named_or_found_or_all_are_listed(tmp_path: Path, name: str) -> None:
    table = pa.table({"title": ["t"], "poem": ["poem"], "year": [1900]})
    content = {
        "a.csv": lambda path: path.write_text("title,poem,year\nt,poem,1900\n"),
        "a.jsonl": lambda path: path.write_text('{"title": "t", "poem": "poem", "year": 1900}\n'),
        "a.parquet": lambda path: pq.write_table(table, path),
    }
    content[name](tmp_path / name)
    assert texts(tmp_path / name, text_column="title") == ["t"]
    assert texts(tmp_path / name) == ["poem"]  # the one with most characters
    with pytest.raises(UserError, match=r"has no column 'verse': set data\.text_column to one of title\b.*, poem\b.*, year"):
        texts(tmp_path / name, text_column="verse")


def test_a_cell_and_a_line_of_any_length_is_read(tmp_path: Path) -> None:
    long = "word " * 1_000_000
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": long}))
    (tmp_path / "a.csv").write_text(f'text\n"{long}"\nend\n')
    assert texts(tmp_path / "a.jsonl") == [long]
    assert texts(tmp_path / "a.csv") == [long, "end"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": \n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", '{"text": "one"}\n{"text": 7}\n', r"a\.jsonl, line 2: text is no text"),
        ("a.jsonl", "[1, 2]\n", r"a\.jsonl, line 1: the line is no text"),
        ("a.csv", "id,text\n1,one\n2\n", r"a\.csv cannot be read as the table .*Expected 2 columns, got 1"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        texts(tmp_path / name)


def test_ids_of_an_npz_are_kept(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", np.array([1, 2, 50256, 3]), np.array([4, 5]))
    chosen = DataSettings(source=str(tmp_path / "a.npz"))
    documents: list[list[int]] = [[]]
    for piece in pieces_of(find_files(chosen)[0], chosen):
        assert piece.ids is not None
        documents[-1] += piece.ids.tolist()
        documents += [[]] if piece.last else []
    assert documents == [[1, 2], [3], [4, 5], []]
    with pytest.raises(UserError, match=r"holds token ids and no text: set tokenizer\.source"):
        texts(tmp_path / "a.npz")


def test_a_folder_of_hugging_faces_library_is_read_by_its_arrow_files(tmp_path: Path) -> None:
    for name, content in {"data-00000-of-00001.arrow": arrow_file(), "state.json": b"{}", "dataset_info.json": b"{}"}.items():
        (tmp_path / name).write_bytes(content)
    assert texts(tmp_path) == STORIES


def test_an_unknown_encoding_is_refused() -> None:
    with pytest.raises(ValueError, match="'utf-9', which is no text encoding"):
        DataSettings(encoding="utf-9")


FUZZED = [
    "a.txt",
    "a.csv",
    "a.jsonl",
    "a.parquet",
    "a.zip",
    "a.tar",
    "a.txt.gz",
    "a.txt.zst",
    "a.npz",
    "a.html",
    "a.arrow",
    "a.txt.xz",
]


def read_or_refuse(folder: Path, name: str, content: bytes, place: int, change: bytes) -> None:
    damaged = content[: place % (len(content) + 1)] + change + content[place % (len(content) + 1) + len(change) :]
    (folder / name).write_bytes(damaged)
    try:
        chosen = DataSettings(source=str(folder / name), errors="replace")
        for file in find_files(chosen):
            for _ in pieces_of(file, chosen):
                pass
    except UserError:
        pass


def sound(name: str) -> bytes:
    if name == "a.npz":
        out = io.BytesIO()
        np.savez(out, np.arange(50))
        return out.getvalue()
    if name in ("a.zip", "a.tar"):
        return (zipped if name == "a.zip" else tarred)(FORMATS)
    return FORMATS.get(name) or WRITERS.get(name[5:], bytes)(text_file())


@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("name", FUZZED)
@given(place=st.integers(0, 1 << 14), change=st.binary(min_size=1, max_size=30))
def test_fuzzed_input_is_read_or_refused_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: int, change: bytes
) -> None:
    read_or_refuse(tmp_path_factory.mktemp("fuzz"), name, sound(name), place, change)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@pytest.mark.parametrize("name", FUZZED)
@given(place=st.integers(0, 1 << 14), change=st.binary(min_size=1, max_size=200))
def test_long_fuzzing_finds_no_traceback(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: int, change: bytes
) -> None:
    read_or_refuse(tmp_path_factory.mktemp("fuzz"), name, sound(name), place, change)
