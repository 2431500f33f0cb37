"""Why runs ended early, so that a hundred failures are three lines: same cause, same error, same place in the code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.state.find import Found
from experiments.state.state import RunState
from experiments.store import schema

MEMORY, DIVERGED, NODE, STOPPED, CANCELLED, OTHER = (
    "out of memory",
    "diverged",
    "node or job ended",
    "stopped midway",
    "cancelled on request",
    "other errors",
)
CAUSES = (MEMORY, DIVERGED, NODE, STOPPED, CANCELLED, OTHER)
REMEDY = {
    MEMORY: "a smaller train.batch_size or negatives.size, or more memory in the profile",
    DIVERGED: "a lower optim.lr or a longer warm-up; the same config will diverge again",
    NODE: "nothing: it goes on from its last checkpoint",
    STOPPED: "nothing: it goes on from its last checkpoint",
}
SHORT_OF_MEMORY = re.compile(
    r"OutOfMemory|out of memory|OUT_OF_MEMORY|MemoryError|oom.kill|Cannot allocate memory", re.I
)
NOT_FINITE = re.compile(r"\bnan\b|\binf\b|not finite|non-finite|diverged", re.I)
FRAME = re.compile(r'^\s*File "([^"]+)", line \d+, in (\S+)', re.MULTILINE)
OURS = ("moco", "experiments", "slurm", "sweeps")
TAIL_BYTES = 65536  # of a log, enough for a traceback


@dataclass(frozen=True)
class Ended:
    """A run that ended early, with the line that its like have, too."""

    run: Found
    cause: str
    error: str


def ended_early(root: Path, run: Found, state: RunState) -> Ended:
    last = _last_traceback(root / run.run_id / schema.LOG) if state.state == schema.FAILED else ""
    where = _place(last)
    error = normalised(state.reason or "no reason given") + (f"  in {where}" if where else "")
    return Ended(run, _cause(state, last), error)


def _cause(state: RunState, traceback: str) -> str:
    said = f"{state.reason or ''}\n{traceback}"
    if state.state == schema.CANCELLED:
        return CANCELLED
    if (SHORT_OF_MEMORY.search(said) and state.state == schema.FAILED) or "OUT_OF_MEMORY" in said:
        return MEMORY
    if state.diverged or (state.state == schema.FAILED and NOT_FINITE.search(state.reason or "")):
        return DIVERGED
    return {schema.LOST: NODE, schema.PREEMPTED: STOPPED, schema.MISSING: NODE}.get(state.state, OTHER)


def normalised(reason: str) -> str:
    """The same for the same error: without addresses, paths, names of jobs and processes, and other numbers."""
    text = re.sub(r"0x[0-9a-fA-F]+", "ADDRESS", reason)
    text = re.sub(r"(/[\w.@=+-]+)+/([\w.@=+-]+)", r"\2", text)
    return re.sub(r"(?<![A-Za-z])\d+(\.\d+)?(_\d+)?(e[+-]?\d+)?", "N", text)


def _last_traceback(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    _, mark, last = text.rpartition("Traceback (most recent call last)")
    return last if mark else ""


def _place(traceback: str) -> str | None:
    """The innermost frame of our own code: `moco/losses.py, info_nce`."""
    frames = [(Path(file).parts, function) for file, function in FRAME.findall(traceback)]
    ours = [(parts, function) for parts, function in frames if set(OURS) & set(parts) and "site-packages" not in parts]
    if not ours:
        return None
    parts, function = ours[-1]
    first = max(n for n, part in enumerate(parts) if part in OURS)
    return f"{'/'.join(parts[first:])}, {function}"


def grouped(ended: Sequence[Ended]) -> list[tuple[str, str, list[Found]]]:
    """(cause, error, runs), the largest group of a cause first."""
    groups: dict[tuple[str, str], list[Found]] = {}
    for one in ended:
        groups.setdefault((one.cause, one.error), []).append(one.run)
    return sorted(
        ((cause, error, runs) for (cause, error), runs in groups.items()),
        key=lambda group: (CAUSES.index(group[0]), -len(group[2])),
    )
