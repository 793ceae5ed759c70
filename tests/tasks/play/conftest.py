"""A registered model whose champion and candidate write different texts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from registering import register

from gpt2core import load_model, load_tokenizer
from tasks.serving.served_model import ServedModel


@pytest.fixture(scope="module")
def rivals(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its name; version 1 is the champion and version 2 the candidate."""
    name, folder, tmp_path = "played-with", golden / "gguf-tiny", tmp_path_factory.mktemp("rivals")
    tokenizer = load_tokenizer(folder)
    register(name, load_model(folder), tokenizer, tmp_path, "champion")
    register(name, load_model(folder).initialise(1), tokenizer, tmp_path, "candidate")
    yield name
    MlflowClient().delete_registered_model(name)


@pytest.fixture(scope="module")
def champion(rivals: str) -> ServedModel:
    return ServedModel(f"models:/{rivals}@champion", "float32")
