"""PyTorch's files: tensors and plain values alone."""

import zipfile
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from gpt2core.weights.pickled_tensors import read_pickled, require_tensors


def test_tensors_and_plain_values_are_read(tmp_path: Path) -> None:
    torch.save({"t": torch.arange(3), "n": 7}, tmp_path / "file.pt")
    content = read_pickled(tmp_path / "file.pt")
    assert content["n"] == 7
    assert content["t"].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="the model is not a plain table of tensors"):
        require_tensors(content, "the model")


def test_a_file_that_would_unpack_is_refused_before_it_does(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data/0", bytes(10_000_000))
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    with pytest.raises(UserError, match="holds bomb/data/0 packed"):
        read_pickled(tmp_path / "bomb.pt")
