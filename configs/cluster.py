"""Where pieces of work are done that do not wait for one another."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from configs.accepted_values import no_secret_inside
from configs.section import Positive, Section


class ClusterSettings(Section):
    """Where shards are encoded or completed, and the runs of a sweep trained."""

    runner: Literal["local", "dask", "ray"] = "local"
    """local: on this machine. dask, ray: by the workers of a cluster (gpt2flow[dask], gpt2flow[ray]) that see text and
    workspace under the same paths as this machine."""
    address: Annotated[str, AfterValidator(no_secret_inside)] | None = None
    """Address of the cluster, such as tcp://HOST:8786 or ray://HOST:10001; unless given one is started on this machine, for as
    long as it is needed."""

    workers: Positive | None = None
    """Processes of a cluster that is started here; unless given one for each piece of work, at most one a GPU or, without GPUs
    or for encoding, a core."""

    @model_validator(mode="after")
    def _has_a_cluster(self) -> Self:
        if self.address and self.runner == "local":
            raise ValueError("has an address but runner local: give runner dask or ray too, or leave the address out")
        return self


HERE = ClusterSettings()
"""No cluster."""
