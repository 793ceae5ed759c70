"""What stays of a checkpoint that goes: its model folder without the optimizer, as `weights-N` beside the checkpoints."""

from __future__ import annotations

from pathlib import Path

from gpt2core.checkpoints.checkpoint import Checkpoint, recorded_hashes, write_checkpoint_manifest
from gpt2core.checkpoints.moments import is_moments_file
from gpt2core.machine.durable import link_file, publish_folder


def keep_weights(checkpoint: Checkpoint) -> None:
    """Give the sound checkpoint's files except the optimizer's a second name in `weights-N`; costs no space while both exist.

    The hashes are those of the checkpoint's manifest, so what was damaged does not become good. One that is there stays.
    """
    target = checkpoint.path.with_name(f"weights-{checkpoint.step:08d}")
    if target.exists():
        return
    hashes = {name: digest for name, digest in recorded_hashes(checkpoint).items() if not is_moments_file(name)}
    with publish_folder(target) as temporary:
        for name in hashes:
            link_file(checkpoint.path / name, temporary / name)
        write_checkpoint_manifest(temporary, hashes)


def find_weights(folder: Path) -> list[Checkpoint]:
    """The weights-only folders beside the checkpoints in `folder`, oldest first; `find_damage` knows them too."""
    return [Checkpoint(path, int(path.name.removeprefix("weights-"))) for path in sorted(folder.glob("weights-" + 8 * "[0-9]"))]
