"""One question a file. `python -m sweeps` lists them."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments import Search, Sweep


def questions() -> dict[str, Sweep | Search]:
    """The `Sweep` or `Search` of each file, by the file's name, which is the name of the question too."""
    from experiments import Search, Sweep

    found: dict[str, Sweep | Search] = {}
    for name in sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_")):
        for value in vars(import_module(f"{__name__}.{name}")).values():
            if isinstance(value, Sweep | Search):
                found[name] = value
    return found
