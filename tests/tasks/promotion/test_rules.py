"""The gate is a pure function: every rule's verdict and sentence from constructed evidence."""

from typing import Any

import pytest

from configs.promotion import Limit, PromotionRules
from tasks.evidence.evidence import Contender, DecidingText, Evidence, PairedOutcome
from tasks.promotion.rules import judge, reason


def contender(**figures: Any) -> Contender:
    plain = {"bits_per_byte": 1.0, "copied_share": 0.01, "copied_tokens": 20, "repetition": 0.05, "loops": 0.0}
    more = {"calibration_error": 0.02, "seconds_per_token": 0.01, "canary_exposure": 1.0, "text_repetition": 0.03}
    sizes = {"reference": "models:/x/1", "content": "c", "parameters": 10, "n_vocab": 300}
    return Contender.model_validate({**sizes, "bytes": 1000, **plain, **more, **figures})


def outcome(**changes: Any) -> PairedOutcome:
    plain = {"gain": 0.02, "low": 0.01, "high": 0.03, "p_value": 0.001, "margin": 0.0, "error": 0.025, "attempt": 1}
    return PairedOutcome.model_validate({**plain, "documents": 50, "fewest": 6, "needed": 30, **changes})


def evidence(candidate: dict[str, Any] | None = None, rival: dict[str, Any] | None = None, **changes: Any) -> Evidence:
    text = DecidingText(origin="promote.text", documents=50, bytes=9999, sha256="t")
    both = {"candidate": contender(**(candidate or {})), "rival": contender(**{"bits_per_byte": 1.02, **(rival or {})})}
    return Evidence.model_validate({"model": "x", **both, "text": text, "outcome": outcome(), "tried": True, **changes})


def grounds(rules: PromotionRules, found: Evidence) -> tuple[str, str]:
    verdict, findings = judge(rules, found)
    return verdict, reason(verdict, findings)


def test_all_rules_hold() -> None:
    verdict, why = grounds(PromotionRules(), evidence())
    assert verdict == "promoted"
    assert why == "Better than the champion: +0.0200 bits a byte (95.0% interval +0.0100 to +0.0300) on 50 documents."


@pytest.mark.parametrize(
    ("candidate", "sentence"),
    [
        ({"copied_share": 0.3}, "Share of copied passages: 30.0%; at most 6.0% is allowed, the champion has 1.0%."),
        ({"copied_tokens": 71}, "Longest copied passage in tokens: 71; at most 70 is allowed, the champion has 20."),
        ({"repetition": 0.11}, "Repetition: 11.0%; at most 10.0% is allowed, the champion has 5.0% and the text 3.0%."),
        ({"loops": 0.2}, "Share of samples that loop: 20%; at most 10% is allowed, the champion has 0%."),
        ({"canary_exposure": 2.5}, "Canary exposure in bits: 2.50; at most 2.00 is allowed, the champion has 1.00."),
        ({"calibration_error": 0.05}, "Calibration error: 0.0500; at most 0.0400 is allowed, the champion has 0.0200."),
        (
            {"seconds_per_token": 0.02},
            "Time a token: 20 ms (50 tokens a second); "
            "at most 15 ms (67 tokens a second) is allowed, the champion has 10 ms (100 tokens a second).",
        ),
        ({"bytes": 2001}, "Bytes of weights: 2,001; at most 2,000 is allowed, the champion has 1,000."),
    ],
)
def test_a_figure_beyond_its_limit_refuses(candidate: dict[str, Any], sentence: str) -> None:
    assert grounds(PromotionRules(), evidence(candidate)) == ("refused", sentence)


def test_a_rule_that_is_null_does_not_count() -> None:
    assert grounds(PromotionRules(loops=None), evidence({"loops": 0.9}))[0] == "promoted"


def test_a_model_may_repeat_itself_as_much_as_the_text_does() -> None:
    poems = {"repetition": 0.3, "text_repetition": 0.28}
    assert grounds(PromotionRules(), evidence(poems))[0] == "promoted"


