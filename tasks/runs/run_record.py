"""run.json: what a run is."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from configs.errors import UserError
from configs.schema import RunConfig


class _Recorded(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)


class RecordedOrigin(_Recorded):
    """The checkpoint of another run that a run began with."""

    path: str
    step: int
    checksum: str


class Change(_Recorded):
    """Settings (or `kernels`) that were changed when the run was resumed at a step: [before, since then] by dotted name."""

    step: int
    settings: dict[str, list[str | None]]


class RunRecord(_Recorded):
    """Everything that run.json says. What a later version adds is kept when it is written again."""

    id: str
    key: str = Field(default_factory=lambda: uuid4().hex)
    """By which the run is found in MLflow when its id there is not known."""
    started: datetime = Field(default_factory=lambda: datetime.now().replace(microsecond=0))
    store: str
    """Hash of the token store."""
    settings: dict[str, Any] = Field(alias="config")
    """The config as it was written, by whatever version; see `config`."""
    changes: list[Change] = []
    batch_cuts: dict[int, int] = Field(default={}, alias="splits")
    """See `TrainerState`; written at once, before a checkpoint holds them."""
    origin: RecordedOrigin | None = None
    kernels: str | None = None
    """The level of the kernels that it computes with on a processor: another one adds in another order."""
    asked: str | None = None
    """Id of what was asked for, where that had to be settled."""
    mlflow_run_id: str | None = None
    mlflow_experiment_id: str | None = None

    @property
    def name(self) -> str:
        """The run's name, which is that of its experiment too."""
        return str(self.settings["name"])

    @property
    def config(self) -> RunConfig:
        """The config as this version reads it; raises UserError where it cannot."""
        try:
            return RunConfig.model_validate(self.settings)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise UserError(
                f"The run {self.id} has a config of another version of gpt2flow ({where}: {error.errors()[0]['msg']}): "
                "use that version, or begin a new run."
            ) from error

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
