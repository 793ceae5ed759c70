"""What the environment names outside of the workspace is looked at before anything is done with it."""

from pathlib import Path

import pytest

from configs.errors import UserError
from tasks.workspace.databases import databases_elsewhere, prepare_databases
from tasks.workspace.elsewhere import artifact_location, require_answer, require_sound_settings
from tasks.workspace.folders import Workspace

PREFECT = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
SECRET = "s3cret-word"


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", PREFECT, "MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"MLFLOW_TRACKING_URI": f"http://ann:{SECRET}@host:5000"}, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ({"PREFECT_API_URL": f"http://ann:{SECRET}@host:4200/api"}, "set PREFECT_API_AUTH_STRING, as USER:PASSWORD instead"),
        ({PREFECT: f"postgresql://ann:{SECRET}@db/prefect"}, r"must begin with postgresql\+asyncpg://"),
        ({"MLFLOW_TRACKING_URI": f"postgresql+asyncpg://ann:{SECRET}@db/mlflow"}, "must begin with postgresql://"),
        ({"MLFLOW_TRACKING_URI": f"postgresql+psycopg://ann:{SECRET}@db/mlflow"}, r"psycopg.*pip install 'gpt2flow\[team\]'"),
        (
            {PREFECT: f"postgresql+asyncpg://a:{SECRET}@db/one", "MLFLOW_TRACKING_URI": f"postgresql://b:{SECRET}@db:5432/one"},
            r"have the same database, postgresql://b:\*\*\*@db:5432/one, .*: make one for each",
        ),
        (
            {PREFECT: f"postgresql+asyncpg://a:{SECRET}@db:port/one", "MLFLOW_TRACKING_URI": f"postgresql://b:{SECRET}@db/two"},
            r"postgresql\+asyncpg://a:\*\*\*@db:port/one is no address of a database",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence_without_the_password(
    settings: dict[str, str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence) as raised:
        require_sound_settings(Workspace(tmp_path))
    assert SECRET not in str(raised.value)


def test_a_team_s_settings_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    monkeypatch.setenv(PREFECT, "postgresql+asyncpg://a:b@db/prefect")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://a:b@db/mlflow")
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", "s3://bucket/mlflow/")
    require_sound_settings(workspace)
    assert databases_elsewhere(workspace) == ["prefect", "mlflow"]
    assert artifact_location(workspace, "a name/of one") == "s3://bucket/mlflow/a%20name%2Fof%20one"


def test_files_lie_in_the_workspace_unless_something_else_is_said(tmp_path: Path) -> None:
    assert artifact_location(Workspace(tmp_path), "demo") == (tmp_path / "mlflow" / "artifacts" / "demo").as_uri()


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFECT, f"postgresql+asyncpg://ann:{SECRET}@127.0.0.1:9/prefect")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    expected = r"postgresql\+asyncpg://ann:\*\*\*@127\.0\.0\.1:9/prefect cannot be used: nothing answers at 127\.0\.0\.1:9"
    with pytest.raises(UserError, match=expected):
        prepare_databases(Workspace(tmp_path).create())


def test_a_socket_of_this_machine_is_not_asked() -> None:
    require_answer("postgresql:///mlflow?host=/var/run/postgresql")
