"""Find what a user has typed: sweeps and searches by their label, else by their name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")


def _label(item: Any) -> str:
    return str(item["label"])


def _name(item: Any) -> str:
    return str(item["name"])


def named(
    known: Sequence[Item], text: str, label: Callable[[Item], str] = _label, name: Callable[[Item], str] = _name
) -> list[Item]:
    """Those with that label (`queue_size@digits`), else those with that name (`queue_size`), in the order of `known`."""
    return [item for item in known if label(item) == text] or [item for item in known if name(item) == text]


def names(known: Iterable[Mapping[str, Any]]) -> list[str]:
    """Each name and then each label, once, in the order of `known`."""
    found = list(known)
    return list(dict.fromkeys([item["name"] for item in found] + [item["label"] for item in found]))


def nearest(text: str, choices: Iterable[str]) -> str | None:
    """The choice that was probably meant: the one that begins so, else the one that is similar.

    None if none is similar, and if several begin so (but for longer names of the first), since nothing tells which.
    """
    known = list(choices)
    begin = sorted((choice for choice in known if text and choice.startswith(text)), key=len)
    if begin and all(choice.startswith(begin[0]) for choice in begin):
        return begin[0]
    near = [] if begin else difflib.get_close_matches(text, known, n=1)
    return near[0] if near else None
