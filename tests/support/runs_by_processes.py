"""A tiny run that one process or several make, to be compared bit for bit."""

from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file
from tiny import tiny_values

from configs.loading import load_config
from flows.finetune import finetune
from tasks.runs.run_folder import RunFolder

STEPS = 8
TRAIN = {"steps": STEPS, "accumulate": 4, "checkpoint_every": 2, "process_timeout": 120.0}
QUICK = {"every": STEPS, "max_new_tokens": 4, "lens": False}


def config_file(name: str, text: Path, folder: Path, **train: Any) -> Path:
    """A config of that name in `folder`."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tiny_values(name, text, train={**TRAIN, **train}, evaluate=QUICK)))
    return file


def run(file: Path, **train: Any) -> RunFolder:
    """The run that the config leads to in this process, and those that it starts."""
    return RunFolder(Path(finetune(load_config(file, {"train": train})).folder))


def assert_same(folder: RunFolder, undisturbed: RunFolder) -> None:
    """Both have made the same updates, to the same weights and moments."""
    assert folder.metrics.path.read_bytes() == undisturbed.metrics.path.read_bytes()
    own, other = (tensors_of(found.checkpoint_path(STEPS)) for found in (folder, undisturbed))
    assert own.keys() == other.keys()
    assert not [name for name in own if own[name] != other[name]]


def tensors_of(checkpoint: Path) -> dict[str, bytes]:
    """Weights and moments, whichever processes wrote them."""
    files = [checkpoint / "model.safetensors", *checkpoint.glob("optimizer*.safetensors")]
    found = [(name, tensor.numpy().tobytes()) for file in files for name, tensor in load_file(file).items()]
    assert len({name for name, _ in found} - {"step"}) == len([name for name, _ in found if name != "step"])
    return dict(found)
