"""What an update is foreseen to need, beside what formulas, autograd and real processes say."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.errors import UserError
from configs.evaluation import EvaluateSettings
from configs.schema import TrainSettings
from gpt2core.memory import dry_run, trial_run
from gpt2core.memory.dry_run import rehearse
from gpt2core.memory.plan import at_most, choose_batch, extra_of_blocks, in_parts, keep_within, largest_batch, predict, remedy
from gpt2core.memory.trial_run import measure
from gpt2core.memory.workload import Workload
from gpt2core.model.config import RELEASED_SIZES, GPT2Config
from gpt2core.model.gpt2 import GPT2

CPU = torch.device("cpu")
SMALL = GPT2Config(500, 64, 64, 2, 4)
PROCESS = 10**8


def workload(config: GPT2Config = SMALL, **settings: object) -> Workload:
    return Workload(config, TrainSettings.model_validate({"batch_size": 4, "dtype": "float32", **settings}), CPU)


def bytes_saved(model: GPT2, batch: int) -> int:
    """What autograd really keeps between forward and backward of the blocks, the weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = model.hidden(torch.zeros(batch, model.config.n_ctx, dtype=torch.int64))
    assert hidden.requires_grad
    return sum(kept.values())


def test_weights_gradients_and_optimizer_are_four_four_and_eight_bytes_a_parameter() -> None:
    found = rehearse(workload())
    count = GPT2(SMALL).parameter_count()
    assert (found.parameters, found.trained) == (count, count)
    assert found.weights == pytest.approx(4 * count, abs=64)
    assert (found.gradients, found.optimizer) == (4 * count, 8 * count)
    assert rehearse(workload(dtype="bfloat16")).weights == pytest.approx(6 * count, abs=64)
    assert rehearse(workload(optimizer="sgd")).optimizer == 4 * count


def test_a_state_that_is_shared_out_is_foreseen_and_saved_in_parts() -> None:
    of_several = {"processes": 4, "accumulate": 8}
    whole, shared = rehearse(workload(**of_several)), rehearse(workload(**of_several, shard="optimizer"))
    assert shared.optimizer == pytest.approx(whole.optimizer / 4, rel=0.25)  # the vocabulary's weights are not cut
    assert whole.peak - shared.peak == whole.optimizer - shared.optimizer
    assert whole.snapshot - shared.snapshot == whole.optimizer - shared.optimizer
    assert whole.standing - shared.standing == whole.optimizer - shared.optimizer


def test_a_model_that_is_shared_out_is_foreseen_in_parts_and_its_weights_are_saved_whole() -> None:
    of_several = {"processes": 4, "accumulate": 8, "dtype": "bfloat16"}
    whole, shared = rehearse(workload(**of_several)), rehearse(workload(**of_several, shard="model"))
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(shared, part) == pytest.approx(getattr(whole, part) / 4, rel=0.25)
    assert shared.whole == pytest.approx(whole.weights, abs=64)
    assert shared.snapshot == 4 * shared.trained + shared.optimizer
    assert shared.peak < whole.peak - (whole.optimizer - shared.optimizer)
    assert shared.standing == shared.whole + shared.gradients + shared.optimizer


def test_sums_that_several_processes_share_out_are_foreseen_beside_the_next_batch() -> None:
    one_round, two_rounds = (rehearse(workload(processes=4, accumulate=accumulate)) for accumulate in (4, 8))
    assert two_rounds.peak - one_round.peak == pytest.approx(two_rounds.gradients / 4, rel=0.05)


def test_what_is_frozen_has_neither_gradient_nor_moments() -> None:
    model = GPT2(SMALL)
    in_blocks = sum(parameter.numel() for parameter in model.h.parameters())
    found = rehearse(workload(trainable=["transformer"]))
    assert (found.trained, found.gradients, found.optimizer) == (in_blocks, 4 * in_blocks, 8 * in_blocks)
    assert rehearse(workload(trainable=["lora"])).trained < in_blocks / 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recomputed", [0, 3])
def test_activations_are_what_autograd_keeps(dtype: str, recomputed: int) -> None:
    model = GPT2(SMALL).initialise(0).to(getattr(torch, dtype)).train()
    model.recomputed = recomputed
    foreseen = rehearse(workload(dtype=dtype, recompute_blocks=recomputed)).activations
    assert foreseen == pytest.approx(bytes_saved(model, 4), rel=0.1)


def test_the_largest_model_is_planned_without_allocating_it() -> None:
    config = GPT2Config(**{**RELEASED_SIZES["1558M"].__dict__, "n_layer": 2, "n_embd": 16000})
    assert rehearse(workload(config, batch_size=1)).peak > 100 * 10**9


def test_the_largest_batch_fits_and_a_larger_one_does_not() -> None:
    budget = predict(workload(batch_size=37), PROCESS, measured=False).with_spare
    size = largest_batch(workload(), budget, PROCESS)
    assert 33 <= size <= 37
    assert predict(workload(batch_size=size), PROCESS, measured=False).with_spare <= budget
    assert largest_batch(workload(), PROCESS, PROCESS) == 0


