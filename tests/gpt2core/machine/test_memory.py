"""How much memory there is: the machine's, or what the groups of processes that this one is in leave of it."""

from pathlib import Path

import psutil
import pytest
import torch

from gpt2core.machine import memory
from gpt2core.machine.memory import available_bytes, free_bytes, group_limits


def group(folder: Path, limit: str, used: int, cached: int, version: int = 2) -> None:
    """The files of a control group as the kernel shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        ("memory.max", "memory.current", "") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    )
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{names[2]}inactive_file {cached}\n")


def test_limits_of_a_group_and_of_those_around_it_count_without_what_the_kernel_would_give_back(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/outer/inner\n")
    group(tmp_path / "outer" / "inner", "max", 10, 0)
    group(tmp_path / "outer", "3000", 700, 200)
    assert list(group_limits(tmp_path, tmp_path / "cgroup")) == [(3000, 500)]


def test_version_1_has_a_place_of_its_own_for_memory(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("5:cpu:/a\n4:memory:/a\n1:name=systemd:/a\n")
    group(tmp_path / "memory" / "a", "900", 100, 40, version=1)
    assert list(group_limits(tmp_path, tmp_path / "cgroup")) == [(900, 60)]


def test_a_container_finds_its_own_group_at_the_top(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/docker/0123\n")
    group(tmp_path, "5000", 100, 0)
    assert list(group_limits(tmp_path, tmp_path / "cgroup")) == [(5000, 100)]


def test_without_groups_the_machine_counts(tmp_path: Path) -> None:
    assert list(group_limits(tmp_path, tmp_path / "none")) == []


def test_the_smaller_of_machine_and_group_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "group_limits", lambda: iter([(10**9, 4 * 10**8), (10**15, 0)]))
    assert free_bytes() == 6 * 10**8
    held = psutil.Process().memory_info().rss
    assert available_bytes(torch.device("cpu")) == pytest.approx(0.9 * (6 * 10**8 + held), rel=0.05)
