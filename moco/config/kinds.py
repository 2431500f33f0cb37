"""Groups of a config that come in several kinds, and how a new kind is found: by being a subclass in a file of `moco/config`.

    @dataclass(frozen=True)
    class LastBatch(Negatives):
        goes_with = (Momentum,)

is all that `--set negatives=lastbatch`, sweeps, manifests and identities need. What it computes is registered in a file of
`moco`: a source of negatives with `@moco.negatives.source`, the step of a key encoder with `@moco.model.contrast`.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

_KINDS: dict[type, dict[str, type]] = {}  # group -> name that a user types -> class, in the order of definition


class Group:
    """Its direct subclasses are groups of a config, theirs are the kinds of that group: frozen dataclasses.

    `goes_with`: kinds of another group that a kind can be mixed with; it is enough if one of the two names the other.
    """

    goes_with: ClassVar[tuple[type[Group], ...]] = ()

    def __init_subclass__(cls) -> None:
        if Group in cls.__bases__:
            _KINDS[cls] = {}
            return
        name = cls.__name__.lower()
        for known in (_KINDS[group] for group in cls.__mro__ if group in _KINDS):
            if name in known and known[name].__module__ != cls.__module__:
                raise ValueError(
                    f"{cls.__module__}.{cls.__name__}: the kind {name} is in {known[name].__module__} already; "
                    "give one of them another name"
                )
            known[name] = cls


def fit(one: type[Group], other: type[Group]) -> bool:
    """May these two kinds be mixed?"""
    return issubclass(other, one.goes_with) or issubclass(one, other.goes_with)


@cache
def _import_all() -> None:
    package = import_module("moco.config")
    for module in sorted(module.name for module in iter_modules(package.__path__)):
        import_module(f"{package.__name__}.{module}")
    for cls in (cls for known in _KINDS.values() for cls in known.values()):
        if "__dataclass_params__" not in vars(cls):
            raise ValueError(
                f"{cls.__module__}.{cls.__name__}: has no fields yet; decorate it with @dataclass(frozen=True)"
            )


@cache
def type_hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def group_classes(annotation: Any) -> Mapping[str, type]:
    """The config classes a field may hold, by the name a user types (`sgd`, `adamw`); empty for a plain value."""
    if isinstance(annotation, type) and annotation in _KINDS:
        _import_all()
        return _KINDS[annotation]
    return _members(annotation)


@cache
def _members(annotation: Any) -> dict[str, type]:
    return {c.__name__.lower(): c for c in alternatives(annotation) if isinstance(c, type) and is_dataclass(c)}
