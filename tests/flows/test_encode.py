"""The data verbs: encode, report, verify, repair.

Also tests `tasks.report_data`, `tasks.terminal.console`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs.schema import DataSettings, ModelSettings, RunConfig, TokenizerSettings
from flows.encode import encode, verify_data
from gpt2core.store import encoding, shard_plan
from gpt2core.store.contracts import ContractError
from gpt2core.store.manifest import Manifest
from gpt2core.store.report import report_on
from tasks.encode_to_parquet import encode_to_parquet
from tasks.load_dataset import load_dataset
from tasks.plan_run import plan_run
from tasks.prepare_tokenizer import prepare_tokenizer
from tasks.report_data import epoch_seconds, length_figure, print_epoch, print_report
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace


@pytest.mark.slow
def test_a_store_is_made_reported_damaged_named_and_mended(tmp_path: Path) -> None:
    environment = environment_of(tmp_path / "home")

    def gpt2flow(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(40):
        (corpus / f"{number:02}.txt").write_text(f"Story {number}. " + "And so on. " * (number * 9))
    config = ["demo", "--data.source", str(corpus)]

    missing = gpt2flow("data", *config)
    assert (missing.returncode, "run gpt2flow encode with the same config first" in missing.stderr) == (2, True)
    done = gpt2flow("encode", *config)
    assert done.returncode == 0, done.stderr
    for word in ("documents", "near-duplicates", "leaks", "█"):
        assert word in done.stdout
    shown = gpt2flow("data", *config, "--price", "2")
    assert "at 2 an hour" in shown.stdout

    shard = next((tmp_path / "home" / "stores").glob("*/tokens-train-00000.parquet"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 4]) + whole[101:])
    found = gpt2flow("data", *config, "--verify")
    assert (found.returncode, "tokens-train-00000.parquet its content differs" in found.stdout) == (1, True)
    assert gpt2flow("encode", *config).returncode == 0
    assert shard.read_bytes() == whole
    assert gpt2flow("data", *config, "--verify").returncode == 0
    pictures = list((tmp_path / "home" / "mlflow").rglob("document-lengths.png"))
    assert len(pictures) == 1 and pictures[0].read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_broken_contract_ends_with_code_2_and_a_sentence(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from gpt2core.store import manifest, encoding\n"
        "real = encoding.Manifest\n"
        "encoding.Manifest = lambda **values: real(**{**values, 'n_vocab': 100})\n"
        "from flows.cli.main import main\n"
        "sys.argv = ['gpt2flow', 'encode', 'demo']\n"
        "main()\n"
    )
    environment = environment_of(tmp_path / "home")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "tokens-train-00000.parquet, row 0: tokens is" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_contract_is_a_table_in_prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.artifacts import Artifact  # after `tasks`, which sets up Prefect's environment

    (tmp_path / "a.txt").write_text("<|endoftext|>".join(f"Story {n}. " + "And so on. " * n for n in range(30)))
    prepare_databases(Workspace.current().create())
    monkeypatch.setattr(encoding, "Manifest", lambda **values: Manifest(**{**values, "n_vocab": 100}))
    before = sorted(Workspace.current().stores.glob("[!.]*"))
    with pytest.raises(ContractError) as caught:
        encode(config_of(tmp_path / "a.txt"))
    assert sorted(Workspace.current().stores.glob("[!.]*")) == before
    artifact = Artifact.get("broken-contract")
    assert artifact is not None
    assert (artifact.type, artifact.description) == ("table", str(caught.value))
    (row,) = json.loads(str(artifact.data))
    expected = {"column": "tokens", "value": "256", "rule": "ids must be below 100"}
    assert row == {"file": "tokens-train-00000.parquet", "row": 0, **expected}


def test_shards_of_mapped_tasks_have_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName

    (tmp_path / "a.txt").write_text("<|endoftext|>".join(f"Tale {n}. " + "And so on. " * n for n in range(90)))
    monkeypatch.setattr(shard_plan, "SHARD_BYTES", 4_000)
    prepare_databases(Workspace.current().create())
    config = config_of(tmp_path / "a.txt")
    files = load_dataset.fn(config.data)
    tokenizer = prepare_tokenizer.fn(files, config.data, config.tokenizer, None)
    alone = encoding.encode_store(files, config.data, tokenizer, tmp_path / "alone")
    shared_out = config.data.model_copy(update={"workers": 3})
    mapped = flow(encode_to_parquet.fn, name="mapped", validate_parameters=False)(files, shared_out, tokenizer)
    assert len(list(alone.glob("documents-*"))) > 5
    assert {path.name: path.read_bytes() for path in mapped.path.iterdir()} == {
        path.name: path.read_bytes() for path in alone.iterdir()
    }
    named, deadline = TaskRunFilter(name=TaskRunFilterName(like_="encode_shards")), time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while len({run.name for run in client.read_task_runs(task_run_filter=named)}) != 3:  # Prefect writes them by and by
            assert time.monotonic() < deadline
            time.sleep(0.2)


def environment_of(home: Path) -> dict[str, str]:
    """That of a user: importing `tasks` points this process's Prefect and MLflow at another home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return {**kept, "GPT2FLOW_HOME": str(home)}


def config_of(source: Path) -> RunConfig:
    return RunConfig(
        data=DataSettings(source=str(source)),
        tokenizer=TokenizerSettings(vocab_size=257),
        model=ModelSettings(n_ctx=32, n_embd=8, n_head=1, n_layer=1),
    )


def test_a_report_is_shown_and_a_damaged_shard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(f"Story {n}. " + "And so on. " * n for n in range(90)))
    config = config_of(tmp_path / "a.txt")
    files = load_dataset.fn(config.data)
    store = encode_to_parquet.fn(files, config.data, prepare_tokenizer.fn(files, config.data, config.tokenizer, None))
    report = report_on(store, 32)
    print_report(report, store, 32)
    print_epoch(config, None, report.tokens["train"], price=3600.0)
    shown = capsys.readouterr().out
    for words in ("documents", "near-duplicates", "leaks", "█", "on this machine"):
        assert words in shown
    length_figure(report).savefig(tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")
    assert verify_data(config)
    shard = store.path / "tokens-train-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 4]) + whole[101:])
    assert not verify_data(config)
    assert "tokens-train-00000.parquet its content differs" in capsys.readouterr().out
    encode_to_parquet.fn(files, config.data, prepare_tokenizer.fn(files, config.data, config.tokenizer, None))
    assert shard.read_bytes() == whole


def test_an_epoch_takes_what_a_plan_of_one_epoch_takes(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("A line and another.\n" * 2000)
    config = config_of(tmp_path / "b.txt")
    files = load_dataset.fn(config.data)
    store = encode_to_parquet.fn(files, config.data, prepare_tokenizer.fn(files, config.data, config.tokenizer, None))
    tokens = store.manifest.counts["train"].tokens
    planned = plan_run(config.model_copy(update={"train": config.train.model_copy(update={"steps": 0, "epochs": 1.0})}))
    assert planned.length.hours
    steps = tokens / (planned.length.tokens / planned.length.steps)
    found = epoch_seconds(config, planned.work.config, tokens)
    assert found == pytest.approx(planned.seconds * steps)  # one trial serves both, so they cannot contradict each other
