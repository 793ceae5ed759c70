"""From a YAML file and overrides to a checked RunConfig, with errors that name the file, the key and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from configs.errors import UserError
from configs.schema import RunConfig, RunSettings

SHIPPED = Path(__file__).parent


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a run's YAML file, lay the overrides (nested like the file) over it and check the result.

    A bare name such as `demo` finds the file shipped with the package. Raises UserError.
    """
    path = find_config(path)
    return _checked(_read_yaml(path), overrides or {}, str(path))


def with_overrides(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """The config of a run that was begun with these settings in the place of its own; raises UserError."""
    return _checked(config.model_dump(exclude_unset=True), overrides, f"the config of {config.name}")


def _checked(below: Mapping[str, Any], above: Mapping[str, Any], origin: str) -> RunConfig:
    def place(keys: list[str]) -> str:
        return f"--{'.'.join(keys)}" if holds(above, keys) else f"{origin}: {'.'.join(keys)}"

    try:
        checked = RunSettings.model_validate(above).model_dump(exclude_unset=True)  # with what it takes the place of
        return RunConfig.model_validate(merge(below, checked))
    except ValidationError as error:
        raise UserError("\n".join(describe_errors(error, place))) from None


def find_config(path: Path) -> Path:
    """The file itself, or the shipped config of that name; raises UserError that lists the shipped ones."""
    shipped = SHIPPED / f"{path.stem}.yaml"
    if path.is_file():
        return path
    if shipped.is_file() and len(path.parts) <= 2 and not path.exists():
        return shipped
    names = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
    reason = "is a folder" if path.is_dir() else "does not exist"
    raise UserError(f"The config {path} {reason}: give a YAML file, or one of the ready-made {names}.")


def describe_errors(error: ValidationError, place: Callable[[list[str]], str]) -> Iterator[str]:
    """One sentence for each mistake; `place` names the option or the file's key from the path of keys to it."""
    for details in error.errors(include_url=False):
        keys = [part for part in details["loc"] if isinstance(part, str)]
        yield f"{place(keys)} {_explain(details, keys)}" if keys else _explain(details, keys)


def _explain(details: ErrorDetails, where: list[str]) -> str:
    if details["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where[-1], _known_keys(where[:-1]), n=1)
        remedy = (
            f"did you mean {'.'.join([*where[:-1], *near])}?" if near else f"known are {', '.join(_known_keys(where[:-1]))}."
        )
        return f"is not a setting: {remedy}"
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error":
        return f"{message}."
    if details["type"] == "missing":
        return "is missing: give it."
    if details["type"] == "string_pattern_mismatch":
        return f"is {details['input']!r}: use letters, digits, '-', '_' and '.' only, and begin with a letter."
    if details["type"] == "too_short":
        return "is empty: give one or more."
    if details["type"] == "model_type":
        known = ", ".join(_known_keys(where)) or "the settings that --help lists"
        return f"is {details['input']!r} but is a section: give one of {known} in it."
    if details["type"].startswith(("int", "float")):
        message = f"a {'whole ' if details['type'].startswith('int') else ''}number"
    return f"is {details['input']!r} but should be {message.removeprefix('Input should be ').removeprefix('a valid ')}."


def _known_keys(section: list[str]) -> list[str]:
    model: type[BaseModel] = RunSettings
    for part in section:
        inner = _section_of(model.model_fields.get(part))
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _section_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """The section that a field holds, also where null stands for none."""
    kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, line {line}: {error.problem}: correct the YAML there.") from None
    except (UnicodeDecodeError, yaml.YAMLError):
        raise UserError(f"{path} is not a YAML text file: give a config such as configs/demo.yaml.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings: start from configs/demo.yaml.")
    return values


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """What is above, and of the rest what is below, section by section."""
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return merged


def holds(values: Mapping[str, Any], keys: list[str]) -> bool:
    """Whether nested values have something under this path of keys."""
    inner: Any = values
    for key in keys:
        if not isinstance(inner, Mapping) or key not in inner:
            return False
        inner = inner[key]
    return True
