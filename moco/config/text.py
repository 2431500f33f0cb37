"""Values of config fields from text, by the field's annotation: what `--set` reads, and what sweep code may write as text.

parse           `0.03`, `64k`, `true`, `(0.2, 1)`, one of a field's choices, none
typed_values    a class decorator: numpy numbers, lists and text become what the field's annotation says
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from moco.config.kinds import alternatives, group_classes, type_hints

Class = TypeVar("Class", bound=type)
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def parse(path: str, annotation: Any, text: str) -> Any:
    """`text` as a value of the annotation. Raises ValueError that names both."""
    options = alternatives(annotation)
    if NoneType in options and text.lower() in ("none", "null"):
        return None
    (kind,) = (o for o in options if o is not NoneType)
    if get_origin(kind) is Literal:
        return _choice(path, get_args(kind), text)
    if get_origin(kind) is tuple:
        return _tuple(path, get_args(kind), text)
    reader, wanted = _SCALARS[kind]
    try:
        return reader(text)
    except ValueError:
        raise ValueError(f"{path}={text}: must be {wanted}") from None


def _choice(path: str, choices: tuple[Any, ...], text: str) -> Any:
    for choice in choices:
        if str(choice) == text:
            return choice
    near = get_close_matches(text, [str(c) for c in choices], n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"{path}={text}: must be one of {', '.join(map(str, choices))}{meant}")


def _tuple(path: str, kinds: tuple[Any, ...], text: str) -> tuple[Any, ...]:
    bare = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
    parts = [part.strip() for part in bare.split(",") if part.strip()]
    return tuple(parse(path, kind, part) for kind, part in _each(path, kinds, parts, text))


def _each(path: str, kinds: tuple[Any, ...], parts: list[Any], shown: object) -> list[tuple[Any, Any]]:
    """(annotation, part) of each entry of a tuple. Raises ValueError for another number of them than it has."""
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return [(kinds[0], part) for part in parts]
    if len(parts) != len(kinds):
        example = ",".join("0" for _ in kinds)
        raise ValueError(f"{path}={shown}: must be {len(kinds)} values separated by commas, as {example}")
    return list(zip(kinds, parts, strict=True))


def _bool(text: str) -> bool:
    if text.lower() not in YES + NO:
        raise ValueError
    return text.lower() in YES


def _int(text: str) -> int:
    match = re.fullmatch(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+(?:_\d+)*)(k?)", text, re.IGNORECASE)
    if match is None:
        return _whole(float(text))
    sign, digits, thousand = match.groups()
    value = int(digits.replace(",", "").replace("_", "")) * (1024 if thousand else 1)
    return -value if sign == "-" else value


def _whole(value: float) -> int:
    """1e4 is a whole number; 1.5, nan and inf are not."""
    if value != value or value in (float("inf"), float("-inf")) or value != int(value):
        raise ValueError
    return int(value)


def _float(text: str) -> float:
    value = float(text)
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError
    return value


_SCALARS: dict[Any, tuple[Callable[[str], Any], str]] = {
    bool: (_bool, "true or false (also yes/no, on/off, 1/0)"),
    int: (_int, "a whole number, such as 1024, 65_536 or 64k"),
    float: (_float, "a number, such as 0.03 or 3e-2"),
    str: (str, "text"),
}


def typed_values(cls: Class) -> Class:
    """Decorator for a config's dataclass, below `@dataclass`: its values are converted as `--set` converts text, then checked.

    A number of numpy or torch, a list and text become a number, a tuple, a choice; a whole number in a field of numbers
    stays one. Raises ValueError, one line with the field and what it may be, for anything else.
    """
    checks: Callable[[Any], None] | None = vars(cls).get("__post_init__")

    def __post_init__(self: Any) -> None:
        kind: Any = type(self)
        for name, annotation in _plain_fields(kind).items():
            value = getattr(self, name)
            if not _is_plain(annotation, value):
                object.__setattr__(self, name, value_of(f"{cls.__name__.lower()}.{name}", annotation, value))
        if checks is not None:
            checks(self)

    setattr(cls, "__post_init__", __post_init__)  # noqa: B010  mypy takes a plain assignment for an error
    return cls


@cache
def _plain_fields(cls: Any) -> dict[str, Any]:
    """Name -> annotation of the fields that hold values, not groups."""
    hints = type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls) if not group_classes(hints[f.name])}


def _is_plain(annotation: Any, value: Any) -> bool:
    """Whether a value is of the annotation's own type already, so that nothing is to be read."""
    types, each, choices = _accepted(annotation)
    kind = type(value)
    if kind is tuple:
        return tuple in types and all(type(one) in each for one in value)
    return kind in types or ((kind, value) in choices if kind in (str, int, bool) else False)


@cache
def _accepted(annotation: Any) -> tuple[frozenset[type], frozenset[type], frozenset[tuple[type, Any]]]:
    """The types of a value, those of the entries of a tuple, and the choices of a literal."""
    types: set[type] = set()
    each: set[type] = set()
    choices: set[tuple[type, Any]] = set()
    for kind in alternatives(annotation):
        if get_origin(kind) is Literal:
            choices |= {(type(choice), choice) for choice in get_args(kind)}
        elif get_origin(kind) is tuple:
            types.add(tuple)
            each = each.union(*(_accepted(one)[0] for one in get_args(kind) if one is not Ellipsis))
        else:
            types |= {float, int} if kind is float else {kind}
    return frozenset(types), frozenset(each), frozenset(choices)


def value_of(path: str, annotation: Any, value: Any) -> Any:
    """A value that code has given, as the annotation's type. Raises ValueError as `parse`."""
    if _is_plain(annotation, value):
        return value
    kinds = next((get_args(kind) for kind in alternatives(annotation) if get_origin(kind) is tuple), None)
    if kinds is not None and not isinstance(value, str) and hasattr(value, "__iter__") and hasattr(value, "__len__"):
        return tuple(value_of(path, kind, one) for kind, one in _each(path, kinds, list(value), value))
    try:
        return parse(path, annotation, str(value))  # the shortest text of a number: 0.1 of numpy's float32(0.1)
    except ValueError:
        if isinstance(value, Fraction):
            return parse(path, annotation, repr(float(value)))
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            return parse(path, annotation, repr(value.item()))  # a tensor
        raise
