"""Finding a base model: as a folder, and from a Hub that a small server on this machine plays."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from configs.errors import UserError
from gpt2core.model.config import GPT2Config
from gpt2core.model.gpt2 import GPT2
from gpt2core.weights.hub import find_base_model
from gpt2core.weights.loading import load_model, save_model

COMMIT = "1" * 40
RESOLVE = """
import sys
from configs.errors import UserError
from gpt2core.weights.hub import find_base_model
try:
    print(find_base_model(sys.argv[1]))
except UserError as error:
    sys.exit(f"UserError: {error}")
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What the served repository holds: a model and two files that are not needed."""
    folder = tmp_path / "repository"
    save_model(GPT2(GPT2Config(40, 8, 16, 2, 2)).initialise(0), folder)
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("A model card.")
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[str]:
    """Address of a server that answers as the Hub does for tests/tiny."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, files = urlsplit(self.path).path, sorted(repository.iterdir())
            if path.startswith("/api/models/tests/tiny/tree/"):
                listing = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": etag(f)} for f in files]
                self.answer(json.dumps(listing).encode())
            elif path.startswith("/api/models/tests/tiny"):
                siblings = [{"rfilename": f.name} for f in files]
                self.answer(json.dumps({"id": "tests/tiny", "sha": COMMIT, "siblings": siblings}).encode())
            elif path.startswith(f"/tests/tiny/resolve/{COMMIT}/"):
                file = repository / path.rpartition("/")[2]
                self.answer(file.read_bytes(), {"ETag": f'"{etag(file)}"', "X-Repo-Commit": COMMIT})
            else:
                self.answer(b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, 404)

        do_HEAD = do_GET  # noqa: N815

        def answer(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


def resolve(reference: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`find_base_model` in a process of its own, for the library reads its settings when it is imported."""
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", RESOLVE, reference], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_a_folder_is_returned_as_it_is(tmp_path: Path) -> None:
    assert find_base_model(str(tmp_path)) == tmp_path


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent is not a folder here: give an existing one or hub:OWNER/NAME"):
        find_base_model(str(tmp_path / "absent"))


@pytest.mark.parametrize("reference", ["hub:", "hub:gpt2", "hub:a/b/c", "hub:../x y"])
def test_a_reference_that_names_no_repository_is_refused(reference: str) -> None:
    with pytest.raises(UserError, match="names no repository: write hub:OWNER/NAME"):
        find_base_model(reference)


def test_a_repository_is_downloaded_once_without_pickles_and_found_again_offline(hub: str, tmp_path: Path) -> None:
    first = resolve("hub:tests/tiny", tmp_path / "cache", HF_ENDPOINT=hub)
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load_model(folder).config == GPT2Config(40, 8, 16, 2, 2)
    again = resolve("hub:tests/tiny", tmp_path / "cache", HF_ENDPOINT="http://127.0.0.1:9")
    assert again.stdout == first.stdout, again.stderr


def test_a_missing_network_is_one_sentence_with_the_local_alternative(tmp_path: Path) -> None:
    done = resolve("hub:tests/tiny", tmp_path / "cache", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert done.stderr.startswith("UserError: hub:tests/tiny cannot be downloaded (")
    assert "or give a local folder with OpenAI's or Hugging Face's files" in done.stderr


def test_an_unknown_repository_is_one_sentence(hub: str, tmp_path: Path) -> None:
    done = resolve("hub:tests/unknown", tmp_path / "cache", HF_ENDPOINT=hub)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert done.stderr.startswith("UserError: hub:tests/unknown cannot be downloaded (")


def test_without_the_library_the_extra_to_install_is_named(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['huggingface_hub'] = None\n" + RESOLVE
    done = subprocess.run(
        [sys.executable, "-c", blocked, "hub:tests/tiny"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "needs the library huggingface_hub: pip install 'gpt2flow[hub]', or give a local folder" in done.stderr
