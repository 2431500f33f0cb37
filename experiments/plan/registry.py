"""`@baseline` registers starting points: all decorated functions in files of `experiments/plan`.

    @baseline
    def mine() -> Config:
        '''What it is. Source, command, cost, the number to expect.'''

`baselines()` lists them, `baseline_config(name)` gives the config of one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

import experiments.plan
from experiments.store.named import nearest
from moco.config import Config

Baseline = Callable[[], Config]

_REGISTERED: dict[str, Baseline] = {}


def baseline(function: Baseline) -> Baseline:
    """Register a starting point under the function's name. Raises ValueError without a docstring, or for a second one."""
    name = function.__name__
    if not (function.__doc__ or "").strip():
        raise ValueError(f"baseline {name}: has no docstring; say its source, command, cost and the number to expect")
    known = _REGISTERED.get(name)
    if known and known.__module__ != function.__module__:
        raise ValueError(
            f"baseline {name}: is in {known.__module__} and in {function.__module__}; give one of them another name"
        )
    _REGISTERED[name] = function
    return function


@cache
def _import_all() -> None:
    for module in sorted(module.name for module in iter_modules(experiments.plan.__path__)):
        import_module(f"{experiments.plan.__name__}.{module}")


def baselines() -> dict[str, Baseline]:
    """Name -> function, in the order of the files' names and of the definitions in them."""
    _import_all()
    return _REGISTERED


def baseline_config(name: str) -> Config:
    """The config of that name. Raises ValueError that names what exists."""
    known = baselines()
    if name not in known:
        near = nearest(name, known)
        meant = f"; did you mean {near}?" if near else ""
        raise ValueError(f"baseline {name}: no such baseline, there are {', '.join(known)}{meant}")
    return known[name]()
