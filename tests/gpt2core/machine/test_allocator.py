"""Freed memory is kept for the next update, and returned when asked."""

import subprocess
import sys

HOLES = """
import psutil, torch
from gpt2core.machine.allocator import keep_freed_memory, return_freed_memory

def resident():
    return psutil.Process().memory_info().rss // 1_000_000

assert keep_freed_memory()
blocks = [torch.ones(250_000) for _ in range(200)]
del blocks[::2]
held = resident()
return_freed_memory()
print(held - resident(), sum(float(block.sum()) for block in blocks))
"""


def test_holes_between_blocks_in_use_are_returned() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    returned, total = done.stdout.split()
    assert int(returned) > 80
    assert float(total) == 25_000_000


RETURNED = """
import psutil, torch
from gpt2core.machine.allocator import keep_freed_memory, return_large_blocks

def resident():
    return psutil.Process().memory_info().rss // 1_000_000

assert keep_freed_memory()
assert return_large_blocks()
blocks = [torch.ones(500_000) for _ in range(100)]
held = resident()
del blocks[::2]
print(held - resident())
"""


def test_large_blocks_between_others_are_returned_when_they_are_freed() -> None:
    done = subprocess.run([sys.executable, "-c", RETURNED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80
