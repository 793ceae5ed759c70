"""state.json of a checkpoint: everything beside weights and moments."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class LogMark(BaseModel):
    """How far a log had come and the hash of its content up to there."""

    model_config = ConfigDict(frozen=True)

    bytes: int
    hash: str


class CheckpointState(BaseModel):
    """What was recorded with a checkpoint. Whoever trains without a run's folder records no more than the first four."""

    model_config = ConfigDict(frozen=True)

    step: int
    """Updates made."""
    replaced: dict[int, int] = {}
    """See `TrainerState`."""
    batch_cuts: dict[int, int] = Field(default={}, alias="splits")
    """See `TrainerState`."""
    whole_gradients: bool = False
    """See `TrainerState`; version 0.1 did not record it."""
    versions: dict[str, str] = {}
    """Of Python and of the libraries that decide about bits."""
    run: str | None = None
    """Id of the run."""
    store: str | None = None
    """Hash of the token store."""
    settings: dict[str, Any] = Field(default={}, alias="config")
    """The run's config."""
    git_revision: str | None = None
    saved: float = 0.0
    """When it was made, in seconds since 1970."""
    logs: dict[str, LogMark] = {}
    """How far the run's logs had come, by file name."""
    mlflow_run_id: str | None = None
    key: str | None = None
    """By which the run is found where its folder no longer says so."""
