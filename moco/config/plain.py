"""A config as plain data, and the identity of a run: the same cell in two sweeps is trained once.

The identity hashes the *fully resolved* config, defaults included: a default that changes later cannot relabel an old
result. Cosmetic fields (paths, workers, log cadence, device) stay out.
"""

from __future__ import annotations

import hashlib
import json
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from moco.config import SCHEMA_VERSION, Config

Plain = dict[str, Any]


@cache
def type_hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


@cache
def group_classes(annotation: Any) -> dict[str, type]:
    """The config classes a field may hold, by the name a user types (`sgd`, `adamw`); empty for a plain value."""
    return {c.__name__.lower(): c for c in alternatives(annotation) if isinstance(c, type) and is_dataclass(c)}


def to_plain(value: Any, *, cosmetic: bool = True) -> Any:
    """Nested dicts and lists; a group that can be of several kinds names its own. `cosmetic=False` drops those fields."""
    if isinstance(value, str | int | float | None):  # most of them
        return value
    if is_dataclass(value) and not isinstance(value, type):
        out: Plain = {}
        for name, of_several_kinds in _layout(type(value), cosmetic):
            inner = getattr(value, name)
            out[name] = to_plain(inner, cosmetic=cosmetic)
            if of_several_kinds:
                out[name] = {"kind": type(inner).__name__.lower(), **out[name]}
        return out
    return [to_plain(v, cosmetic=cosmetic) for v in value] if isinstance(value, tuple | list) else value


@cache
def _layout(cls: type, cosmetic: bool) -> list[tuple[str, bool]]:
    """Names of the fields, and whether each may hold groups of several kinds: a launch of thousands asks often."""
    hints = type_hints(cls)
    kept = (f for f in fields(cls) if cosmetic or not f.metadata.get("cosmetic"))
    return [(f.name, len(group_classes(hints[f.name])) > 1) for f in kept]


def _default(f: Field[Any]) -> Any:
    if f.default is not MISSING:
        return f.default
    raise ValueError(f"{f.name}: missing, and it has no default")


def from_plain(cls: type, plain: Plain, path: str = "") -> Any:
    """The inverse of `to_plain`. Absent fields take today's default only if cosmetic; unknown fields are an error."""
    hints, known = type_hints(cls), {f.name: f for f in fields(cls)}
    unknown = sorted(set(plain) - set(known))
    if unknown:
        raise ValueError(f"{path or 'config'}: unknown field {', '.join(unknown)} (a run written by another version?)")
    values = {}
    for name, f in known.items():
        if name in plain:
            values[name] = _value(hints[name], plain[name], f"{path}{name}")
        elif f.metadata.get("cosmetic"):
            values[name] = _default(f)
        else:
            raise ValueError(f"{path}{name}: missing (a run written by another version?)")
    return cls(**values)


def _value(annotation: Any, plain: Any, path: str) -> Any:
    groups = group_classes(annotation)
    if groups:
        kind = plain.get("kind") if len(groups) > 1 else next(iter(groups))
        if kind not in groups:
            raise ValueError(f"{path}: kind {kind!r} is not one of {', '.join(groups)}")
        return from_plain(groups[kind], {k: v for k, v in plain.items() if k != "kind" or len(groups) == 1}, f"{path}.")
    return tuple(_value(None, v, path) for v in plain) if isinstance(plain, list) else plain


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
        {"schema": SCHEMA_VERSION, **to_plain(config, cosmetic=False)}, sort_keys=True, separators=(",", ":")
    )


def run_id(config: Config) -> str:
    """16 hexadecimal digits of the sha256 of the canonical config, seed included."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()[:16]


def literal_choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()
