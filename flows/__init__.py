"""The pipelines, and the command line in front of them."""

import tasks  # noqa: F401  (points Prefect and MLflow at the workspace before a module below imports them)
