"""What is measured of a contender, on which text, and the comparison of two.

Also tests `tasks.evidence.comparison`, `tasks.evidence.deciding_text`, `tasks.evidence.entrant`, `tasks.evidence.evidence`,
`tasks.evidence.measure`.
"""

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from configs.errors import UserError
from configs.generation import CompletionSettings
from configs.promotion import PromotionSettings
from configs.schema import DataSettings
from gpt2core.store.document_stream import split_of_store
from tasks.evidence.comparison import gains_by_source
from tasks.evidence.deciding_text import Learner, NoTextError, freeze_text
from tasks.evidence.entrant import Entrant
from tasks.evidence.measure import Questions, measure_entrant, race
from tasks.registry.lookup import find_version

QUESTIONS = Questions(["the "], 3, CompletionSettings(max_new_tokens=20), [], {})


@pytest.fixture
def entrant(foundry: Any, model_name: str) -> Entrant:
    number = foundry.register(model_name, foundry.good)
    version = find_version(MlflowClient(), model_name, number)
    return Entrant("candidate", version.uri, version.folder, version)


def learner(foundry: Any, entrant: Entrant, store: str | None = None) -> Learner:
    return Learner("candidate", entrant.folder, store or foundry.store.hash)


def test_the_held_out_documents_are_frozen_in_the_order_of_their_hashes(foundry: Any, entrant: Entrant) -> None:
    text = freeze_text(PromotionSettings(), learner(foundry, entrant), None)
    held_out = split_of_store(foundry.store, foundry.tokenizer)
    assert text.facts.documents == len(held_out.doc_ids)
    assert text.facts.trained_on == {"candidate": 0}
    assert text.facts == freeze_text(PromotionSettings(), learner(foundry, entrant), None).facts
    few = freeze_text(PromotionSettings(text_limit=1000), learner(foundry, entrant), None)
    assert few.documents == text.documents[: few.facts.documents]
    assert few.facts.bytes <= 1000
    assert few.facts.left_out == text.facts.documents - few.facts.documents


def test_near_duplicates_of_training_text_are_counted(foundry: Any, entrant: Entrant, tmp_path: Path) -> None:
    original = foundry.sentences(240, 1)
    nearly = foundry.corpus(tmp_path, [text.replace("number", "numbers") for text in original[:20]])
    text = freeze_text(PromotionSettings(text=[str(nearly)]), learner(foundry, entrant), None)
    assert text.facts.trained_on == {"candidate": 0}
    assert 5 <= text.facts.near_duplicates["candidate"] <= 20  # those of them that were for training


def test_a_text_that_nobody_can_vouch_for_is_refused(foundry: Any, entrant: Entrant, tmp_path: Path) -> None:
    given = PromotionSettings(text=[str(foundry.corpus(tmp_path, foundry.sentences(3, 40)))])
    with pytest.raises(NoTextError, match=r"nobody can say whether it has seen promote.text"):
        freeze_text(given, learner(foundry, entrant, "gone"), None)
    with pytest.raises(NoTextError, match="The text that was held out from the candidate is no longer here"):
        freeze_text(PromotionSettings(), learner(foundry, entrant, "gone"), None)


def test_an_empty_text_is_one_sentence(foundry: Any, entrant: Entrant, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(UserError):
        freeze_text(PromotionSettings(text=[str(tmp_path / "empty.txt")]), learner(foundry, entrant), None)


def test_everything_is_measured(foundry: Any, entrant: Entrant) -> None:
    text = freeze_text(PromotionSettings(), learner(foundry, entrant), None)
    found = measure_entrant(entrant, entrant.load(), text.documents, QUESTIONS)
    one = found.contender
    assert 0.3 < one.bits_per_byte < 2.0
    assert (len(one.samples), one.n_vocab, one.version) == (3, 300, "1")
    assert one.copied_tokens is not None
    assert 0 <= one.text_repetition < 0.5
    assert one.bytes > 10_000
    assert found.scores.nats.sum() > 0


def test_the_gain_by_source_adds_up(foundry: Any, entrant: Entrant, tmp_path: Path) -> None:
    for name, seed in (("a", 50), ("b", 51)):
        foundry.corpus(tmp_path / name, foundry.sentences(10, seed))
    text = freeze_text(PromotionSettings(text=[str(tmp_path)]), learner(foundry, entrant), None)
    untrained = Entrant("untrained model", "x", entrant.folder, None, 0)
    good, bad = (measure_entrant(one, one.load(), text.documents, QUESTIONS).scores for one in (entrant, untrained))
    rows = gains_by_source(bad, good, text.documents)
    assert [row.documents for row in rows] == [10, 10]
    assert all(row.gain > 1 and row.low <= row.gain <= row.high for row in rows)
    assert gains_by_source(bad, good, text.documents[:1]) == []


def test_both_are_timed(entrant: Entrant) -> None:
    seconds = race(entrant, entrant, "the ")
    assert all(value is not None and 0 < value < 5 for value in seconds)


def test_a_given_text_is_read_as_the_run_read_its_own(foundry: Any, entrant: Entrant, tmp_path: Path) -> None:
    (tmp_path / "given.txt").write_bytes("Über die Brücke, größer.".encode("latin-1"))
    given = PromotionSettings(text=[str(tmp_path / "given.txt")])
    with pytest.raises(UserError, match="is not UTF-8"):
        freeze_text(given, learner(foundry, entrant), None)
    text = freeze_text(given, learner(foundry, entrant), None, DataSettings(encoding="latin-1"))
    assert [document.text for document in text.documents] == ["Über die Brücke, größer."]
