"""What a worker that waits has loaded."""

import subprocess
import sys

from tasks.evaluation.deployment import DEPLOYMENT, FLOW

LOAD = "import flows.work, sys; print([name for name in ('torch', 'mlflow', 'pandas', 'pyarrow') if name in sys.modules])"


def test_a_worker_that_waits_has_loaded_neither_pytorch_nor_mlflow() -> None:
    assert subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert f"{FLOW}/{DEPLOYMENT}" == "evaluate-checkpoint/gpt2flow"
