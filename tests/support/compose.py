"""Services of docker-compose.yaml as processes of this machine: their own commands, environments and health checks."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[2] / "docker-compose.yaml"
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
PROGRAMS = {
    "python": [sys.executable],
    "prefect": [sys.executable, "-m", "prefect"],
    "mlflow": [sys.executable, "-m", "mlflow"],
    "gpt2flow": [sys.executable, "-m", "flows.cli"],
}


class Compose:
    """The file with its variables filled in from `given`; `places` says what stands for the names inside containers."""

    def __init__(self, given: Mapping[str, str], places: Mapping[str, str]) -> None:
        self._places = places
        self._content: dict[str, Any] = self._filled(yaml.safe_load(FILE.read_text()), given)

    def environment(self, service: str) -> dict[str, str]:
        """All that the service finds: nothing of the test's own but where programs lie."""
        plain = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
        return {**plain, **self._content["services"][service]["environment"]}

    def start(self, service: str, folder: Path, **environment: str) -> "subprocess.Popen[bytes]":
        """The service as a process."""
        program, *arguments = self._content["services"][service]["command"]
        with (folder / f"{service}.log").open("wb") as log:
            return subprocess.Popen(
                [*PROGRAMS[program], *arguments], env={**self.environment(service), **environment}, stdout=log, stderr=log
            )

    def is_healthy(self, service: str) -> bool:
        """What its health check says."""
        kind, program, *arguments = self._content["services"][service]["healthcheck"]["test"]
        assert kind == "CMD"
        command = [*PROGRAMS[program], *arguments]
        return subprocess.run(command, env=self.environment(service), capture_output=True, check=False).returncode == 0

    def config(self, name: str) -> str:
        """Content of a file that the services find."""
        return str(self._content["configs"][name]["content"])

    def _filled(self, part: Any, given: Mapping[str, str]) -> Any:
        if isinstance(part, dict):
            return {key: self._filled(value, given) for key, value in part.items()}
        if isinstance(part, list):
            return [self._filled(value, given) for value in part]
        if not isinstance(part, str):
            return part
        text = VARIABLE.sub(lambda found: given.get(found[1]) or (found[3] if found[2] == "-" else ""), part)
        for pattern, replacement in self._places.items():
            text = re.sub(pattern, replacement, text)
        return text
