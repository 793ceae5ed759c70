"""A model that cannot be loaded is noticed in a process of its own."""

from tasks.tracking.fresh_process import problem_in_fresh_process


def test_what_is_not_there_is_a_problem() -> None:
    assert "nowhere" in str(problem_in_fresh_process("models:/nowhere/1", "The"))
