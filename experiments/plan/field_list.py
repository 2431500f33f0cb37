"""Every field of a config, with its type, default and meaning, as they stand in `moco/config`.

The meaning of a field is the comment on its line there; what a group means is its docstring.
"""

from __future__ import annotations

import ast
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from moco.config import Config
from moco.config.kinds import group_classes, type_hints
from moco.config.plain import allowed, shown


@dataclass(frozen=True)
class FieldFacts:
    """`path` as `--set` takes it. `default`: of the kind it belongs to, as JSON. `identity`: whether it is part of a run's."""

    path: str
    allowed: str
    default: str
    meaning: str
    identity: bool


@dataclass(frozen=True)
class GroupFacts:
    """`name` is `optim=sgd` for a group that comes in kinds, else `train`. `meaning`: its docstring, in one line."""

    name: str
    meaning: str
    fields: tuple[FieldFacts, ...]


def groups(cls: type = Config, prefix: str = "", name: str = "") -> Iterator[GroupFacts]:
    """The groups of a config, each kind of a group one by one, in the order in which the classes define them."""
    hints, meanings = type_hints(cls), comments(cls)
    own, inner = [], []
    for f in fields(cls):
        path = f"{prefix}{f.name}"
        if kinds := group_classes(hints[f.name]):
            inner += [(kind, path, f"{path}={text}" if len(kinds) > 1 else path) for text, kind in kinds.items()]
        else:
            own.append(
                FieldFacts(
                    path,
                    allowed(hints[f.name]),
                    _text(f.default),
                    meanings.get(f.name, ""),
                    "cosmetic" not in f.metadata,
                )
            )
    if name:
        yield GroupFacts(name, " ".join((inspect.getdoc(cls) or "").split()), tuple(own))
    for kind, path, title in inner:
        yield from groups(kind, f"{path}.", title)


def comments(cls: type) -> dict[str, str]:
    """Field -> the comment on the line, or the lines, that define it."""
    source = textwrap.dedent(inspect.getsource(cls))
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    at = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith("# noqa")
    }
    found: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            found[node.target.id] = " ".join(at[line] for line in lines if line in at)
    return found


def _text(default: Any) -> str:
    return "" if is_dataclass(default) else shown(default)
