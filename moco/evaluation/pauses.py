"""Readouts that stop and go on: what was finished is kept, and a loop goes on at the epoch where it was stopped.

    progress = Progress(path, stop, of={"run_id": ..., "step": ...})
    with progress:
        values = once("linear", lambda: ...)    # computed once, in however many attempts

    once        a part: its value, from an earlier attempt if it was finished there
    kept        the state in which a loop was stopped
    pause       between two epochs of a loop: saves and raises Stopped if the run is to stop, saves now and then
    ask, go_on  raises Stopped if the run is to stop; for work that is begun anew

Outside a `with` nothing is kept and nothing stops. What is kept are tensors and plain values, on the device they were on.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from moco import checkpoint, distributed
from moco.evaluation.hits import TopOne

LOGGER = logging.getLogger("moco")
Value = TypeVar("Value")
State = dict[str, Any]


class Stopped(Exception):
    """The run was asked to stop during its readouts. What they had is saved."""


class Progress:
    """The parts of a run's readouts that are finished, and the loop at work. `of`: a file that says otherwise is not used.

    In a run of several processes each has one, made by all at the same moment; `stop` gives all the same answer, and rank 0
    writes the file. Where not all read the same, as on a disk that shows one node an old file, all begin anew: a process
    that skipped a part would leave the others waiting for it.
    """

    def __init__(
        self, path: Path, stop: Callable[[], bool], of: State, *, minutes: float = math.inf, device: Any = "cpu"
    ) -> None:
        self.path, self.stop, self.of, self.minutes = path, stop, of, minutes
        self.parts: State = {}
        self.names: list[str] = []  # of the parts at work, the outer first
        self.saved_at = time.monotonic()
        self.seconds = 0.0  # that earlier attempts spent
        self.done = (
            0  # finished parts, and epochs of loops, that are kept: it grows only where a later attempt need not repeat
        )
        self._passed: dict[str, int] = {}  # loop -> epochs that no saved state holds yet
        if os.path.lexists(path):
            self._read(device)
        own = [sorted(self.parts), self.seconds]  # the seconds grow with every save
        if distributed.agree(own != distributed.from_first(own)):
            LOGGER.warning("%s: not the same for all processes; the readouts are begun anew", path)
            self.parts, self.seconds = {}, 0.0

    def _read(self, device: Any) -> None:
        try:
            state = checkpoint.load(self.path, device)
        except ValueError as error:
            LOGGER.warning("%s; the readouts are begun anew", error)
            return
        if state.get("of") == self.of:
            self.parts, self.seconds = _unpacked(state["parts"]), state["seconds"]
            self.done = state.get("done", 0)  # an older version did not count

    def save(self) -> None:
        spent = self.seconds + time.monotonic() - self.began
        if distributed.rank() == 0:
            state = {"of": self.of, "parts": _packed(self.parts), "seconds": spent, "done": self.done}
            checkpoint.save(state, self.path)
        self.saved_at = time.monotonic()

    def __enter__(self) -> Progress:
        global _current
        _current, self.began = self, time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = None


HITS = "a top-1 with its hits"  # key of what stands in a file for a `TopOne`, since files hold plain values only


def _packed(value: Any) -> Any:
    """Plain values for those that a file would not hold."""
    if isinstance(value, TopOne):
        return {HITS: {"value": float(value), **value.as_data()}}
    if isinstance(value, dict):
        return {key: _packed(inner) for key, inner in value.items()}
    return type(value)(map(_packed, value)) if type(value) in (list, tuple) else value


def _unpacked(value: Any) -> Any:
    """The inverse of `_packed`."""
    if isinstance(value, dict):
        if value.keys() == {HITS}:
            return TopOne.counted(**value[HITS])
        return {key: _unpacked(inner) for key, inner in value.items()}
    return type(value)(map(_unpacked, value)) if type(value) in (list, tuple) else value


_current: Progress | None = None


def once(name: str, make: Callable[[], Value]) -> Value:
    """`make()`, or what it gave in an earlier attempt. Tensors and plain values."""
    progress = _current
    if progress is None:
        return make()
    progress.names.append(name)
    key = "/".join(progress.names)
    try:
        made = key not in progress.parts
        if made:
            value = make()
            progress.parts = {k: v for k, v in progress.parts.items() if not k.startswith(f"{key}/")}
            progress.parts[key] = value
            progress.done += 1
    finally:
        progress.names.pop()
    if made:
        ask()
    found: Value = progress.parts[key]
    return found


def kept(loop: str) -> State | None:
    """The state that `pause` saved for the loop of that name in an earlier attempt."""
    if _current is None:
        return None
    found: State | None = _current.parts.get("/".join([*_current.names, loop]))
    return found


def pause(loop: str, state: Callable[[], State]) -> None:
    """Raises Stopped, with the loop's state saved, if the run is to stop."""
    progress = _current
    if progress is None:
        return
    key = "/".join([*progress.names, loop])
    progress._passed[key] = progress._passed.get(key, 0) + 1
    stopped = progress.stop()
    if stopped or time.monotonic() - progress.saved_at >= 60 * progress.minutes:
        progress.parts[key] = state()
        progress.done += progress._passed.pop(key)
        progress.save()
    if stopped:
        raise Stopped


def go_on() -> bool:
    """`ask`, as a condition that always holds."""
    ask()
    return True


def ask() -> None:
    """Raises Stopped, with the finished parts saved, if the run is to stop."""
    if _current is not None and _current.stop():
        _current.save()
        raise Stopped
