"""The pipeline's stages as Prefect tasks, each a small function that joins gpt2core to files, MLflow and the registry.

Importing this package points Prefect and MLflow at the workspace, because both read their settings when they are imported.
"""

from tasks.workspace.folders import Workspace, point_environment
from tasks.workspace.replacement import finish_replacement

point_environment(Workspace.current())
finish_replacement(Workspace.current())
