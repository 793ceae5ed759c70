"""The decision table: models that are better, worse, equal, parroting ..., each with the verdict and grounds it must get."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from configs.errors import UserError
from configs.promotion import PromotionSettings
from flows.promote import promote
from gpt2core.text.tokenizer import train_tokenizer
from tasks.promotion.ledger import Decision, Ledger
from tasks.promotion.match import Match, find_match
from tasks.promotion.rules import reason
from tasks.promotion.stages import decide
from tasks.registry.lookup import Aliases, aliases_of

HEADER = "This text may be copied by all who keep these lines as they are: nothing is promised, nothing is owed, all is given. "
pytestmark = pytest.mark.usefixtures("tried_here")
FAST: dict[str, Any] = {"samples": 4, "sample_tokens": 80}


def settings(**given: Any) -> PromotionSettings:
    """Few samples; speed is left out, which a busy machine cannot measure on models this small."""
    rules = {"seconds_per_token": None, **given.pop("rules", {})}
    return PromotionSettings.model_validate({**FAST, **given, "rules": rules})


def broken(decision: Decision) -> list[str]:
    return [finding.rule for finding in decision.findings if finding.mark == "broken"]


def aliases(name: str) -> Aliases:
    return Aliases.of(aliases_of(MlflowClient(), name))


def test_a_clearly_better_model_is_promoted_and_the_old_champion_kept(foundry: Any, model_name: str) -> None:
    old, new = foundry.against(model_name, foundry.noised(foundry.good, 0.5, 1), foundry.good)
    decision = promote(model_name, settings=settings())
    assert (decision.verdict, decision.number, decision.attempt) == ("promoted", 1, 1)
    assert aliases(model_name) == Aliases(champion=new, previous=old)
    outcome = decision.evidence.outcome
    assert outcome.low > 0
    assert outcome.p_value <= outcome.error == pytest.approx(0.025)
    assert decision.evidence.text.origin == "held out from candidate and champion"
    assert Ledger(MlflowClient(), model_name).page(1).read_text().count("candidate</h4>") == 4
    again = promote(model_name, settings=settings())
    assert (again.verdict, again.number) == ("unchanged", 0)


def test_a_clearly_worse_one_is_refused(foundry: Any, model_name: str) -> None:
    old, new = foundry.against(model_name, foundry.good, foundry.noised(foundry.good, 0.5, 1))
    decision = promote(model_name, settings=settings())
    assert decision.verdict == "refused"
    assert "bits_per_byte" in broken(decision)
    assert "Not better than the champion" in decision.why
    assert aliases(model_name) == Aliases(champion=old, candidate=new)
    again = promote(model_name, settings=settings())
    assert again.verdict == "unchanged"
    assert "Decided before, as number 1" in again.why


def test_an_equal_one_is_not_promoted(foundry: Any, model_name: str) -> None:
    foundry.against(model_name, foundry.noised(foundry.good, 1e-4, 1), foundry.noised(foundry.good, 1e-4, 2))
    decision = promote(model_name, settings=settings())
    assert decision.verdict in ("refused", "undecided")
    assert abs(decision.evidence.outcome.gain) < 1e-3


def test_a_better_one_that_is_not_better_by_the_margin_is_refused(foundry: Any, model_name: str) -> None:
    foundry.against(model_name, foundry.noised(foundry.good, 0.5, 1), foundry.good)
    decision = promote(model_name, settings=settings(rules={"margin": 5.0}))
    assert decision.verdict == "refused"
    assert "Not better than the champion by 5" in decision.why


def test_one_that_copies_its_training_text_is_refused(foundry: Any, model_name: str, tmp_path: Path) -> None:
    texts = foundry.sentences(120, 5, HEADER)
    store = foundry.encoded(foundry.corpus(tmp_path, texts), foundry.tokenizer)
    parrot = foundry.trained(store, foundry.tokenizer, 200)
    cold = {"prompts": ["This text may be"], "temperature": 0.0}
    foundry.register(model_name, foundry.noised(parrot, 0.3, 1), alias="champion", store=store)
    foundry.register(model_name, parrot, store=store, evaluate=cold)
    decision = promote(model_name, settings=settings(rules={"copied_tokens": {"at_most": 15}}))
    assert decision.verdict == "refused"
    assert "copied_tokens" in broken(decision)
    assert decision.evidence.outcome.low > 0
    assert "Longest copied passage in tokens" in decision.why


def test_one_that_repeats_itself_is_refused(foundry: Any, model_name: str) -> None:
    greedy = {"temperature": 0.0}
    foundry.against(model_name, foundry.noised(foundry.good, 1.0, 1), foundry.good, evaluate=greedy)
    decision = promote(model_name, settings=settings(rules={"loops": {"at_most": 0.0}, "repetition": {"at_most": 0.05}}))
    assert decision.verdict == "refused"
    assert set(broken(decision)) & {"loops", "repetition"}
    assert decision.evidence.outcome.low > 0


@pytest.mark.parametrize("better", [True, False])
def test_a_zero_shot_task_of_the_users_file_counts(foundry: Any, model_name: str, tmp_path: Path, better: bool) -> None:
    file = tmp_path / "lambada.jsonl"
    file.write_text("".join(json.dumps({"text": text.rsplit(" ", 2)[0]}) + "\n" for text in foundry.sentences(30, 9)))
    bad = foundry.noised(foundry.good, 0.5, 1)
    foundry.against(model_name, *((bad, foundry.good) if better else (foundry.good, bad)))
    rule = {"file": file, "figure": "perplexity", "better": "lower", "worse_by": 0.0}
    decision = promote(model_name, settings=settings(rules={"tasks": {"lambada": rule}}))
    (finding,) = [finding for finding in decision.findings if "lambada" in finding.rule]
    assert finding.mark == ("held" if better else "broken")
    assert decision.verdict == ("promoted" if better else "refused")


def test_one_that_was_trained_on_the_deciding_text_is_refused(foundry: Any, model_name: str, tmp_path: Path) -> None:
    seen = foundry.corpus(tmp_path / "seen", foundry.sentences(40, 7))
    store = foundry.encoded(
        foundry.corpus(tmp_path / "all", foundry.sentences(40, 7) + foundry.sentences(40, 8)), foundry.tokenizer
    )
    foundry.register(model_name, foundry.noised(foundry.good, 0.5, 1), alias="champion")
    foundry.register(model_name, foundry.good, store=store)
    decision = promote(model_name, settings=settings(text=[str(seen)]))
    assert decision.verdict == "refused"
    assert "unseen text" in broken(decision)
    assert decision.evidence.text.trained_on["candidate"] > 20
    assert decision.evidence.text.trained_on["champion"] == 0


def test_another_vocabulary_is_compared_by_the_byte(foundry: Any, model_name: str) -> None:
    other = train_tokenizer(foundry.sentences(100, 9), 400)
    store = foundry.encoded(foundry.folder / "text", other)
    foundry.register(model_name, foundry.noised(foundry.good, 1.0, 1), alias="champion")
    foundry.register(model_name, foundry.trained(store, other), store=store, tokenizer=other)
    decision = promote(model_name, settings=settings())
    assert decision.verdict == "promoted"
    assert decision.evidence.rival.n_vocab < decision.evidence.candidate.n_vocab


def test_too_few_documents_are_undecided_and_it_says_how_many_are_needed(foundry: Any, model_name: str, tmp_path: Path) -> None:
    foundry.against(model_name, foundry.noised(foundry.good, 0.5, 1), foundry.good)
    few = foundry.corpus(tmp_path, foundry.sentences(4, 11))
    decision = promote(model_name, settings=settings(text=[str(few)]))
    assert decision.verdict == "undecided"
    assert "4, and attempt 1 against this champion needs at least 6" in decision.why
    more = foundry.corpus(tmp_path / "more", foundry.sentences(6, 12))
    decision = promote(model_name, settings=settings(text=[str(more)]))
    assert decision.verdict == "undecided"
    assert "attempt 2 against this champion needs at least 7" in decision.why


def test_weights_that_are_no_numbers_are_refused(foundry: Any, model_name: str) -> None:
    damaged = foundry.noised(foundry.good, 0.0, 1)
    damaged.ln_f.weight.data[3] = torch.nan
    old, _ = foundry.against(model_name, foundry.good, damaged)
    decision = promote(model_name, settings=settings())
    assert decision.verdict == "refused"
    assert "holds NaN or infinite values" in decision.why
    assert aliases(model_name).champion == old


def test_a_champion_that_was_deleted_from_the_registry_is_noticed(foundry: Any, model_name: str) -> None:
    first, second = foundry.against(model_name, foundry.noised(foundry.good, 1.0, 1), foundry.noised(foundry.good, 0.5, 1))
    assert promote(model_name, settings=settings()).verdict == "promoted"
    MlflowClient().delete_model_version(model_name, second)
    foundry.register(model_name, foundry.good)
    decision = promote(model_name, settings=settings())
    assert decision.verdict == "undecided"
    assert (
        f"Champion {second} is gone from the registry: gpt2flow rollback {model_name} puts version {first} back" in decision.why
    )


def test_a_champion_whose_text_is_gone_needs_a_promote_text(foundry: Any, model_name: str, tmp_path: Path) -> None:
    store = foundry.encoded(foundry.corpus(tmp_path / "old", foundry.sentences(60, 13)), foundry.tokenizer)
    foundry.register(model_name, foundry.noised(foundry.good, 0.5, 1), alias="champion", store=store)
    foundry.register(model_name, foundry.good)
    shutil.rmtree(store.path)
    decision = promote(model_name, settings=settings())
    assert decision.verdict == "undecided"
    assert "The text that was held out from the champion is no longer here: give promote.text" in decision.why
    new = foundry.corpus(tmp_path / "new", foundry.sentences(30, 14))
    decision = promote(model_name, settings=settings(text=[str(new)]))
    assert decision.verdict == "promoted"
    assert decision.evidence.text.unknown == ["champion"]


def test_a_first_model_must_beat_itself_before_training(foundry: Any, model_name: str) -> None:
    number = foundry.register(model_name, foundry.good)
    decision = promote(model_name, settings=settings())
    assert (decision.verdict, decision.evidence.role) == ("promoted", "untrained")
    assert aliases(model_name) == Aliases(champion=number)


def test_a_first_model_must_beat_the_base_it_was_trained_from(foundry: Any, model_name: str) -> None:
    foundry.register(f"{model_name}-base", foundry.good, alias="champion")
    sections = {"model": {"base": f"models:/{model_name}-base/1"}}
    foundry.register(model_name, foundry.noised(foundry.good, 0.5, 1), **sections)
    decision = promote(model_name, settings=settings())
    assert (decision.verdict, decision.evidence.role) == ("refused", "base")
    assert decision.evidence.rival.reference == f"models:/{model_name}-base/1"
    assert aliases(model_name).champion is None


def test_the_error_rate_is_spent_over_attempts_against_one_champion(foundry: Any, model_name: str) -> None:
    foundry.register(model_name, foundry.good, alias="champion")
    for attempt in (1, 2, 3):
        foundry.register(model_name, foundry.noised(foundry.good, 0.3, attempt))
        decision = promote(model_name, settings=settings())
        assert decision.attempt == attempt
        assert decision.evidence.outcome.error == pytest.approx(0.05 / (attempt * (attempt + 1)))


def test_a_champion_that_somebody_moved_meanwhile_stops_the_promotion(foundry: Any, model_name: str) -> None:
    old, _ = foundry.against(model_name, foundry.noised(foundry.good, 0.5, 1), foundry.good)
    match = find_match(MlflowClient(), model_name, None, settings())
    assert isinstance(match, Match)
    other = foundry.register(model_name, foundry.noised(foundry.good, 0.2, 1), alias="champion")
    from tasks.promotion.stages import BothMeasured, Trial

    with pytest.raises(UserError, match=f"was version {old} and is {other} now"):
        decide.fn(match, BothMeasured(), Trial())
    assert Ledger(MlflowClient(), model_name).entries() == []


def test_a_candidate_whose_files_do_not_work_is_refused(foundry: Any, model_name: str) -> None:
    old, _ = foundry.against(model_name, foundry.noised(foundry.good, 0.5, 1), foundry.good)
    match = find_match(MlflowClient(), model_name, None, settings())
    assert isinstance(match, Match)
    (match.candidate.folder.parents[1] / "MLmodel").write_text("flavors: {}\nmetadata: {}\n")
    decision = promote(
        model_name, settings=settings(text=[str(foundry.corpus(foundry.folder / "t", foundry.sentences(20, 21)))])
    )
    assert decision.verdict in ("refused", "undecided")
    assert aliases(model_name).champion == old


def test_the_record_holds_everything_that_was_decided_on(foundry: Any, model_name: str) -> None:
    foundry.against(model_name, foundry.noised(foundry.good, 0.5, 1), foundry.good)
    decision = promote(model_name, settings=settings(canaries=["number 7-7"]))
    client = MlflowClient()
    (entry,) = Ledger(client, model_name).entries()
    content = json.loads(Path(client.download_artifacts(entry.run_id, "decision.json")).read_text())
    assert content["settings"]["samples"] == 4
    assert 0 <= content["evidence"]["candidate"]["canary_exposure"] <= 8
    assert len(content["evidence"]["candidate"]["samples"]) == 4
    assert client.get_run(entry.run_id).data.metrics["gain"] == decision.evidence.outcome.gain
    assert client.get_run(entry.run_id).info.status == "FINISHED"
    assert reason(decision.verdict, decision.findings) == decision.why


def test_other_rules_ask_a_person_anew_in_place_of_the_question_before(foundry: Any, model_name: str) -> None:
    old, new = foundry.against(model_name, foundry.noised(foundry.good, 0.5, 1), foundry.good)

    def meet(margin: float, needed: bool = True) -> Decision:
        given = {"rules": {"margin": margin}, "approval": {"needed": needed}, "sample_tokens": 10}
        return promote(model_name, settings=settings(**given))

    first = meet(0.0)
    assert (first.verdict, first.number, meet(0.0).number) == ("awaiting approval", 1, 1)
    assert (meet(0.001).verdict, meet(5.0).verdict) == ("awaiting approval", "refused")
    assert [entry.decision.answers for entry in Ledger(MlflowClient(), model_name).entries()] == [None, 1, 2]
    assert aliases(model_name) == Aliases(old, None, new)
    assert meet(0.0, needed=False).verdict == "promoted"


def test_one_that_was_too_slow_is_timed_again(foundry: Any, model_name: str) -> None:
    foundry.against(model_name, foundry.noised(foundry.good, 0.5, 1), foundry.good)
    for number in (1, 2):
        decision = promote(model_name, settings=settings(rules={"seconds_per_token": {"at_most": 1e-9}}))
        assert (decision.verdict, decision.number) == ("refused", number)
        assert broken(decision) == ["seconds_per_token"]
