"""Checks the types of records when JSON is read, so that a damaged file gives the same error wherever it is read.

The types are those of the TypedDicts in `experiments.store.schema`. Unknown fields pass, since a newer program may have
written them; null is allowed for a field that may be left out. Not by pydantic: importing it costs a quarter of a second of
processor time, as much as the whole `--dry-run` of a sweep, which reads these files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from experiments.store.files import Damaged, read_json
from experiments.store.schema import STORE_VERSION

Record = TypeVar("Record")
Check = Callable[[Any], bool]


def checked(kind: type[Record], value: Any, source: object) -> Record:
    """`value` as a record of that kind. Raises Damaged, which names the source and the first field that is wrong."""
    if (wrong := problem(kind, value)) is not None:
        raise Damaged(source, wrong)
    record: Record = value
    return record


def read_record(kind: type[Record], path: Path) -> Record | None:
    """None if the file is not there. Raises Damaged, and ValueError for one that a newer version has written."""
    value = read_json(path)
    if value is None and not path.exists():
        return None
    version = value.get("store_version") if isinstance(value, dict) else None
    if isinstance(version, int) and version > STORE_VERSION:
        raise ValueError(f"{path}: store version {version} is newer than this program's {STORE_VERSION}; update it")
    return checked(kind, value, path)


def problem(kind: type, value: Any) -> str | None:
    """Why the value is not a record of that kind, in words; None if it is one."""
    if _check(kind)(value):
        return None
    if not isinstance(value, dict):
        return "not a JSON object"
    absent = sorted(_required(kind) - set(value))
    if absent:
        return f"without {', '.join(absent)}"
    field = next(name for name, check in _fields(kind).items() if name in value and not check(value[name]))
    wanted = get_type_hints(kind)[field]
    text, plain = repr(value[field]), isinstance(wanted, type) and not get_args(wanted)
    return f"{field} is {text if len(text) < 60 else f'{text[:57]}...'}, must be {wanted.__name__ if plain else wanted}"


@cache
def _check(hint: Any) -> Check:
    """The test whether a JSON value has that type. An int counts as a float, a bool does not count as an int."""
    if hint is Any:
        return lambda value: True
    if is_typeddict(hint):
        required, fields = _required(hint), _fields(hint)
        return lambda value: isinstance(value, dict) and required <= value.keys() and _fit(value, fields)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        choices = tuple(_check(choice) for choice in inner)
        return lambda value: any(check(value) for check in choices)
    if origin is list:
        of_item = _check(inner[0])
        return lambda value: isinstance(value, list) and all(map(of_item, value))
    if origin is dict:
        of_value = _check(inner[1])
        return lambda value: isinstance(value, dict) and all(map(of_value, value.values()))
    if hint is float:
        return lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    return lambda value: isinstance(value, hint)


def _fit(value: dict[str, Any], fields: Mapping[str, Check]) -> bool:
    return all(name not in fields or fields[name](found) for name, found in value.items())


@cache
def _required(kind: type) -> frozenset[str]:
    required: frozenset[str] = getattr(kind, "__required_keys__")  # noqa: B009  mypy knows it of single kinds only
    return required


@cache
def _fields(kind: type) -> dict[str, Check]:
    hints, required = get_type_hints(kind), _required(kind)
    return {name: _check(hint if name in required else hint | None) for name, hint in hints.items()}
