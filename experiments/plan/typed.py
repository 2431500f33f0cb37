"""The numbers of arms as `--set` reads them: 1 in a field of numbers is 1.0, and -0.0 is 0.0.

typed               a config with such numbers
with_known_runs     a plan that keeps the identities of runs which were trained with the numbers as they were written
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

from moco.config.kinds import alternatives, type_hints

Group = TypeVar("Group")


def typed(group: Group) -> Group:
    """A config, or a group of it, whose fields of numbers have 1.0 for 1 and 0.0 for -0.0."""
    if not is_dataclass(group) or isinstance(group, type):
        return group
    hints = type_hints(type(group))
    values = {f.name: getattr(group, f.name) for f in fields(group)}
    changed = {name: new for name, value in values.items() if not _same(new := _typed(hints[name], value), value)}
    made: Group = replace(group, **changed) if changed else group
    return made


def _typed(annotation: Any, value: Any) -> Any:
    if is_dataclass(value):
        return typed(value)
    kinds = [kind for kind in alternatives(annotation) if kind is not NoneType]
    if isinstance(value, tuple):
        inner = get_args(next((kind for kind in kinds if get_origin(kind) is tuple), None))
        of_each = inner[:1] * len(value) if Ellipsis in inner else inner
        return tuple(_typed(kind, one) for kind, one in zip(of_each, value, strict=False)) if of_each else value
    if float in kinds and type(value) in (int, float):
        return float(value) + 0.0  # -0.0 + 0.0 is 0.0
    return value


def _same(new: Any, old: Any) -> bool:
    return repr(new) == repr(old)
