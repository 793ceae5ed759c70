"""The metrics file survives a kill in the middle of a line."""

from pathlib import Path

from tasks.runs.metrics_log import MetricsLog


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    rows = [{"step": step, "loss": 1 / (step + 1)} for step in range(5)]
    log.append(rows[:2])
    log.append(rows[2:])
    assert log.rows() == rows


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append([{"step": 1, "loss": 0.5}])
    with log.path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert log.rows() == [{"step": 1, "loss": 0.5}]


def test_cutting_back_leaves_a_file_that_continues_cleanly(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": step} for step in range(10))
    with log.path.open("a") as file:
        file.write('{"step": 1')
    log.cut_back(4)
    log.append([{"step": 5}])
    assert [row["step"] for row in log.rows()] == [0, 1, 2, 3, 4, 5]


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.rows() == []
    log.cut_back(0)
    assert log.rows() == []