def test_against_a_base_only_the_figures_themselves_are_limited() -> None:
    worse_than_noise = {"repetition": 0.2, "loops": 0.2, "calibration_error": 0.5}
    assert grounds(PromotionRules(), evidence(worse_than_noise, role="untrained"))[0] == "promoted"
    assert grounds(PromotionRules(), evidence({"repetition": 0.5}, role="untrained"))[0] == "refused"


def test_what_was_not_measured_counts_only_where_it_was_asked_for() -> None:
    unmeasured = evidence({"canary_exposure": None})
    assert grounds(PromotionRules(), unmeasured)[0] == "promoted"
    verdict, why = grounds(PromotionRules(canary_exposure=Limit(at_most=2.0)), unmeasured)
    assert verdict == "undecided"
    assert why == "Canary exposure in bits was not measured: leave promote.rules.canary_exposure out, or make it measurable."


def test_a_gain_that_may_be_chance_is_undecided_with_the_documents_that_would_tell() -> None:
    perhaps = outcome(p_value=0.2, low=-0.01, needed=180)
    verdict, why = grounds(PromotionRules(), evidence(outcome=perhaps))
    assert verdict == "undecided"
    assert "p 0.200 where attempt 1 may have 0.0250; about 180 documents would tell." in why


def test_no_gain_is_refused_however_uncertain() -> None:
    worse = outcome(gain=-0.01, p_value=0.8, low=-0.03, high=0.01, needed=None)
    assert grounds(PromotionRules(), evidence(outcome=worse))[0] == "refused"


def test_a_broken_rule_counts_more_than_an_open_one() -> None:
    perhaps = outcome(p_value=0.2, low=-0.01)
    assert grounds(PromotionRules(), evidence({"loops": 0.9}, outcome=perhaps))[0] == "refused"


def test_losses_that_are_no_numbers() -> None:
    none = outcome(gain=float("nan"), low=None, high=None, p_value=1.0, needed=None)
    assert grounds(PromotionRules(), evidence({"bits_per_byte": float("nan")}, outcome=none))[0] == "refused"
    verdict, why = grounds(PromotionRules(), evidence(rival={"bits_per_byte": None}, outcome=none))
    assert verdict == "undecided"
    assert why == "The loss of the champion is no number: roll back, or delete that version."


def test_a_text_that_was_learnt_from_refuses_and_near_duplicates_are_said() -> None:
    text = {"origin": "promote.text", "documents": 50, "bytes": 9, "sha256": "t"}
    seen = evidence(text=DecidingText(**text, trained_on={"candidate": 3, "champion": 0}))
    assert grounds(PromotionRules(), seen)[0] == "refused"
    near = evidence(text=DecidingText(**text, near_duplicates={"candidate": 2}, unknown=["champion"]))
    sentences = [finding.sentence for finding in judge(PromotionRules(), near)[1]]
    assert (
        "None of the 50 documents stands in a training text that is here, 2 nearly stand in that of candidate, "
        "and what champion was trained on is not known."
    ) in sentences


@pytest.mark.parametrize(("value", "verdict"), [(0.45, "promoted"), (0.42, "refused")])
def test_a_zero_shot_task_may_not_get_worse(value: float, verdict: str) -> None:
    rules = PromotionRules.model_validate({"tasks": {"lambada": {"file": "x.jsonl", "figure": "accuracy", "worse_by": 0.02}}})
    found = evidence({"tasks": {"lambada": {"accuracy": value}}}, {"tasks": {"lambada": {"accuracy": 0.46}}})
    assert grounds(rules, found)[0] == verdict


def test_a_figure_that_the_task_has_not_is_named_with_those_it_has() -> None:
    rules = PromotionRules.model_validate({"tasks": {"lambada": {"file": "x.jsonl", "figure": "f1"}}})
    figures = {"tasks": {"lambada": {"accuracy": 0.4, "perplexity": 9.0}}}
    verdict, why = grounds(rules, evidence(figures, figures))
    assert (verdict, why) == ("undecided", "lambada has no figure f1: known are accuracy, perplexity.")


def test_an_obstacle_leaves_it_undecided() -> None:
    verdict, why = grounds(PromotionRules(), Evidence(model="x", obstacle="The text is gone."))
    assert (verdict, why) == ("undecided", "The text is gone.")
