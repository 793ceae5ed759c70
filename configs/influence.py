"""What a setting has to do with a run's weights: the mark beside each field that is no part of the run's id."""

from __future__ import annotations

from enum import Enum
from typing import Any

from pydantic import BaseModel


class Influence(Enum):
    """Why a setting, or a whole section, is no part of the id; what has no mark decides about the weights and is part of it."""

    NONE = "it cannot change the weights"
    SETTLES = "it decides what other settings become, and those are part of the id"
    APART = "what it names is in the id already: the run's name, the text's, the vocabulary's or the base weights' hash"


def settings_by_name(section: BaseModel, influence: Influence | None = None) -> dict[str, Any]:
    """The settings that have this mark, or none, by dotted name."""
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        mark = next((mark for mark in field.metadata if isinstance(mark, Influence)), None)
        value = getattr(section, name)
        if mark is None and isinstance(value, BaseModel):
            found |= {f"{name}.{inner}": setting for inner, setting in settings_by_name(value, influence).items()}
        elif mark is influence:
            found[name] = value
    return found


def defaults_by_name(section: BaseModel, influence: Influence | None = None) -> dict[str, Any]:
    """As `settings_by_name`, of a section of this type in which nothing is set."""
    return settings_by_name(type(section).model_construct(), influence)
