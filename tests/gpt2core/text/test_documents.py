"""Sources become files, files become documents of clean text, and every mistake is one sentence."""

from __future__ import annotations

import gzip
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.text.documents import END_OF_TEXT, Document, find_files, read_documents
from gpt2core.text.pieces import CHUNK


def settings_for(*sources: Path | str) -> DataSettings:
    return DataSettings(source=[str(source) for source in sources])


def names(*sources: Path | str) -> list[str]:
    return [file.source for file in find_files(settings_for(*sources))]


def documents(*sources: Path | str) -> list[Document]:
    settings = settings_for(*sources)
    return list(read_documents(find_files(settings), settings))


def texts(path: Path, content: bytes) -> list[str]:
    path.write_bytes(content)
    return [document.text for document in documents(path)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    for name in ("b.txt", "a.md", "deep/er/c.txt", "deep/a", ".hidden.txt", ".git/config", "Z.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"text of {name}")
    return root


def test_a_folder_is_read_recursively_sorted_and_without_hidden_files(corpus: Path) -> None:
    assert names(corpus) == ["Z.txt", "a.md", "b.txt", "deep/a", "deep/er/c.txt"]


def test_a_glob_matches_as_in_a_shell(corpus: Path) -> None:
    assert names(corpus / "*.txt") == ["Z.txt", "b.txt"]
    assert names(corpus / "**" / "*.txt") == ["Z.txt", "b.txt", "deep/er/c.txt"]
    assert names(corpus / "d*" / "e?" / "*") == ["deep/er/c.txt"]


def test_a_file_with_a_bracket_in_its_name_is_a_file_and_no_glob(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x")
    assert names(tmp_path / "a[1].txt") == ["a[1].txt"]


def test_a_file_that_is_named_twice_is_read_once(corpus: Path) -> None:
    (corpus / "link.txt").symlink_to(corpus / "b.txt")
    assert names(corpus / "b.txt", corpus, corpus / "*.txt") == ["b.txt", "Z.txt", "a.md", "deep/a", "deep/er/c.txt"]


def test_the_same_corpus_elsewhere_has_the_same_names_and_hashes(corpus: Path, tmp_path: Path) -> None:
    before = [(file.source, file.sha256, file.n_bytes) for file in find_files(settings_for(corpus))]
    corpus.rename(tmp_path / "moved")
    assert [(file.source, file.sha256, file.n_bytes) for file in find_files(settings_for(tmp_path / "moved"))] == before


def test_the_built_in_corpus_is_pythons_own_topics_in_order() -> None:
    found = documents("builtin:python-topics")
    assert [document.text for document in found] == [topics[name] for name in sorted(topics)]
    assert {document.source for document in found} == {"builtin:python-topics"}


def test_end_of_text_splits_a_file_and_empty_documents_keep_their_number(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one<|endoftext|>\n<|endoftext|><|endoftext|> two\n")
    found = documents(tmp_path / "a.txt")
    assert [(document.index, document.text) for document in found] == [(0, "one"), (3, " two\n")]


def test_line_ends_are_normalised_and_a_lone_carriage_return_stays(tmp_path: Path) -> None:
    assert texts(tmp_path / "a.txt", b"one\r\ntwo\rthree\n\r\n") == ["one\ntwo\rthree\n\n"]


def test_only_a_byte_order_mark_at_the_start_of_a_file_is_removed(tmp_path: Path) -> None:
    assert texts(tmp_path / "a.txt", b"\xef\xbb\xbfone<|endoftext|>\xef\xbb\xbftwo") == ["one", "\ufefftwo"]


@pytest.mark.parametrize("before", range(CHUNK - 14, CHUNK + 2))
def test_end_of_text_is_found_where_two_reads_meet(tmp_path: Path, before: int) -> None:
    found = texts(tmp_path / "a.txt", b"x" * before + END_OF_TEXT.encode() + b"y")
    assert [len(text) for text in found] == [before, 1]


@given(st.lists(st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]))))
def test_documents_come_back_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, written: list[str]) -> None:
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    path.write_text("x" + END_OF_TEXT + END_OF_TEXT.join(written), encoding="utf-8", newline="")
    expected = [text for text in END_OF_TEXT.join(written).split(END_OF_TEXT) if text.strip()]
    assert [document.text for document in documents(path)][1:] == expected


