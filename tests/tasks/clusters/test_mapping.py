"""Work on a cluster: the same bytes as in one process, also where a worker is killed in the middle of its work."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster
from prefect import flow, task

from configs.cluster import ClusterSettings
from configs.errors import UserError
from configs.schema import DataSettings, TokenizerSettings
from gpt2core.store import shard_plan
from gpt2core.store.encoding import encode_store
from gpt2core.text.documents import SourceFile
from gpt2core.text.tokenizer import Tokenizer
from tasks.clusters.mapping import map_task
from tasks.encode_to_parquet import encode_to_parquet
from tasks.load_dataset import load_dataset
from tasks.prepare_tokenizer import prepare_tokenizer
from tasks.workspace.folders import Workspace

PATIENCE = 300.0  # seconds


Corpus = Callable[[int], tuple[list[SourceFile], DataSettings, Tokenizer]]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Text of so many bytes, about, in some ten shards that two pieces of work share; no other test encodes the same."""

    def make(size: int) -> tuple[list[SourceFile], DataSettings, Tokenizer]:
        Workspace.current().create()
        place = tmp_path.name
        tales = (f"Tale {number} of {place}. " + f"And so on, {number} times. " * (size // 2_000) for number in range(80))
        (tmp_path / "a.txt").write_text("<|endoftext|>".join(tales))
        monkeypatch.setattr(shard_plan, "SHARD_BYTES", size // 10)
        settings = DataSettings(source=str(tmp_path / "a.txt"), workers=2)
        files = load_dataset.fn(settings)
        return files, settings, prepare_tokenizer.fn(files, settings, TokenizerSettings(vocab_size=257), None)

    return make


@contextmanager
def killing_one(killed: list[str], heard: dict[str, str]) -> Iterator[None]:
    """Inside, the first process below this one that writes a shard is killed; what it had written is noted.

    So are the addresses at which processes below this one listen then, each with the command of one of them.
    """
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set() and not killed:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error, OSError):
                    written = [file.path for file in process.open_files() if "/tokens-" in file.path and ".tmp/" in file.path]
                    if written:
                        heard.update(listening())
                        process.kill()
                        killed.extend(written)
                        return
            time.sleep(0.02)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()


def listening() -> Iterator[tuple[str, str]]:
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            yield from (
                (each.laddr.ip, command) for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN
            )


def require(runner: str) -> None:
    if runner == "ray":
        pytest.importorskip("prefect_ray", reason="Ray is large, so it is no part of the set-up: pip install 'gpt2flow[ray]'")
        assert importlib.import_module("ray").init  # it is imported whole before, as a notebook may have done


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_made_by_a_cluster_has_the_bytes_of_one_process(corpus: Corpus, tmp_path: Path) -> None:
    files, settings, tokenizer = corpus(100_000)
    alone = encode_store(files, settings, tokenizer, tmp_path / "alone")
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as workers:
        cluster = ClusterSettings(runner="dask", address=workers.scheduler_address)
        store = flow(encode_to_parquet.fn, validate_parameters=False)(files, settings, tokenizer, cluster)
    assert len(list(alone.glob("documents-*"))) > 5
    assert (store.hash, bytes_in(store.path)) == (alone.name, bytes_in(alone))


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_store_made_by_a_cluster_has_the_bytes_of_one_process_though_a_worker_was_killed(
    corpus: Corpus, tmp_path: Path, runner: str
) -> None:
    require(runner)
    files, settings, tokenizer = corpus(8_000_000)
    alone = encode_store(files, settings, tokenizer, tmp_path / "alone")
    cluster = ClusterSettings.model_validate({"runner": runner, "workers": 2})
    killed: list[str] = []
    heard: dict[str, str] = {}
    with killing_one(killed, heard):
        store = flow(encode_to_parquet.fn, validate_parameters=False)(files, settings, tokenizer, cluster)
    assert killed
    assert (store.hash, bytes_in(store.path)) == (alone.name, bytes_in(alone))
    assert heard
    assert {address: command for address, command in heard.items() if address not in ("127.0.0.1", "::ffff:127.0.0.1")} == {}


@task
def doubled(number: int) -> int:
    return 2 * number


@task
def deadly(number: int, folder: Path) -> None:
    """The second piece kills whoever works at it."""
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"{number}").touch()


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_piece_that_kills_one_worker_after_the_other_is_one_sentence(tmp_path: Path, runner: str) -> None:
    require(runner)
    cluster = ClusterSettings.model_validate({"runner": runner, "workers": 1})

    @flow
    def mapped() -> None:
        map_task(deadly, cluster, computes=False, number=[1, 2, 3], folder=tmp_path)

    sentence = rf"^The {runner} cluster that was started here failed \(.*\): look after it, then run the same command again\.$"
    with pytest.raises(UserError, match=sentence):
        mapped()
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"1", "3"} if runner == "ray" else "1" in kept  # Dask also blames what waits at the same worker


@pytest.mark.parametrize(
    ("runner", "address"),
    [("dask", "tcp://127.0.0.1:9"), pytest.param("ray", "127.0.0.1:9", marks=pytest.mark.slow)],
)
def test_a_cluster_that_is_not_there_is_one_sentence(runner: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require(runner)
    monkeypatch.setattr("tasks.clusters.mapping.CONNECTING", 0.5)
    cluster = ClusterSettings.model_validate({"runner": runner, "address": address})

    @flow
    def mapped() -> None:
        map_task(doubled, cluster, computes=False, number=[1, 2])

    with pytest.raises(UserError, match=rf"^The {runner} cluster {address} failed \(.*\): look after it, then"):
        mapped()


def test_an_address_needs_a_runner() -> None:
    with pytest.raises(ValueError, match="has an address but runner local"):
        ClusterSettings(address="tcp://127.0.0.1:9")
