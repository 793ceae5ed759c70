"""Parts that Python threads share: every one is computed once, in any number of threads, and errors come out."""

import threading

import pytest
import torch

from gpt2core.machine.python_threads import compute_all, python_threads


@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_all_parts_are_computed_once_and_come_back_in_their_order(number: int) -> None:
    with python_threads(number):
        assert compute_all(lambda part: part * part, range(7)) == [part * part for part in range(7)]
        assert compute_all(lambda part: part, []) == []


def test_several_threads_compute_at_the_same_time_with_one_thread_of_pytorch_each() -> None:
    together, before = threading.Barrier(3, timeout=60), torch.get_num_threads()

    def meet(_: int) -> tuple[int, bool]:
        together.wait()
        return torch.get_num_threads(), torch.is_grad_enabled()

    with python_threads(3), torch.no_grad():
        assert compute_all(meet, range(3)) == [(1, False)] * 3
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wrong", [0, 1, 2, 3])
def test_what_goes_wrong_with_a_part_is_raised_when_no_thread_computes_any_more(wrong: int) -> None:
    done = []

    def compute(part: int) -> None:
        if part == wrong:
            raise MemoryError(f"of part {part}")
        done.append(part)

    with python_threads(2):
        with pytest.raises(MemoryError, match=f"of part {wrong}"):
            compute_all(compute, range(4))
        count = len(done)
        assert compute_all(str, range(3)) == ["0", "1", "2"]
    assert len(done) == count


def test_outside_of_it_the_caller_computes_alone() -> None:
    assert compute_all(lambda _: threading.current_thread(), range(3)) == [threading.current_thread()] * 3
