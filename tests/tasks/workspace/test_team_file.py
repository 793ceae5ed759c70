"""team.env: what it says holds for every command, what the environment says goes before, and nobody else may read it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import UserError
from tasks.workspace.contents import is_passing
from tasks.workspace.team_file import NAME, read_team_file

SHOW = "import os, tasks; print(*(os.environ[name] for name in ('MLFLOW_TRACKING_URI', 'PREFECT_API_AUTH_STRING')), sep='\\n')"


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / NAME
    file.write_text(text)
    file.chmod(mode)
    return file


def test_names_and_values_are_read_as_they_are(tmp_path: Path) -> None:
    assert read_team_file(tmp_path) == {}
    write(tmp_path, "# of the team\nexport A=1\n\nB='a b#$A'\nC=\"x\"\nD=\n")
    assert read_team_file(tmp_path) == {"A": "1", "B": "a b#$A", "C": "x", "D": ""}


def test_a_line_that_is_none_is_named_and_its_value_is_not(tmp_path: Path) -> None:
    write(tmp_path, "A=1\nthe-secret\n")
    with pytest.raises(UserError, match=r"team\.env, line 2 is not NAME=value") as raised:
        read_team_file(tmp_path)
    assert "the-secret" not in str(raised.value)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    write(tmp_path, "A=1\n", mode)
    with pytest.raises(UserError, match=r"chmod 600 .*team\.env"):
        read_team_file(tmp_path)


def test_what_the_environment_says_goes_before_it(tmp_path: Path) -> None:
    write(tmp_path, "MLFLOW_TRACKING_URI=http://file:5000\nPREFECT_SERVER_API_AUTH_STRING=ann:word\n")
    base = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_"))}

    def shows(**named: str) -> list[str]:
        environment = {**base, "GPT2FLOW_HOME": str(tmp_path), **named}
        done = subprocess.run([sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert shows() == ["http://file:5000", "ann:word"]
    assert shows(MLFLOW_TRACKING_URI="http://given:5000") == ["http://given:5000", "ann:word"]


def test_no_backup_holds_it() -> None:
    assert is_passing(NAME)
