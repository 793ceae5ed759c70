"""What makes work fit: a batch where none is set, and what a limit takes."""

from dataclasses import replace

import pytest
import torch

from configs.schema import TrainSettings
from gpt2core.memory import fit as fitting
from gpt2core.memory.fit import fit, seconds_where_it_fits
from gpt2core.memory.plan import predict
from gpt2core.memory.trial_run import Measured
from gpt2core.memory.workload import Workload
from gpt2core.model.config import GPT2Config

PROCESS = 100_000_000


@pytest.fixture
def work() -> Workload:
    """Work whose batch is open: 24 windows a step."""
    settings = TrainSettings(batch_size=0, tokens_per_step=24 * 32, steps=2)
    return Workload(GPT2Config(n_vocab=300, n_ctx=32, n_embd=16, n_head=2, n_layer=2), settings, torch.device("cpu"))


def test_a_batch_that_does_not_fit_in_its_trial_is_cut_and_makes_up_the_same_update(
    work: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def needs_a_third(asked: Workload) -> Measured | None:
        tried.append(asked.settings.batch_size)
        return Measured(1, 1.0, 1.0) if asked.settings.batch_size <= 4 else None

    monkeypatch.setattr(fitting, "measure", needs_a_third)
    found = fit(work, 10**10, PROCESS)
    assert (found.work.settings.batch_size, found.work.settings.accumulate) == (3, 8)
    assert tried == [24, 12, 6, 3]
    assert found.refusal == ""
    assert found.thrift is None


def test_what_was_tried_out_fits_and_what_is_set_stays(work: Workload) -> None:
    found = fit(work, 10**10, PROCESS)
    assert (found.work.settings.batch_size, found.work.settings.accumulate) == (24, 1)
    set_by_hand = work.with_settings(batch_size=5, accumulate=3)
    assert fit(set_by_hand, 10**10, PROCESS).work == set_by_hand


def test_a_refusal_says_why_and_leaves_the_smallest_work(work: Workload) -> None:
    found = fit(work, PROCESS, PROCESS, tried_out=False)
    assert found.refusal.startswith("A single window of 32 tokens needs")
    assert (found.work.settings.batch_size, found.work.settings.accumulate) == (1, 24)


def test_a_limit_is_obeyed_by_recomputing_or_refused_with_the_least(work: Workload) -> None:
    large = replace(work, config=GPT2Config(n_vocab=300, n_ctx=128, n_embd=64, n_head=2, n_layer=6))
    large = large.with_settings(batch_size=32)
    need = predict(large, PROCESS)
    found = fit(large.with_settings(memory_limit=need.with_spare - 1), 10**10, PROCESS)
    assert found.thrift
    assert found.work.settings.recompute_blocks == found.thrift.recompute_blocks
    assert not found.work.settings.save_beside
    refused = fit(large.with_settings(memory_limit=PROCESS), 10**10, PROCESS)
    assert "needs at least" in refused.refusal
    assert refused.work.settings.batch_size == 32


def test_nothing_is_tried_out_of_work_that_is_far_too_large(work: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "seconds_per_update", lambda _: pytest.fail("it was tried out"))
    assert seconds_where_it_fits(work.with_settings(batch_size=4), PROCESS // 2, PROCESS) is None
