"""A config as plain data, and the identity of a run: the same cell in two sweeps is trained once.

The identity hashes the *fully resolved* config, defaults included: a default that changes later cannot relabel an old
result. Cosmetic fields (paths, workers, log cadence, device) stay out, and so do fields added later (`moco.config.fields`)
as long as they have the value that means what was computed before them.
"""

from __future__ import annotations

import hashlib
import json
import math
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from moco.config import SCHEMA_VERSION, Config
from moco.config.kinds import alternatives, group_classes, type_hints

Plain = dict[str, Any]


def to_plain(value: Any, *, cosmetic: bool = True, identity: bool = False) -> Any:
    """Nested dicts and lists; a group that can be of several kinds names its own. `cosmetic=False` drops those fields.

    `identity`: what an identity is made of. Drops cosmetic fields, and added ones that change nothing.
    """
    if isinstance(value, str | int | float | None):  # most of them
        return value
    if is_dataclass(value) and not isinstance(value, type):
        out: Plain = {}
        for name, of_several_kinds, before in _layout(type(value), cosmetic and not identity):
            inner = getattr(value, name)
            if identity and before is not MISSING and inner == before:
                continue
            out[name] = to_plain(inner, cosmetic=cosmetic, identity=identity)
            if of_several_kinds:
                out[name] = {"kind": type(inner).__name__.lower(), **out[name]}
        return out
    return list(map(to_plain, value)) if isinstance(value, tuple | list) else value


@cache
def _layout(cls: type, cosmetic: bool) -> list[tuple[str, bool, Any]]:
    """Names of the fields, whether each may hold groups of several kinds, and what it meant before it was added (MISSING
    if it was always there): a launch of thousands asks often."""
    hints = type_hints(cls)
    kept = (f for f in fields(cls) if cosmetic or not f.metadata.get("cosmetic"))
    return [(f.name, len(group_classes(hints[f.name])) > 1, f.metadata.get("before", MISSING)) for f in kept]


@cache
def _fields(cls: type) -> dict[str, Field[Any]]:
    return {f.name: f for f in fields(cls)}


def _default(f: Field[Any]) -> Any:
    if f.default is not MISSING:
        return f.default
    raise ValueError(f"{f.name}: missing, and it has no default")


def from_plain(cls: type, plain: Any, path: str = "") -> Any:
    """The inverse of `to_plain`. An absent field takes today's default if it is cosmetic, and if it was added later the
    value that means what was computed before it.

    Values stay as they are written, 1 for 1.0 too: identities are of texts. Raises ValueError, one line with the field, its
    value and what it may be, for an unknown field, an absent one and a value of another type.
    """
    if not isinstance(plain, dict):
        raise ValueError(
            f"{path.rstrip('.') or 'config'} = {shown(plain)}: must be a group of fields, an object in JSON"
        )
    hints, known = type_hints(cls), _fields(cls)
    if unknown := sorted(plain.keys() - known.keys(), key=str):
        name = unknown[0]
        raise ValueError(
            f"{path}{name} = {shown(plain[name])}: unknown field, {cls.__name__.lower()} has "
            f"{', '.join(known) or 'none'} (a run written by another version?)"
        )
    values = {}
    for name, f in known.items():
        if name in plain:
            values[name] = _value(hints[name], plain[name], f"{path}{name}")
        elif f.metadata.get("cosmetic"):
            values[name] = _default(f)
        elif "before" in f.metadata:
            values[name] = f.metadata["before"]
        else:
            raise ValueError(f"{path}{name}: missing (a run written by another version?)")
    return cls(**values)


def _value(annotation: Any, plain: Any, path: str) -> Any:
    groups = group_classes(annotation)
    if not groups:
        if not _check(annotation)(plain):
            raise ValueError(f"{path} = {shown(plain)}: must be {allowed(annotation)}")
        return tuple(plain) if isinstance(plain, list) else plain
    if len(groups) == 1 or not isinstance(plain, dict):
        return from_plain(next(iter(groups.values())), plain, f"{path}.")
    kind = plain.get("kind")
    if not isinstance(kind, str) or kind not in groups:
        raise ValueError(f"{path}.kind = {shown(kind)}: must be one of {', '.join(groups)}")
    return from_plain(groups[kind], {k: v for k, v in plain.items() if k != "kind"}, f"{path}.")


@cache
def _check(annotation: Any) -> Callable[[Any], bool]:
    """Is it what JSON has for a value of this type? A whole number is a number; true is none. Made once for each type."""
    checks = [_check_of_one(kind) for kind in alternatives(annotation)]
    return checks[0] if len(checks) == 1 else lambda plain: any(check(plain) for check in checks)


def _check_of_one(kind: Any) -> Callable[[Any], bool]:
    if get_origin(kind) is Literal:
        choices = [(type(choice), choice) for choice in get_args(kind)]
        return lambda plain: (type(plain), plain) in choices
    if get_origin(kind) is tuple:
        first, *rest = map(_check, (each for each in get_args(kind) if each is not Ellipsis))
        if Ellipsis in get_args(kind):
            return lambda plain: isinstance(plain, list | tuple) and all(map(first, plain))
        return lambda plain: (
            isinstance(plain, list | tuple)
            and len(plain) == 1 + len(rest)
            and all(check(v) for check, v in zip((first, *rest), plain, strict=True))
        )
    if kind is float:
        return lambda plain: type(plain) is int or (type(plain) is float and math.isfinite(plain))
    return lambda plain: type(plain) is kind


_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", types.NoneType: "null"}


def allowed(annotation: Any) -> str:
    """`a finite number or null`: what a field may be, as JSON has it."""
    return " or ".join(map(_words, alternatives(annotation)))


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(shown, get_args(kind)))}"
    if get_origin(kind) is tuple:
        each = get_args(kind)
        one = _WORDS[each[0]]
        return f"a list, each {one}" if Ellipsis in each else f"a list of {len(each)}, each {one}"
    return _WORDS[kind]


def shown(value: Any) -> str:
    """In one line, as JSON has it."""
    return json.dumps(value, default=str)


def flatten(config: Any, *, cosmetic: bool = True) -> dict[str, Any]:
    """`{"optim.lr": 0.03, ...}`, tuples kept as lists."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    walk("", to_plain(config, cosmetic=cosmetic))
    return flat


def canonical_json(config: Config) -> str:
    """One text for one meaning: sorted keys, shortest exact floats, no cosmetic fields."""
    return json.dumps(
        {"schema": SCHEMA_VERSION, **to_plain(config, identity=True)}, sort_keys=True, separators=(",", ":")
    )


def run_id(config: Config) -> str:
    """16 hexadecimal digits of the sha256 of the canonical config, seed included."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()[:16]