def test_spanish_in_latin_1_is_refused_by_its_first_foreign_byte(shared: Path) -> None:
    path = shared / "data" / "text" / "don-quijote.latin1.txt"
    raw = path.read_bytes()
    place = next(i for i, byte in enumerate(raw) if byte > 127)
    with pytest.raises(UserError, match=rf"latin1\.txt is not UTF-8: byte {place} is 0x{raw[place]:02x}"):
        documents(path)


def test_the_offset_of_a_bad_byte_counts_from_the_start_of_the_file(tmp_path: Path) -> None:
    for good in (b"", b"\xef\xbb\xbf", b"one\r\n<|endoftext|>two", b"x" * CHUNK):
        path = tmp_path / "a.txt"
        path.write_bytes(good + b"\xffx")
        with pytest.raises(UserError, match=rf"a\.txt is not UTF-8: byte {len(good)} is 0xff"):
            documents(path)


def test_a_character_cut_off_at_the_end_is_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"byte 3 is 0xe2 \(unexpected end of data\)"):
        texts(tmp_path / "a.txt", b"abc\xe2\x82")


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.txt does not exist: check data\.source"):
        find_files(settings_for(tmp_path / "nowhere.txt"))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / ".hidden").write_text("x")
    with pytest.raises(UserError, match=r"folder .* holds no files \(hidden ones are left out\)"):
        find_files(settings_for(tmp_path))


def test_a_glob_without_a_match_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No file matches .*\*\.txt"):
        find_files(settings_for(tmp_path / "*.txt"))


def test_an_empty_source_is_not_the_current_folder() -> None:
    with pytest.raises(UserError, match=r"data\.source is empty"):
        find_files(settings_for(" "))


def test_an_unknown_built_in_corpus_names_the_one_there_is() -> None:
    with pytest.raises(UserError, match=r"builtin:poems is no built-in corpus: there is builtin:python-topics"):
        find_files(settings_for("builtin:poems"))


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n", b"<|endoftext|>\n<|endoftext|>", b"\xef\xbb\xbf"])
def test_files_without_text_are_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match=r"There is no text in .*a\.txt: give a file with text"):
        texts(tmp_path / "a.txt", content)


def test_an_empty_file_among_others_is_left_out(corpus: Path) -> None:
    (corpus / "a.md").write_text("")
    assert "a.md" not in {document.source for document in documents(corpus)}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"text", mtime=0), "a gzip archive"),
        (b"%PDF-1.7\n", "a PDF"),
        ("text".encode("utf-16"), "UTF-16 text"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b"text\0text", r"a binary file \(NUL at byte 4\)"),
        (b"x" * CHUNK + b"\0", rf"a binary file \(NUL at byte {CHUNK}\)"),
    ],
)
def test_a_binary_file_is_named_by_what_it_is(tmp_path: Path, content: bytes, kind: str) -> None:
    with pytest.raises(UserError, match=rf"a\.txt is {kind}"):
        texts(tmp_path / "a.txt", content)


def test_a_file_without_permission_is_named(tmp_path: Path, without_rights: None) -> None:
    with pytest.raises(UserError, match=r"shadow cannot be read \(Permission denied\)"):
        documents("/etc/shadow")


def test_a_folder_without_permission_is_named(corpus: Path, without_rights: None) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\): check its permissions"):
        documents(corpus)


def test_what_is_neither_file_nor_folder_is_refused() -> None:
    with pytest.raises(UserError, match=r"/dev/null is neither a file nor a folder"):
        find_files(settings_for("/dev/null"))


def test_a_file_that_changes_between_finding_and_reading_is_refused(corpus: Path) -> None:
    settings = settings_for(corpus)
    files = find_files(settings)
    (corpus / "b.txt").write_text("something else")
    with pytest.raises(UserError, match=r"b\.txt changed while it was read"):
        list(read_documents(files, settings))


def test_a_file_that_goes_away_between_finding_and_reading_is_named(corpus: Path) -> None:
    settings = settings_for(corpus)
    files = find_files(settings)
    (corpus / "b.txt").unlink()
    with pytest.raises(UserError, match=r"b\.txt cannot be read \(No such file or directory\)"):
        list(read_documents(files, settings))
