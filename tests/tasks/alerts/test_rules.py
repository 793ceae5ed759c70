"""Each rule at both sides of its limit, and switched off."""

from datetime import UTC, datetime, timedelta

from gpt2core.training.callback import StepMetrics
from tasks.alerts import rules

NAN = float("nan")


def test_a_spike_counts_from_its_limit_on_and_the_highest_is_told() -> None:
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 5.0, "loss_spike": 2.0}, {"step": 3, "loss": 6.0, "loss_spike": 3.0}]
    assert rules.spike(rows, 2.0) == "The loss is 6.000 at step 3, 3.000 above what the steps before had."
    assert rules.spike(rows, 3.5) is rules.spike(rows, 0.0) is rules.spike([], 1.0) is None


def test_loss_or_gradient_that_are_no_numbers() -> None:
    assert rules.not_finite(StepMetrics(7, 3.0, 1e-3, 1.0)) is None
    assert "step 7" in str(rules.not_finite(StepMetrics(7, NAN, 1e-3, 1.0)))
    assert "inf" in str(rules.not_finite(StepMetrics(7, 3.0, 1e-3, float("inf"))))


def test_halved_throughput_needs_several_reports_in_a_row() -> None:
    usual = [100.0, 104.0, 96.0] * 10
    assert rules.slower([*usual, *[40.0] * 5], 0.5) == "Training makes 40 tokens a second, 40% of the 100 that it made before."
    assert rules.slower([*usual, 40.0, 40.0, 100.0, 100.0, 100.0], 0.5) is None
    assert rules.slower([*usual, *[51.0] * 5], 0.5) is None
    assert rules.slower([100.0] * 9 + [1.0] * 5, 0.5) is None  # too few before
    assert rules.slower([*usual, *[1.0] * 5], 0.0) is None


def test_worse_than_the_champion_so_many_times_in_a_row() -> None:
    assert rules.worse_than_champion([5.0, 3.1, 3.2, 3.3], 3.0, 3)
    assert rules.worse_than_champion([5.0, 3.1, 2.9, 3.3], 3.0, 3) is None
    assert rules.worse_than_champion([3.0, 3.0, 3.0], 3.0, 3) is None
    assert rules.worse_than_champion([5.0, 5.0], 3.0, 3) is None
    assert rules.worse_than_champion([5.0, 5.0], 3.0, 0) is None


def test_a_disk_with_less_than_the_limit() -> None:
    assert rules.disk_low(999, 1000, "/data") == "999 bytes are free at /data, less than 1.0 KB."
    assert rules.disk_low(1000, 1000, "/data") is rules.disk_low(0, 0, "/data") is None


def test_copies_and_canaries_beyond_their_limits() -> None:
    row = {"step": 100.0, "sample_longest_copy": 201.0, "canary_exposure": 5.0}
    assert "repeats 201 tokens" in str(rules.memorised(row, 200, 0.0))
    assert "gives away 5.0 bits" in str(rules.memorised(row, 0, 4.0))
    assert rules.memorised(row, 201, 5.0) is rules.memorised(row, 0, 0.0) is rules.memorised({"step": 1.0}, 1, 1.0) is None


def test_no_success_for_longer_than_allowed() -> None:
    now = datetime(2026, 11, 27, 12, tzinfo=UTC)
    assert "3.0 days" in str(rules.overdue(now - timedelta(days=3), now, 36 * 3600))
    assert rules.overdue(now - timedelta(hours=36), now, 36 * 3600) is None
    assert rules.overdue(now - timedelta(days=3), now, 0) is None
