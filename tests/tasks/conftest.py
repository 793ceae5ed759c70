"""A run as its tasks write it."""

import json
import math
from pathlib import Path

import pytest

from configs.schema import RunConfig
from gpt2core.lens.reading import Guess, LensReading, save_reading
from gpt2core.machine.sealed_json import write_sealed
from tasks.runs.run_folder import RunFolder
from tasks.runs.run_record import RunRecord

SIZES = {"n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 1}
LOSSES = {0: 5.5, 10: 3.25, 20: 3.5}


@pytest.fixture
def prompt() -> str:
    """The prompt of all samples."""
    return "Once <b>upon"


@pytest.fixture
def folder(tmp_path: Path, prompt: str) -> RunFolder:
    """A run of 20 of 30 steps with three evaluations, written as the tasks write it."""
    folder = RunFolder(tmp_path / "tale-1234")
    folder.samples.mkdir(parents=True)
    config = RunConfig.model_validate({"name": "tale", "model": SIZES, "train": {"steps": 30}})
    known = {"id": folder.id, "store": "0" * 32, "started": "2030-01-02T03:04:05", "mlflow_run_id": "abc"}
    folder.write_record(RunRecord.model_validate({**known, "config": config.model_dump()}))
    steps = range(1, 21)
    folder.metrics.append({"step": s, "loss": 6.0 - s / 10, "learning_rate": 1e-3, "gradient_norm": 1.0} for s in steps)
    folder.timing.append([{"step": 20, "tokens_per_second": 4321.0, "time": 0}])
    for step, loss in LOSSES.items():
        row = {"step": step, "val_loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / 2, "val_tokens": 999}
        folder.evaluations.append([{**row, "invented_share": 0.25, "val_loss_by_length/1-64": loss + 1}])
        sample = {"step": step, "prompt": prompt, "completion": f"</script>{step} times", "tokens": 7, "ended": True}
        folder.sample_files(step)[0].write_text(json.dumps([sample]))
        folder.lens_folder(step).mkdir(parents=True)
        folder.report_files(step)[0].parent.mkdir(exist_ok=True)
        copied = {"sample": 0, "tokens": 31, "text": "copied <words>", "source": "book.txt"}
        details = {"by_source": [{"name": "book.txt", "val_loss": loss}] * 40, "copies": {"share": 0.1, "passages": [copied]}}
        write_sealed(folder.report_files(step)[0], details)
        save_reading(reading(prompt, (step + 1) / 100), folder.lens_folder(step) / "prompt-1.json")
    return folder


def reading(prompt: str, probability: float) -> LensReading:
    layers = [[Guess(1, "·a", probability)], [Guess(2, "中", 0.5)]]
    return LensReading(prompt, "a", ["Once"], ["·a"], [layers], [[7], [1]], [[1.0]], ["x"], [[3], [4444]], False)
