"""From the --grid options of a sweep to the configs of its runs, with errors that name the option."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from configs.errors import UserError
from configs.influence import Influence, settings_by_name
from configs.loading import describe_errors, holds, load_config, merge
from configs.schema import RunConfig, RunSettings


class Member(BaseModel):
    """One run of a sweep."""

    model_config = ConfigDict(frozen=True)

    values: dict[str, Any]
    """What the grid says of it, by dotted name, as it was written."""
    config: RunConfig

    @property
    def label(self) -> str:
        """The values in one line: train.learning_rate=1e-4, train.seed=2."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())

    def unregistered(self) -> RunConfig:
        """The config of the same run without a version in the registry: a sweep registers the best one alone."""
        registry = self.config.registry.model_copy(update={"enabled": False, "promote": False})
        return self.config.model_copy(update={"registry": registry})


class Sweep(BaseModel):
    """Runs that differ in the settings of a grid and in nothing else."""

    model_config = ConfigDict(frozen=True)

    members: list[Member]
    """One for each combination of values, those of the last key first."""

    @property
    def name(self) -> str:
        """The name that all its runs have."""
        return self.members[0].config.name

    @property
    def id(self) -> str:
        """Name and hash of all its configs: the same command is the same sweep."""
        configs = "".join(member.config.model_dump_json() for member in self.members)
        return f"{self.name}-sweep-{hashlib.sha256(configs.encode()).hexdigest()[:8]}"


def load_sweep(path: Path, grid: Sequence[str], overrides: Mapping[str, Any]) -> Sweep:
    """The sweep of a config, of KEY=VALUE,VALUE for each key of the grid, and of options that hold for all runs.

    Raises UserError for whatever is wrong with any of the runs.
    """
    axes: dict[str, list[Any]] = {}
    for option in grid:
        key, values = _axis(option)
        if key in axes:
            raise UserError(f"--grid {key} is given twice: write all its values in one.")
        if holds(overrides, key.split(".")):
            raise UserError(f"{key} is given by --grid and by --{key}: leave one of them out.")
        axes[key] = values
    if not axes:
        raise UserError("A sweep needs a grid: give --grid KEY=VALUE,VALUE, such as --grid train.learning_rate=1e-4,3e-4.")
    combinations = (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
    return Sweep(members=[_member(path, overrides, values) for values in combinations])


def _axis(option: str) -> tuple[str, list[Any]]:
    """A key and its values, each of which is one that the key may have."""
    key, _, text = option.partition("=")
    try:
        values = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        raise UserError(
            f"--grid {option} cannot be read: separate values by single commas, and quote one that holds a comma or bracket."
        ) from None
    if not values:
        raise UserError(f"--grid {option} has no values: write KEY=VALUE,VALUE, such as train.learning_rate=1e-4,3e-4.")
    meanings = [_meaning(key, value) for value in values]
    for number, meaning in enumerate(meanings):
        if meaning in meanings[:number]:
            same = values[meanings.index(meaning)]
            raise UserError(f"--grid {key} has {same} and {values[number]}, which are the same: leave one of them out.")
    _require_influence(key)
    return key, values


def _meaning(key: str, value: Any) -> str:
    try:
        return RunSettings.model_validate(_nested(key, value)).model_dump_json()
    except ValidationError as error:
        raise UserError("\n".join(describe_errors(error, lambda keys: f"--grid {'.'.join(keys)}"))) from None


def _require_influence(key: str) -> None:
    """Runs that differ in nothing that decides about their weights would be one and the same."""
    if key == "name":
        raise UserError("--grid name: the runs of a sweep share their name, by which they are compared: leave it out.")
    without = settings_by_name(RunSettings(), Influence.NONE)
    if any(key == name or key.startswith(f"{name}.") for name in without):
        raise UserError(f"--grid {key} cannot change the weights, so all its runs would be one: give it once, as --{key}.")


def _member(path: Path, overrides: Mapping[str, Any], values: dict[str, Any]) -> Member:
    above = dict(overrides)
    for key, value in values.items():
        above = merge(above, _nested(key, value))
    try:
        return Member(values=values, config=load_config(path, above))
    except UserError as error:
        label = ", ".join(f"{key}={value}" for key, value in values.items())
        raise UserError(f"With {label}: {error}") from None


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)
