"""A database for MLflow's records.

    Store       its address, and the password apart from it
    prepare     makes MLflow's tables in an empty database; updates an older schema only on request

The password reaches the database's own library by the environment (PGPASSWORD), so that no command line, log or MLflow
message can show it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from experiments.store.files import exclusive

PASSWORD = "PGPASSWORD"
DRIVER = "postgresql+psycopg"  # named: which one plain `postgresql` means depends on the version of SQLAlchemy
MAKING_TABLES = 0x6D6F636F  # the number of our advisory lock in PostgreSQL: "moco"
FORMS = "postgresql://USER@HOST/DATABASE or sqlite:///FILE"


@dataclass(frozen=True)
class Store:
    """A database. Neither `uri`, for SQLAlchemy, nor `shown`, for messages, has the password."""

    uri: str
    shown: str
    password: str | None = None

    @classmethod
    def parse(cls, text: str) -> Store:
        """Raises ValueError for another kind of address; the message does not quote a password."""
        parts = urlsplit(text)
        kind = parts.scheme.partition("+")[0]
        if kind == "sqlite" and text.startswith("sqlite:///") and len(text) > len("sqlite:///"):
            whole = f"sqlite:///{Path(text.removeprefix('sqlite:///')).absolute()}"
            return cls(whole, whole)
        if kind not in ("postgresql", "postgres") or not parts.path.strip("/"):
            raise ValueError(f"--store {_without_login(text)}: must be {FORMS}")
        login, at, place = parts.netloc.rpartition("@")
        user, colon, password = login.partition(":")
        query = parse_qsl(parts.query)
        passwords = [value for key, value in query if key == "password"]
        rest = urlencode([(key, value) for key, value in query if key != "password"], safe="/", quote_via=quote)
        clean = f"{user}{at}{place}{parts.path}" + (f"?{rest}" if rest else "")
        secret = unquote(password) if colon else next(iter(passwords), None)
        return cls(f"{DRIVER}://{clean}", f"postgresql://{clean}", secret)

    @property
    def is_sqlite(self) -> bool:
        return self.uri.startswith("sqlite:")


def _without_login(text: str) -> str:
    head, at, tail = text.rpartition("@")
    return f"{head.partition('://')[0]}://{tail}" if at else text


def keep_password_aside(store: Store) -> None:
    """Put the password into the environment, for libpq here and in the processes that we start."""
    if store.password is not None:
        os.environ[PASSWORD] = store.password


def prepare(uri: str, *, migrate: bool) -> None:
    """Make MLflow's tables in an empty database; with `migrate`, bring an older schema up to date.

    Safe to call from several processes at a time. Raises ValueError, in one line, for a database that cannot be
    reached, holds something else, or has another schema.
    """
    import mlflow.store.db_migrations
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from mlflow.db import upgrade
    from sqlalchemy import inspect

    where = _without_login(uri).replace(DRIVER, "postgresql")
    with _engine(uri) as engine, _alone(engine, uri):
        migrations = ScriptDirectory(str(Path(mlflow.store.db_migrations.__file__).parent))
        newest = migrations.get_current_head()
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            tables = [name for name in inspect(connection).get_table_names() if not name.startswith("alembic_")]
        if current == newest:
            return
        if current is None and tables:
            raise ValueError(f"{where}: holds tables that are not MLflow's; name an empty database")
        if current is not None and current not in {each.revision for each in migrations.walk_revisions()}:
            raise ValueError(f"{where}: its tables are of a newer MLflow (schema {current}); update mlflow here")
        if current is not None and not migrate:
            raise ValueError(
                f"{where}: its tables are of an older MLflow (schema {current}, this one needs {newest}); "
                "back the database up, then: python -m experiments serve --store ... --migrate"
            )
        upgrade.main([uri], standalone_mode=False)  # `mlflow db upgrade`


@contextmanager
def _engine(uri: str) -> Iterator[Any]:
    from sqlalchemy import create_engine

    try:
        if uri.startswith("sqlite:"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(uri)
        with engine.connect():
            pass
    except ModuleNotFoundError as error:
        raise ValueError(f"the driver for PostgreSQL is missing ({error.name}): pip install '.[postgres]'") from None
    except Exception as error:  # the driver's own
        raise ValueError(f"{_without_login(uri).replace(DRIVER, 'postgresql')}: {_first_line(error)}") from None
    try:
        yield engine
    finally:
        engine.dispose()


def _first_line(error: Exception) -> str:
    cause = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return cause.splitlines()[0]


@contextmanager
def _alone(engine: Any, uri: str) -> Iterator[None]:
    """Hold a lock: two processes that migrate a fresh database at the same time destroy it.

    PostgreSQL's own advisory lock, or a file beside SQLite's.
    """
    if uri.startswith("sqlite:"):
        file = Path(engine.url.database)
        with exclusive(file.with_name(f"{file.name}.lock")):
            yield
        return
    with engine.connect() as connection:
        connection.exec_driver_sql(f"select pg_advisory_lock({MAKING_TABLES})")
        try:
            yield
        finally:
            connection.exec_driver_sql(f"select pg_advisory_unlock({MAKING_TABLES})")
