"""What workers of a search are told by their environment: the address of its storage, and when its time is up. Imports no
optuna.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from experiments.store.mlflow import without_login

STORAGE = "MOCO_SEARCH_STORAGE"  # a database's address; without it and --storage, a journal file beside the runs
UNTIL = "MOCO_SEARCH_UNTIL"  # seconds since 1970: no trial begins after that (--max-hours)
JOURNAL = "journal"
SQLITE_ON_NODES = (
    "a SQLite file is no storage for several nodes: its locks do not hold on shared disks, and it breaks; leave --storage out "
    "for a journal file, or name a PostgreSQL server"
)


def address_of(option: str | None, *, nodes: bool) -> str | None:
    """The address from --storage or the environment; None is a journal file. `nodes`: several machines will use it."""
    address = option or os.environ.get(STORAGE) or None
    check_address(address, nodes=nodes)
    return address


def named(address: str | None) -> str:
    """The address without user and password, for messages and the record."""
    return JOURNAL if address is None else without_login(address)


def check_address(address: str | None, *, nodes: bool) -> None:
    """Raises ValueError for an address of another kind, and for a SQLite file that several machines would use."""
    if address is None:
        return
    kind = urlsplit(address).scheme.partition("+")[0]
    if kind == "sqlite" and nodes:
        raise ValueError(f"--storage {without_login(address)}: {SQLITE_ON_NODES}")
    if kind not in ("sqlite", "postgresql"):
        raise ValueError(
            f"--storage {without_login(address)}: must be postgresql://USER@HOST/DATABASE or sqlite:///FILE; "
            "without it a journal file"
        )


def environment(address: str | None, hours: float | None) -> dict[str, str]:
    """For the workers of a search that begins now."""
    storage = {} if address is None else {STORAGE: address}
    return storage if hours is None else {**storage, UNTIL: repr(time.time() + 3600 * hours)}


def time_is_up(given: Mapping[str, str] = os.environ) -> bool:
    """Whether no further trial may begin."""
    return UNTIL in given and time.time() >= float(given[UNTIL])
