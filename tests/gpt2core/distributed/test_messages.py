"""Who is lost is named: one that was killed, hangs or failed. And an update's batches are shared out in order."""

import time
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from gpt2core.distributed import messages
from gpt2core.distributed.messages import Messages, PeerLostError
from gpt2core.distributed.process_group import ALONE, ProcessGroup


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> list[Messages]:
    """The ends of three processes that met at one store."""
    monkeypatch.setattr(messages, "PATIENCE", 0.2)
    store = dist.HashStore()
    return [Messages(store, rank, 3) for rank in range(3)]


def test_the_first_process_is_heard_in_order_and_hears_all_answers(three: list[Messages]) -> None:
    first, *others = three
    first.say("build", of="clay")
    first.say("run_until", step=3)
    assert [[other.listen() for _ in range(2)] for other in others] == [
        [{"verb": "build", "of": "clay"}, {"verb": "run_until", "step": 3}]
    ] * 2
    for other in others:
        other.answer(rank=other.rank)
    assert first.answers() == {1: {"rank": 1}, 2: {"rank": 2}}


def test_one_that_does_not_say_that_it_is_well_is_the_one_that_hangs(three: list[Messages]) -> None:
    three[1].give_up("")
    lost = three[0].lost(waited=30)
    assert str(lost).startswith("Process 2 of 3 has not answered for 30 s: the run ends, and the same command goes on")


def test_one_that_failed_is_quoted(three: list[Messages]) -> None:
    three[1].give_up("tokens.parquet is damaged")
    three[2].give_up("")
    assert str(three[0].lost()).startswith("Process 1 of 3 has failed: tokens.parquet is damaged")


def test_one_that_was_killed_is_named_at_once_and_those_who_only_noticed_are_not() -> None:
    store = dist.HashStore()
    first = Messages(store, 0, 3, lambda: {1: "was killed by SIGKILL", 2: "ended with exit code 3"})
    begun = time.monotonic()
    with pytest.raises(PeerLostError, match=r"^Process 1 of 3 was killed by SIGKILL: the run ends"):
        first.answers()
    assert time.monotonic() - begun < 2


def test_one_that_does_not_answer_in_time_is_gone(three: list[Messages]) -> None:
    three[1].answer()
    three[1].give_up("")
    with pytest.raises(PeerLostError, match=r"^Process 2 of 3 is gone, or its machine is: the run ends"):
        three[0].answers(limit=0.1)


@pytest.mark.parametrize("call", [lambda group, flat: group.begin_exchange(flat), lambda group, flat: group.begin_sum(flat)])
def test_a_back_end_that_finds_them_lost_before_anything_travels_is_as_one_that_finds_it_later(
    call: Callable[[ProcessGroup, Tensor], object], three: list[Messages], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise dist.DistBackendError("NCCL communicator was aborted")

    monkeypatch.setattr(dist, "init_process_group", lambda *_: None)
    for name in ("all_to_all_single", "all_reduce"):
        monkeypatch.setattr(dist, name, fail)
    three[1].give_up("")
    group = ProcessGroup(three[0])
    with pytest.raises(PeerLostError, match=r"^Process 2 of 3 is gone, or its machine is: the run ends"):
        call(group, torch.zeros(6))


@pytest.mark.parametrize(("size", "batches"), [(1, 3), (2, 4), (4, 4), (3, 7), (8, 2)])
def test_every_batch_is_made_once_and_neighbours_in_the_same_round(size: int, batches: int) -> None:
    group = ProcessGroup.__new__(ProcessGroup)
    group.size = size
    by_rank = []
    for rank in range(size):
        group.rank = rank
        by_rank.append(list(group.rounds(batches)))
    rounds = [[number for number, _ in made if number is not None] for made in zip(*by_rank, strict=True)]
    assert [number for made in rounds for number in made] == list(range(batches))
    assert all(made == len(rounds[place]) for place, (_, made) in enumerate(by_rank[0]))
    assert (ALONE.rank, ALONE.size) == (0, 1)
