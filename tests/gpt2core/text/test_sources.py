"""Files are found on disks and behind URLs, and a file that nobody touched is not read again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.schema import DataSettings
from gpt2core.store.index import CorpusIndex
from gpt2core.text.documents import Document, find_files, read_documents


def documents(*sources: str) -> list[Document]:
    settings = DataSettings(source=list(sources))
    return list(read_documents(find_files(settings), settings))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3 on 127.0.0.1, with three files in a bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        system = s3fs.S3FileSystem()
        system.mkdir("corpus")
        for name in ("b.txt", "deep/a.csv", "deep/.hidden.txt"):
            system.pipe(f"corpus/texts/{name}", f"text\n{name}\n".encode())
        yield "s3://corpus/texts"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_a_prefix_of_s3_is_read_like_a_folder(s3: str) -> None:
    found = documents(s3)
    assert [(document.source, document.text) for document in found] == [
        ("b.txt", "text\nb.txt\n"),
        ("deep/a.csv", "deep/a.csv"),
    ]


def test_an_object_and_a_pattern_of_s3_are_read(s3: str) -> None:
    assert [document.source for document in documents(f"{s3}/b.txt")] == ["b.txt"]
    assert [document.source for document in documents(f"{s3}/**/*.csv", f"{s3}/*.txt")] == ["deep/a.csv", "b.txt"]


def test_a_bucket_that_is_not_there_is_named(s3: str) -> None:
    with pytest.raises(UserError, match="s3://nowhere/texts"):
        documents("s3://nowhere/texts")


def test_an_object_that_is_written_over_is_refused(s3: str) -> None:
    import s3fs

    settings = DataSettings(source=f"{s3}/b.txt")
    files = find_files(settings)
    s3fs.S3FileSystem().pipe("corpus/texts/b.txt", b"something else")
    try:
        with pytest.raises(UserError, match=r"b\.txt changed while it was read"):
            list(read_documents(files, settings))
    finally:
        s3fs.S3FileSystem().pipe("corpus/texts/b.txt", b"text\nb.txt\n")


def test_a_file_is_read_over_http(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("over the wire")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    assert [document.text for document in documents(f"{address}/a.txt")] == ["over the wire"]
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        documents(f"{address}/nowhere.txt")
    server.shutdown()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(UserError, match=r"gopher://a/b cannot be opened \(Protocol not known: gopher"):
        documents("gopher://a/b")


def test_a_file_that_nobody_touched_is_not_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    settings = DataSettings(source=str(path))
    with CorpusIndex(tmp_path) as index:
        find_files(settings, index)
        assert index.known_hash(str(path), find_files(settings)[0].stamp) is None  # it was written just now
        time.sleep(2.1)
        file = find_files(settings, index)[0]
        assert index.known_hash(str(path), file.stamp) == (file.sha256, 3)
        before = path.stat()
        path.write_text("two")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert find_files(settings, index)[0].sha256 != file.sha256  # size and time of writing are the same


def test_validation_files_come_first_and_are_marked(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    settings = DataSettings(source=str(tmp_path), validation_source=[str(tmp_path / "b.txt")])
    assert [(file.source, file.validation) for file in find_files(settings)] == [("b.txt", True), ("a.txt", False)]
