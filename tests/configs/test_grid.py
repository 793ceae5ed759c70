"""A grid becomes the configs of runs, or one sentence that names the option."""

from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.grid import load_sweep

DEMO = Path("demo")


def test_each_combination_is_a_run_and_the_same_command_the_same_sweep() -> None:
    grid = ["train.learning_rate=1e-4,0.02", "train.trainable=[h.0.*, ln_f.*],all"]
    sweep = load_sweep(DEMO, grid, {"train": {"steps": 7}})
    found = [(m.config.train.learning_rate, m.config.train.trainable, m.config.train.steps) for m in sweep.members]
    both = (["h.0.*", "ln_f.*"], ["all"])
    assert found == [(rate, trainable, 7) for rate in (1e-4, 0.02) for trainable in both]
    assert sweep.members[1].label == "train.learning_rate=1e-4, train.trainable=all"
    assert load_sweep(DEMO, grid, {"train": {"steps": 7}}).id == sweep.id
    assert load_sweep(DEMO, grid, {"train": {"steps": 8}}).id != sweep.id


def test_a_length_takes_the_place_of_the_config_s_own() -> None:
    sweep = load_sweep(DEMO, ["train.epochs=1,2"], {})
    assert [(member.config.train.steps, member.config.train.epochs) for member in sweep.members] == [(0, 1.0), (0, 2.0)]


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        ([], "A sweep needs a grid: give --grid KEY=VALUE,VALUE"),
        (["train.learning_rat=1"], "--grid train.learning_rat is not a setting: did you mean train.learning_rate?"),
        (["train.steps=3,x"], "--grid train.steps is 'x' but should be a whole number."),
        (["train=3"], "--grid train is 3 but is a section: give one of steps"),
        (["train.seed"], "--grid train.seed has no values: write KEY=VALUE,VALUE"),
        (["train.seed="], "--grid train.seed= has no values"),
        (["=1"], "--grid  is not a setting"),
        (["train.seed=1,,2"], "--grid train.seed=1,,2 cannot be read: separate values by single commas"),
        (["train.seed=1", "train.seed=2"], "--grid train.seed is given twice: write all its values in one."),
        (["train.seed=1", "train.clip=1"], "train.clip is given by --grid and by --train.clip: leave one of them out."),
        (["train.learning_rate=1e-4,0.0001"], "has 1e-4 and 0.0001, which are the same: leave one of them out."),
        (["evaluate.every=5,10"], "--grid evaluate.every cannot change the weights, so all its runs would be one"),
        (["train.device=cpu,cuda"], "--grid train.device cannot change the weights"),
        (["name=a,b"], "--grid name: the runs of a sweep share their name"),
        (["model.n_head=4,3"], "With model.n_head=3: model.n_embd 128 is not divisible by model.n_head 3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_grid_is_one_sentence(grid: list[str], sentence: str) -> None:
    options: dict[str, Any] = {"train": {"clip": 0.5}}
    with pytest.raises(UserError) as caught:
        load_sweep(DEMO, grid, options)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