def test_a_batch_is_chosen_that_makes_up_the_tokens_of_a_step() -> None:
    work = workload(tokens_per_step=64 * 24)
    roomy = choose_batch(work, 10**9, PROCESS).settings
    tight = choose_batch(work, predict(workload(batch_size=7), PROCESS, measured=False).with_spare, PROCESS).settings
    assert (roomy.batch_size, roomy.accumulate) == (24, 1)
    assert (tight.batch_size, tight.accumulate) == (6, 4)
    with pytest.raises(UserError, match=r"A single window of 64 tokens needs 0\.1\d GB and there are 0\.10 GB"):
        choose_batch(work, PROCESS, PROCESS)


def measured_anew(work: Workload) -> int:
    """The peak of a process that nothing was concluded from."""
    trial_run._measure.cache_clear()
    found = measure(work)
    assert found is not None
    return PROCESS + found.peak


def test_memory_is_foreseen_from_few_blocks_as_a_real_process_takes_it() -> None:
    """With a wide margin; benchmarks/memory.py shows eight configs."""
    work = workload(GPT2Config(1024, 128, 128, 4, 5), batch_size=16, steps=4, dtype="bfloat16")
    foreseen = PROCESS + rehearse(work).peak + extra_of_blocks(work)
    assert foreseen == pytest.approx(measured_anew(work), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [0, 5])
def test_memory_of_masked_documents_is_foreseen(recomputed: int) -> None:
    """Their masks are most of what this model takes; without them a third would be foreseen."""
    config = GPT2Config(300, 512, 64, 1, 6)
    plain = workload(config, batch_size=16, dtype="bfloat16", recompute_blocks=recomputed)
    masked = replace(plain, mask_documents=True)
    assert rehearse(masked).peak > rehearse(plain).peak + 16 * 512 * 512
    assert PROCESS + rehearse(masked).peak + extra_of_blocks(masked) == pytest.approx(measured_anew(masked), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (GPT2Config(4096, 256, 384, 6, 8), {"batch_size": 8, "dtype": "bfloat16"}),
        (GPT2Config(1024, 64, 64, 4, 6), {"batch_size": 64, "dtype": "float32"}),
    ],
    ids=["the benchmark's", "very small"],
)
def test_limits_are_obeyed_by_recomputing_no_more_than_that_takes(config: GPT2Config, settings: dict[str, object]) -> None:
    work = workload(config, **settings)
    most = config.n_layer - 1
    full, least = (
        predict(work.with_settings(recompute_blocks=blocks), PROCESS, saves_beside=False).with_spare for blocks in (0, most)
    )
    ways = [keep_within(limit, work, PROCESS).recompute_blocks for limit in (full, (full + least) // 2, least)]
    assert ways[0] == 0 < ways[1] <= ways[2] <= most
    with pytest.raises(UserError, match=rf"needs at least {least / 1e9:.2f} GB: raise the limit to that, or lower"):
        keep_within(least // 2, work, PROCESS)
    for limit, blocks in zip((full, (full + least) // 2, least), ways, strict=True):
        assert measured_anew(work.with_settings(recompute_blocks=blocks)) <= limit


@pytest.mark.parametrize(
    ("config", "masked", "settings"),
    [
        (SMALL, True, {"optimizer": "muon"}),
        (replace(SMALL, dropout=0.1), False, {"batch_size": 64, "accumulate": 4}),
        (GPT2Config(300, 512, 64, 4, 2, 0.1), True, {"dtype": "bfloat16"}),
        (GPT2Config(5000, 16, 32, 2, 1), False, {"trainable": ["lora"]}),
        (GPT2Config(3, 1, 8, 2, 1), False, {"batch_size": 1}),
    ],
    ids=str,
)
def test_the_rough_bound_is_above_what_a_rehearsal_finds(config: GPT2Config, masked: bool, settings: dict[str, object]) -> None:
    evaluation = EvaluateSettings(prompts=["a", "b" * 40], lens=True, lens_tokens=3, canaries=["my PIN is 281265"])
    work = replace(workload(config, **settings), mask_documents=masked, evaluation=evaluation)
    assert predict(work, 0, measured=False).with_spare < at_most(work)


def test_the_rough_bound_holds_for_a_released_model_and_is_no_more_than_three_times_too_high() -> None:
    work = workload(RELEASED_SIZES["124M"])
    need = predict(work, 0, measured=False).with_spare
    assert need < at_most(work) < 3 * need


def test_a_very_large_batch_is_concluded_from_smaller_ones_as_it_would_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    work = replace(workload(batch_size=97), evaluation=EvaluateSettings(prompts=[]))
    monkeypatch.setattr(dry_run, "MANY_PARTS", 2)
    concluded = predict(work, 0, measured=False)
    monkeypatch.setattr(dry_run, "MANY_PARTS", 10**6)
    assert predict(work, 0, measured=False).with_spare == pytest.approx(concluded.with_spare, rel=0.03)


def test_a_batch_that_does_not_fit_is_cut_into_the_fewest_parts_that_make_up_the_same_update() -> None:
    assert in_parts(100_000, 7_197) == (7143, 14)
    assert in_parts(64, 32) == (32, 2)
    work = workload(batch_size=64, accumulate=3)
    budget = predict(workload(batch_size=48, accumulate=3), PROCESS, measured=False).with_spare  # two thirds would do
    assert "Use train.batch_size 32 with train.accumulate 6 (or train.batch_size auto)" in remedy(work, budget, PROCESS)
    assert remedy(work, PROCESS, PROCESS).startswith("Not even a single window fits")
