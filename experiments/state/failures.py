"""Groups runs that ended early: by cause, then by error and place in the code, so that many failures fit in a few lines.

ended_early     cause and error of one run
grouped         the groups of many
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.state.find import Found
from experiments.state.state import RunState
from experiments.store import causes, schema

# Causes as they are shown, in this order.
MEMORY, GPU, DISK, SETTING, DIVERGED, NODE, STOPPED, CANCELLED, OTHER = (
    "out of memory",
    "out of memory on the GPU",
    "disk full",
    "python, module, setup or GPU missing on the node",
    "diverged",
    "node or job ended",
    "stopped midway",
    "cancelled on request",
    "other errors",
)
SHOWN = (MEMORY, GPU, DISK, SETTING, DIVERGED, NODE, STOPPED, CANCELLED, OTHER)
REMEDY = {
    MEMORY: "a smaller train.batch_size or negatives.size, or more memory in the profile",
    GPU: causes.ADVICE[causes.GPU_MEMORY],
    DISK: causes.ADVICE[causes.DISK_FULL],
    SETTING: "python, prefix, setup, or sbatch.exclude in the profile",
    DIVERGED: "a lower optim.lr or a longer warm-up; the same config will diverge again",
    NODE: "nothing: it goes on from its last checkpoint",
    STOPPED: "nothing: it goes on from its last checkpoint",
}
SHOWN_AS = {
    causes.OUT_OF_MEMORY: MEMORY,
    causes.GPU_MEMORY: GPU,
    causes.DISK_FULL: DISK,
    causes.NO_PYTHON: SETTING,
    causes.NO_MODULE: SETTING,
    causes.SETUP_FAILED: SETTING,
    causes.NO_GPU: SETTING,
    causes.DIVERGED: DIVERGED,
    causes.TIME_LIMIT: STOPPED,
    causes.NOT_REQUEUED: STOPPED,
    causes.STOPPED: STOPPED,
    causes.CANCELLED: CANCELLED,
}
# Errors of libraries are recognised by their text, since we do not control their classes.
SHORT_OF_MEMORY = re.compile(r"OutOfMemory|out of memory|MemoryError|oom.kill|Cannot allocate memory", re.I)
NOT_FINITE = re.compile(r"\bnan\b|\binf\b|not finite|non-finite|diverged", re.I)
FRAME = re.compile(r'^\s*File "([^"]+)", line \d+, in (\S+)', re.MULTILINE)
OURS = ("moco", "experiments", "slurm", "sweeps")
TAIL_BYTES = 65536  # of a log, enough for a traceback


@dataclass(frozen=True)
class Ended:
    """A run that ended early. `cause`: one of SHOWN. `error`: the line that all runs of its group share."""

    run: Found
    cause: str
    error: str


def ended_early(root: Path, run: Found, state: RunState) -> Ended:
    """Cause and error by the run's state and, if it failed, by the last traceback in its log."""
    last = _last_traceback(root / run.run_id / schema.LOG) if state.state == schema.FAILED else ""
    where = _place(last)
    error = normalised(state.reason or "no reason given") + (f"  in {where}" if where else "")
    return Ended(run, _cause(state, last), error)


def _cause(state: RunState, traceback: str) -> str:
    if (shown := SHOWN_AS.get(state.cause or "")) is not None:
        return shown
    if state.state == schema.FAILED:
        if SHORT_OF_MEMORY.search(f"{state.reason or ''}\n{traceback}"):
            return MEMORY
        return DIVERGED if state.diverged or NOT_FINITE.search(state.reason or "") else OTHER
    return {schema.LOST: NODE, schema.PREEMPTED: STOPPED, schema.MISSING: NODE}.get(state.state, OTHER)


def normalised(reason: str) -> str:
    """A reason without addresses, folders and numbers, so that the same error of several runs has the same text."""
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
        key=lambda group: (SHOWN.index(group[0]), -len(group[2])),
    )
