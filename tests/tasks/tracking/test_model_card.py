"""The card of a version, and the licence of the base it comes from."""

from pathlib import Path

import pytest

from configs.schema import RunConfig
from gpt2core.store.manifest import Manifest, SplitCounts
from tasks.runs.run_folder import RunFolder
from tasks.tracking.model_card import licence_of, model_card


def test_the_card_has_text_figures_curve_lineage_and_licence(folder: RunFolder) -> None:
    config = RunConfig.model_validate({"name": "tale", "model": {"base": "models:/tale/2"}, "data": {"source": "books"}})
    counts = {"train": SplitCounts(documents=9, bytes=90, tokens=30), "validation": SplitCounts(documents=1, bytes=8, tokens=3)}
    text = Manifest.model_construct(hash="abc", n_vocab=300, dropped={"empty": 2, "duplicate": 0}, counts=counts)
    card = model_card(folder, config, text, 10, "as on the card of models:/tale/2", ["models:/tale/2", "models:/tale/1"])
    assert f"Run `{folder.id}` ← `models:/tale/2` ← `models:/tale/1`" in card
    assert "| train | 9 | 90 | 30 |" in card
    assert "Documents left out: 2 empty" in card
    assert "| validation loss | 3.2500 |" in card
    assert "| 20 | 3.5000 | 1.7500 |" in card
    assert "Of the base `models:/tale/2`: as on the card of models:/tale/2." in card


@pytest.mark.parametrize(
    ("name", "content", "licence"),
    [
        ("README.md", "---\nlicense: mit\n---\n# GPT-2\n", "mit"),
        ("LICENSE", "Modified MIT License\n\nSoftware Copyright ...", "Modified MIT License (file LICENSE)"),
        ("README.md", "# no front matter", "not recorded beside its weights"),
        ("README.md", "---\n[broken\n---\n", "not recorded beside its weights"),
    ],
)
def test_the_licence_is_what_the_files_say(tmp_path: Path, name: str, content: str, licence: str) -> None:
    (tmp_path / name).write_text(content)
    assert licence_of(tmp_path) == licence
    assert licence_of(None) == "none"
