"""What torchrun tells each process that it has started."""

from __future__ import annotations

import os
from dataclasses import dataclass

KNOWN_BY = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class Launch:
    """One process of `size`, of which `here` are on this machine; the first process's machine is `address`."""

    rank: int
    size: int
    number: int
    """Of this process on its machine."""
    here: int
    address: str
    port: int
    """Where torchrun's own key-value store is."""

    @classmethod
    def of_environment(cls) -> Launch | None:
        """None where this process was not started by torchrun."""
        if KNOWN_BY not in os.environ:
            return None
        rank, size, number, here, port = (
            int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
        )
        return cls(rank, size, number, here, os.environ["MASTER_ADDR"], port)
