"""MLflow: a run's metrics, samples and models mirrored there, what it missed delivered later.

Not for the truth about a run, which lies in its folder (`tasks.runs`). From outside: `mlflow_mirror`, `reconciliation`,
`registered_model`.
"""
