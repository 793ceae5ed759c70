"""Learning from scratch, against the figure that nanoGPT documents for the same size and the same number of tokens."""

from pathlib import Path

import pytest

from configs.loading import load_config
from flows.finetune import finetune
from tasks.workspace.folders import Workspace

NANOGPT = 1.88  # nats a character on held-out text: 4 layers, 4 heads, 128 wide, block 64, batch 12, 2,000 steps on a CPU


@pytest.mark.slow
def test_the_small_config_learns_shakespeare_at_least_as_well_as_nanogpt(shared: Path) -> None:
    Workspace.current().create()
    source = {"source": str(shared / "data" / "text" / "tinyshakespeare.txt")}
    config = load_config(Path("shakespeare-char"), {"data": source, "registry": {"enabled": False}})
    sizes = (config.model.n_layer, config.model.n_head, config.model.n_embd, config.model.n_ctx)
    assert (*sizes, config.train.batch_size, config.train.steps) == (4, 4, 128, 64, 12, 2000)
    assert finetune(config).best.val_loss <= NANOGPT
