"""What `serve` refuses, what it does to a database, and whom it lets in: a real server on a real PostgreSQL."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from experiments.store.mlflow import QUIET
from experiments.tracking.database import Store, prepare
from experiments.tracking.serve import AUTH_FILE, Team, _authentication
from tests.support.postgres_server import PASSWORD, Postgres, postgres
from tests.support.tracking_team import free_port, serving, told_until

# mlflow's own use of an older SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
ADMIN_PASSWORD = "a long enough password"
TYPED = "typ3d%/p@ss"  # on a command line, where the others must never stand


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


def test_with_authentication_others_may_come_and_the_wrong_password_may_not(database: Postgres, tmp_path: Path) -> None:
    port = free_port()
    arguments = ["--store", database.address("guarded"), "--host", "0.0.0.0", "--auth", "--name", "mlflow.lab"]
    database.uri("guarded")
    with serving(tmp_path, port, *arguments, PGPASSWORD=PASSWORD, MLFLOW_AUTH_ADMIN_PASSWORD=ADMIN_PASSWORD) as process:
        told = told_until(process, "Ctrl-C")
        address = f"http://127.0.0.1:{port}"
        assert f"MLflow is at http://mlflow.lab:{port}" in told
        assert asked(address, None) == 401
        assert asked(address, "admin:password1234") == 401
        assert asked(address, f"admin:{ADMIN_PASSWORD}") == 200
        assert (
            asked(address, f"admin:{ADMIN_PASSWORD}", host=f"mlflow.lab:{port}", origin=f"http://mlflow.lab:{port}")
            == 200
        )
        assert asked(address, f"admin:{ADMIN_PASSWORD}", host="elsewhere.example") == 403
        assert asked(address, f"admin:{ADMIN_PASSWORD}", origin="http://elsewhere.example") == 403
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    secrets = (PASSWORD, quote(PASSWORD, safe=""), ADMIN_PASSWORD)
    assert [f for f in files for secret in secrets if secret.encode() in f.read_bytes()] == []


def asked(address: str, login: str | None, host: str | None = None, origin: str | None = None) -> int:
    """The status of a search for experiments, as the UI asks."""
    headers = {"Content-Type": "application/json"}
    if login is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    headers |= {"Host": host} if host else {}
    headers |= {"Origin": origin} if origin else {}
    url = f"{address}/ajax-api/2.0/mlflow/experiments/search"
    try:
        with urlopen(Request(url, json.dumps({"max_results": 5}).encode(), headers), timeout=20) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def refused(folder: Path, *arguments: str, **environment: str) -> str:
    """The one line that `serve` ends with, and that it said nothing else of it."""
    command = [sys.executable, "-m", "experiments", "serve", "--port", str(free_port()), *arguments]
    env = {**os.environ, "MOCO_RUNS": str(folder), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in (PASSWORD, TYPED))
    assert done.stderr.count("\n") == 1
    return done.stderr.strip()


def test_an_older_schema_is_migrated_on_request_only_and_a_foreign_or_newer_one_never(
    database: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    store = Store.parse(database.uri("old")).uri
    make_older(store)
    needs = r"of an older MLflow \(schema \w+, this one needs \w+\); back the database up, then: .*--migrate"
    with pytest.raises(ValueError, match=needs):
        prepare(store, migrate=False)
    prepare(store, migrate=True)
    prepare(store, migrate=False)
    with database.connection("old") as connection:
        connection.execute("update alembic_version set version_num = 'fffffffffff0'")
    for migrate in (False, True):
        with pytest.raises(ValueError, match=r"of a newer MLflow \(schema fffffffffff0\); update mlflow here"):
            prepare(store, migrate=migrate)

    database.uri("foreign")
    with database.connection("foreign") as connection:
        connection.execute("create table customers (id int)")
    with pytest.raises(ValueError, match="holds tables that are not MLflow's"):
        prepare(Store.parse(database.address("foreign")).uri, migrate=True)


def make_older(store: str) -> None:
    """MLflow's own tables, but for the last migration."""
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils as db

    engine = db.create_sqlalchemy_engine(store)
    db.InitialBase.metadata.create_all(engine)
    config = db._get_alembic_config("")
    head = ScriptDirectory.from_config(config).get_revision("head")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, str(head.down_revision))
    engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--store", "mysql://h/db"],
            "error: --store mysql://h/db: must be postgresql://USER@HOST/DATABASE or sqlite:///FILE",
        ),
        ([], "error: --store: which database? postgresql://USER@HOST/DATABASE or sqlite:///FILE"),
        (
            ["--store", f"postgresql://u:{quote(TYPED, safe='')}@127.0.0.1:1/db", "--host", "0.0.0.0"],
            "error: --host 0.0.0.0: others could read and delete every result without a password; add --auth, "
            "or use 127.0.0.1 and an ssh tunnel",
        ),
        (["--store", "sqlite:///x.db", "--port", "70000"], "error: --port 70000: must be 1 to 65535"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    assert refused(tmp_path / "runs", *arguments) == sentence
    assert not (tmp_path / "runs").exists()


def test_a_database_that_does_not_answer_is_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"^postgresql://127.0.0.1:1/db: connection failed: .*port 1 failed: .*"
    ) as error:
        prepare("postgresql+psycopg://u@127.0.0.1:1/db", migrate=False)
    assert "\n" not in str(error.value)


def test_files_of_authentication_are_for_their_owner_only(tmp_path: Path) -> None:
    """Oracle: the modes that the file system has, also of a file that an earlier version left open to all."""
    (tmp_path / AUTH_FILE).write_text("old")
    (tmp_path / AUTH_FILE).chmod(0o644)
    _authentication(tmp_path, Store.parse(f"sqlite:///{tmp_path / 'mlflow.db'}"), Team(auth=True))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {AUTH_FILE: 0o600, "mlflow.db.users": 0o600}
