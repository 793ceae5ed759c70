"""Settings about how text is shown to the model, through the whole pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_run

from flows.finetune import finetune
from tasks.runs.run_folder import RunFolder
from tasks.workspace.databases import prepare_databases
from tasks.workspace.folders import Workspace


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(60):
        (folder / f"{number:02}.txt").write_text(f"Story {number}: " + "and so on, " * (number % 9 + 1))
    return folder


def losses(text: Path, name: str, data: dict[str, Any], train: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Loss by step, and validation losses, of a tiny run."""
    config = tiny_run(
        name,
        text,
        data=data,
        model={"n_ctx": 32, "dropout": 0},
        train={"steps": 3, "batch_size": 4, "warmup_steps": 1, **train},
        evaluate={"every": 3, "prompts": ["Story"], "max_new_tokens": 4},
    )
    prepare_databases(Workspace.current().create())
    folder = RunFolder(Path(finetune(config).folder))
    return [row["loss"] for row in folder.metrics.rows()], [row["val_loss"] for row in folder.evaluations.rows()]


def test_masked_documents_and_the_references_windows_train_otherwise(text: Path) -> None:
    plain = losses(text, "plain", {}, {})
    masked = losses(text, "masked", {"mask_documents": True}, {})
    compat = losses(text, "compat", {}, {"compat": "nshepperd"})
    assert len(plain[0]) == len(masked[0]) == len(compat[0]) == 3
    assert plain[0][0] != masked[0][0] and plain[1][0] != masked[1][0]  # the same weights on the same text
    assert plain[0][0] != compat[0][0] and plain[1][0] == compat[1][0]  # other windows, the same held-out text
