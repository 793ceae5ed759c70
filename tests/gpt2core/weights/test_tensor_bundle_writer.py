"""What is written is what TensorFlow writes: values byte for byte, an index that our reader and TensorFlow read alike."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2core.weights.loading import load_model
from gpt2core.weights.openai_files import write_openai
from gpt2core.weights.tensor_bundle import DTYPES, read_tensor_bundle
from gpt2core.weights.tensor_bundle_writer import write_tensor_bundle


def test_the_golden_checkpoint_is_written_again_byte_for_byte(golden: Path, tmp_path: Path) -> None:
    """TensorFlow's own index of the same variables differs only in keys that share their beginnings."""
    theirs = golden / "openai-tiny" / "models" / "tiny"
    write_openai(load_model(theirs), tmp_path)
    data = "model.ckpt.data-00000-of-00001"
    assert (tmp_path / data).read_bytes() == (theirs / data).read_bytes()
    assert (tmp_path / "checkpoint").read_bytes() == (theirs / "checkpoint").read_bytes()
    ours, golden_arrays = read_tensor_bundle(tmp_path / "model.ckpt"), read_tensor_bundle(theirs / "model.ckpt")
    assert {name: array.shape for name, array in ours.items()} == {name: array.shape for name, array in golden_arrays.items()}


@pytest.mark.parametrize("kind", DTYPES.values())
def test_every_type_scalars_and_empty_arrays_come_back(tmp_path: Path, kind: str) -> None:
    arrays = {"many": np.arange(600).reshape(2, 300).astype(kind), "one": np.array(1, kind), "none": np.empty((0, 4), kind)}
    write_tensor_bundle(tmp_path / "model", arrays)
    found = read_tensor_bundle(tmp_path / "model")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


@settings(max_examples=60, deadline=None)
@given(shapes=st.dictionaries(st.text(min_size=1, max_size=12), st.lists(st.integers(0, 5), max_size=4), max_size=40))
def test_any_names_and_shapes_come_back(tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]]) -> None:
    numbers = np.random.default_rng(0)
    arrays = {name: numbers.standard_normal(shape).astype(np.float32).reshape(shape) for name, shape in shapes.items()}
    prefix = tmp_path_factory.getbasetemp() / "any"
    write_tensor_bundle(prefix, arrays)
    found = read_tensor_bundle(prefix)
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) and found[name].shape == arrays[name].shape for name in arrays)


def test_arrays_that_are_not_contiguous_are_written_as_they_read(tmp_path: Path) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_tensor_bundle(tmp_path / "model", {"m": matrix})
    np.testing.assert_array_equal(read_tensor_bundle(tmp_path / "model")["m"], matrix)
