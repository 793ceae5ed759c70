"""A registered or logged model tried in another interpreter; MLflow itself only warns about a broken one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from gpt2core.machine.allocator import return_freed_memory

FRESH_PROCESS = """
import sys, mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
completion = model.predict(pandas.DataFrame({"prompt": [sys.argv[2]]}), params={"max_new_tokens": 8})["completion"][0]
assert isinstance(completion, str) and completion, f"it generated {completion!r}"
"""


def problem_in_fresh_process(uri: str, prompt: str) -> str | None:
    """Load the model in another interpreter and generate; returns why that does not work, None where it does."""
    return_freed_memory()  # which the other process needs
    command = [sys.executable, "-c", FRESH_PROCESS, uri, prompt]
    with tempfile.TemporaryDirectory() as scratch:  # MLflow never removes what it fetches there from S3 or its server
        environment = {**os.environ, "TMPDIR": scratch}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=scratch)
    if not done.returncode:
        return None
    return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
