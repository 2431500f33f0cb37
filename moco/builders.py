"""What builds a kind of a config's part: registered where it is written, found in any file of `moco`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

import moco
from moco.config.kinds import Group

B = TypeVar("B")


@cache
def _import_all() -> None:
    for module in sorted(module.name for module in iter_modules(moco.__path__) if not module.ispkg):
        import_module(f"{moco.__name__}.{module}")


def builder(known: Mapping[type[Group], B], part: Group, decorator: str) -> B:
    """That of the part's own kind. Files that nothing has imported yet are looked through for it."""
    if type(part) not in known:
        _import_all()
    if type(part) not in known:
        name = type(part).__name__
        raise ValueError(
            f"{name.lower()}: no file of moco builds it; decorate its class or function with {decorator}({name})"
        )
    return known[type(part)]
