"""A small text, its vocabulary and its token store, made once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from configs.schema import DataSettings
from gpt2core.kernels import causal_attention, inference, matmul, training_kernels
from gpt2core.kernels.c_library import CLibrary, find_compiler
from gpt2core.machine.kernel_level import level
from gpt2core.model.gpt2 import GPT2
from gpt2core.store.token_store import TokenStore, open_store
from gpt2core.text.documents import find_files, read_documents
from gpt2core.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from gpt2core.weights.loading import load_model

PYTHON_TOPICS = DataSettings()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads, and on shared cores those wait for one another: four times as slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A vocabulary of 300 entries trained on the built-in corpus."""
    texts = [document.text for document in read_documents(find_files(PYTHON_TOPICS), PYTHON_TOPICS)]
    return train_tokenizer(texts[:20], 300)


@pytest.fixture(scope="session")
def store(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """The built-in corpus in that vocabulary."""
    from gpt2core.store.encoding import encode_store

    folder: Path = tmp_path_factory.mktemp("stores")
    return open_store(encode_store(find_files(PYTHON_TOPICS), PYTHON_TOPICS, tokenizer, folder))


@pytest.fixture(scope="module")
def tiny(golden: Path) -> GPT2:
    """OpenAI's layout of a model with context 32 and 257 tokens."""
    return load_model(golden / "openai-tiny" / "models" / "tiny")


@pytest.fixture(scope="session")
def bytes_tokenizer(golden: Path) -> Tokenizer:
    """Its vocabulary: a token for each byte, and the end of text."""
    return load_tokenizer(golden / "openai-tiny" / "models" / "tiny")


@pytest.fixture
def gpu() -> None:
    """An NVIDIA GPU that PyTorch can use."""
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that PyTorch can use")


@pytest.fixture
def compiled() -> None:
    """Kernels in C: without them PyTorch computes alone."""
    if level() == "none":
        pytest.skip("GPT2FLOW_KERNELS=none: no kernels in C")
    if find_compiler() is None:
        pytest.skip("no C compiler: no kernels in C")


@pytest.fixture
def cpu_with_pairs(compiled: None) -> None:
    """Kernels that multiply pairs of bfloat16: at lower levels PyTorch's products are used."""
    if level() != "bf16" or not torch.cpu.get_capabilities().get("avx512_bf16"):
        pytest.skip(f"kernels of level '{level()}' have no AVX512-BF16")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine on which neither a C compiler nor compiled code is found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    modules = (causal_attention, inference, matmul, training_kernels)
    libraries = [part for module in modules for part in vars(module).values() if isinstance(part, CLibrary)]
    for library in libraries:
        library.forget()
    yield
    for library in libraries:
        library.forget()


@pytest.fixture
def without_rights() -> Iterator[None]:
    """Root may read everything, so it becomes nobody for the length of a test."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)
