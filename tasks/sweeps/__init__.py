"""What the runs of a sweep came to: a table in the terminal, in Prefect and, by tags, in MLflow.

Not which runs there are (`configs.grid`), and not how they are trained (`flows.sweep`). From outside: every module.
"""
