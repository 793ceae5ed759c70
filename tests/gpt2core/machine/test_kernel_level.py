"""The level of kernels is the processor's or a lower one that the environment names, and nothing above it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from gpt2core.kernels import causal_attention, inference, matmul, training_kernels
from gpt2core.kernels.report import describe_kernels
from gpt2core.machine import kernel_level
from gpt2core.machine.kernel_level import LEVELS, available, level, processor_level

pytestmark = pytest.mark.kernels

LIBRARIES = (inference.library, matmul.library, training_kernels.library, causal_attention.library)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("GPT2FLOW_KERNELS", raising=False)
    return monkeypatch


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    processor_level.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    processor_level.cache_clear()


def test_the_processors_level_is_what_linux_says_of_it() -> None:
    described = Path("/proc/cpuinfo")
    if not described.exists():
        pytest.skip("no /proc/cpuinfo to compare with")
    flags = set(described.read_text().split())
    wanted = {"bf16": {"avx512_bf16"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}, "avx2": {"avx2", "fma"}}
    assert processor_level() == next((name for name, needs in wanted.items() if needs <= flags), "portable")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "fma3": True}, "avx2"),
        ({"avx2": True}, "portable"),
        ({"avx2": True, "fma3": True, "avx512_f": True}, "avx2"),
        ({"avx2": True, "fma3": True, **dict.fromkeys(kernel_level.AVX512, True)}, "avx512"),
        ({**dict.fromkeys(kernel_level.AVX512, True), "amx_bf16": True}, "bf16"),
        ({"architecture": "arm64", "bf16": True}, "portable"),
    ],
)
def test_a_processor_has_the_best_level_whose_instructions_it_has(
    capabilities: dict[str, object], expected: str, processor: pytest.MonkeyPatch
) -> None:
    processor.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert processor_level() == expected
    assert available()[0] == expected and available()[-1] == "none"


def test_a_lower_level_can_be_asked_for_and_decides_what_is_compiled(asked: pytest.MonkeyPatch) -> None:
    assert level() == processor_level()
    asked.setenv("GPT2FLOW_KERNELS", "none")
    assert level() == "none" and not any(library() for library in LIBRARIES)
    assert [value for _, value, remedy in describe_kernels() if not remedy and "PyTorch computes alone" in value]


def test_an_unknown_level_is_refused_with_those_there_are(asked: pytest.MonkeyPatch) -> None:
    asked.setenv("GPT2FLOW_KERNELS", "sse9")
    with pytest.raises(UserError, match="is 'sse9': set it to one of bf16, avx512, avx2, portable, none, or unset it"):
        level()


def test_a_level_above_the_processor_is_refused(asked: pytest.MonkeyPatch, processor: pytest.MonkeyPatch) -> None:
    processor.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "fma3": True})
    for above in LEVELS[LEVELS.index("avx2") + 1 :]:
        asked.setenv("GPT2FLOW_KERNELS", above)
        with pytest.raises(UserError, match=f"is '{above}', and this processor has no more than 'avx2'"):
            level()


@pytest.mark.usefixtures("no_compiler")
def test_a_missing_compiler_is_named_with_what_is_lost(asked: pytest.MonkeyPatch) -> None:
    remedies = [remedy for _, _, remedy in describe_kernels()]
    assert len(remedies) == 2
    assert all("install gcc or clang" in remedy and "slower" in remedy for remedy in remedies)
