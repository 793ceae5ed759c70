"""`gpt2flow promote` from its options to its settings."""

from configs.promotion import Limit, PromotionRules
from flows.cli.main import app


def test_a_rule_may_be_changed_or_left_out() -> None:
    _, bound, _ = app.parse_args(["promote", "x", "--rules.bytes", "null", "--rules.loops.at_most", "0.5"], exit_on_error=False)
    rules = bound.arguments["settings"].rules
    assert rules == PromotionRules(bytes=None, loops=Limit(at_most=0.5))
