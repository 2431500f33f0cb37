"""Which storage a search is to use, and what is wrong with its address before anybody connects. Imports no optuna."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from experiments.store.mlflow import without_login

# The address of a database; without it, and without --storage, a journal beside the runs.
STORAGE = "MOCO_SEARCH_STORAGE"
JOURNAL = "journal"
SQLITE_ON_NODES = (
    "a SQLite file is no storage for several nodes: its locks do not hold on shared disks, and it breaks; leave --storage out "
    "for a journal file, or name a PostgreSQL server"
)


def address_of(option: str | None, *, nodes: bool) -> str | None:
    """What --storage or the environment say; None is a journal. `nodes`: jobs on several machines will use it."""
    address = option or os.environ.get(STORAGE) or None
    check_address(address, nodes=nodes)
    return address


def named(address: str | None) -> str:
    """Fit to be printed and kept: without user and password."""
    return JOURNAL if address is None else without_login(address)


def check_address(address: str | None, *, nodes: bool) -> None:
    """Raises ValueError for an address that can be known to be wrong. `nodes`: jobs on several machines will use it."""
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
