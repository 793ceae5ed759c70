"""Real servers of a team on 127.0.0.1: PostgreSQL as Debian installs it, and one that speaks S3 and checks signatures."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psycopg2

PATIENCE = 120.0  # seconds
BUCKET = "gpt2flow-team"
REGION = "us-east-1"
POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
SETTING_UP = ("create_user", "create_access_key", "put_user_policy", "create_bucket")


@dataclass(frozen=True)
class PostgreSQL:
    """A running server with an empty database each for Prefect and MLflow, owned by roles of the same names."""

    port: int
    passwords: dict[str, str]
    programs: Path

    def address(self, name: str) -> str:
        """Of a database, without what stands before ://."""
        return f"://{name}:{self.passwords[name]}@127.0.0.1:{self.port}/{name}"

    def ask(self, name: str, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query in a database."""
        with closing(psycopg2.connect(f"postgresql{self.address(name)}")) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def dump(self, name: str) -> str:
        """All that a database holds, as text."""
        command = [self.programs / "pg_dump", "--inserts", "--dbname", f"postgresql://{name}@127.0.0.1:{self.port}/{name}"]
        environment = {**os.environ, "PGPASSWORD": self.passwords[name]}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class S3:
    """A running server with one bucket, and a key that it asks for."""

    endpoint: str
    key: str
    secret: str

    def client(self) -> Any:
        """boto3's client."""
        given = {"aws_access_key_id": self.key, "aws_secret_access_key": self.secret, "region_name": REGION}
        return boto3.client("s3", endpoint_url=self.endpoint, **given)

    def files(self, bucket: str = BUCKET) -> dict[str, bytes]:
        """All objects of a bucket."""
        client, found = self.client(), {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for each in page.get("Contents", []):
                found[each["Key"]] = client.get_object(Bucket=bucket, Key=each["Key"])["Body"].read()
        return found


def programs_of_postgresql() -> Path | None:
    """Where initdb lies; Debian keeps it off the path."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path())]
    return next((folder for folder in folders if (folder / "initdb").is_file()), None)


@contextmanager
def postgresql(passwords: dict[str, str]) -> Iterator[PostgreSQL]:
    """A server with a database and a role for each name in `passwords`, which asks for them; gone at the end."""
    programs = programs_of_postgresql()
    assert programs is not None, "PostgreSQL is not installed: make test-team installs it on Debian"
    folder = Path(tempfile.mkdtemp(prefix="gpt2flow-postgresql-", dir="/tmp"))  # pytest's own folders are closed to its user
    port, admin = _free_port(), folder / "password"
    admin.write_text("the admin's own")
    person = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
    if person:
        for path in (folder, admin):
            shutil.chown(path, "postgres", "postgres")
    data = folder / "data"
    made = ["--username", "admin", "--pwfile", admin, "--auth", "scram-sha-256", "--no-sync", "--encoding", "UTF8"]
    options = [
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "unix_socket_directories=",
        "-c",
        "fsync=off",
        "-c",
        "max_connections=200",
    ]
    with (folder / "log").open("wb") as log:
        subprocess.run([programs / "initdb", "-D", data, *made], stdout=log, stderr=log, check=True, **person)  # type: ignore[call-overload]
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", str(port), *options], stdout=log, stderr=log, **person
        )  # type: ignore[call-overload]
    try:
        _create_databases(port, passwords)
        yield PostgreSQL(port, passwords, programs)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)


def _create_databases(port: int, passwords: dict[str, str]) -> None:
    with closing(_connect(f"postgresql://admin:the%20admin's%20own@127.0.0.1:{port}/postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name, password in passwords.items():
                cursor.execute(f"CREATE ROLE {name} LOGIN PASSWORD %s", [password])
                cursor.execute(f"CREATE DATABASE {name} OWNER {name}")


def _connect(address: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return psycopg2.connect(address)
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@contextmanager
def s3() -> Iterator[S3]:
    """A server with a bucket; whoever does not sign with its key is refused."""
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(len(SETTING_UP))}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, env=environment, **quiet)  # type: ignore[call-overload]
    try:
        _wait_for(port)
        yield _set_up(endpoint)
    finally:
        server.terminate()
        server.wait()


def _set_up(endpoint: str) -> S3:
    anybody = {"aws_access_key_id": "first", "aws_secret_access_key": "first", "region_name": REGION, "endpoint_url": endpoint}
    users = boto3.client("iam", **anybody)  # type: ignore[call-overload]
    users.create_user(UserName="team")
    key = users.create_access_key(UserName="team")["AccessKey"]
    users.put_user_policy(UserName="team", PolicyName="all", PolicyDocument=POLICY)
    boto3.client("s3", **anybody).create_bucket(Bucket=BUCKET)  # type: ignore[call-overload]
    return S3(endpoint, key["AccessKeyId"], key["SecretAccessKey"])


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return int(found.getsockname()[1])
