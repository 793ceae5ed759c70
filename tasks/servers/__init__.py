"""Processes that serve: Prefect's and MLflow's servers, the dashboard, and cancelling through them.

Not for evaluation workers (`tasks.evaluation.by_worker`). From outside: every module.
"""
