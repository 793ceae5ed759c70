"""Settings of `gpt2flow generate`: how prompts of a file are found, shared out and completed."""

from __future__ import annotations

from configs.schema import CompletionSettings
from configs.section import Positive


class BatchSettings(CompletionSettings):
    """How the prompts of a file are completed. The prompt in row r (from 0 on) is completed with the seed `seed` + r."""

    text_column: str | None = None
    """Column or key of the prompts; found unless given."""
    delimiter: str | None = None
    """What stands between the cells of a CSV file; found unless given."""
    shard_rows: Positive = 1000
    """Prompts in a shard, which is what an interruption costs at the most; it does not change the completions."""
