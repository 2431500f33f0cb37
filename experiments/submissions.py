"""What was sent to a cluster: one line for each submission of a sweep, in $MOCO_RUNS/slurm/<label>.jsonl."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from experiments import schema
from experiments.durable import Appender, exclusive, now, read_lines
from experiments.sweep import Cell

LISTED = 3  # names of cells in a difference; more are counted


class Submission(TypedDict):
    time: str  # ISO 8601, UTC
    user: str
    label: str
    profile: str
    code: str  # name of the snapshot
    command: str
    planned: dict[str, str]  # run id -> "K=128 seed 0", of all cells that the sweep then had
    jobs: dict[str, str]  # run id -> job id, of those that were submitted


def record(
    root: Path,
    label: str,
    *,
    profile: str,
    code: str,
    command: str,
    planned: Mapping[str, str],
    jobs: Mapping[str, str],
) -> None:
    line = Submission(
        time=now(), user=getpass.getuser(), label=label, profile=profile, code=code, command=command,
        planned=dict(planned), jobs=dict(jobs),
    )  # fmt: skip
    path = _path(root, label)
    with exclusive(path.with_name(f".{label}.lock")), Appender(path) as lines:
        lines.append(line, sync=True)


def submissions(root: Path, label: str) -> list[Submission]:
    """The oldest first."""
    return read_lines(_path(root, label))


def all_submissions(root: Path) -> Iterator[Submission]:
    for path in sorted((root / schema.SLURM_FOLDER).glob("*.jsonl")):
        yield from read_lines(path)


def names(cells: Iterable[Cell]) -> dict[str, str]:
    return {cell.run_id: cell.name for cell in cells}


def difference(planned: Mapping[str, str], last: Submission) -> list[str]:
    """What the plan (run id -> name) has gained and lost since: a count for each, and the first names."""
    added = [name for run_id, name in planned.items() if run_id not in last["planned"]]
    gone = [name for run_id, name in last["planned"].items() if run_id not in planned]
    kept = len(planned) - len(added)
    head = f"since the last submission ({last['time'][:16].replace('T', ' ')} UTC, {last['profile']}):"
    counts = f"+{len(added)} cells, {kept} kept, {len(gone)} no longer referenced"
    return [f"{head} {counts}", *_names("+", added), *_names("-", gone)]


def _names(sign: str, names: Sequence[str]) -> list[str]:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return [f"  {sign} {', '.join(names[:LISTED])}{more}"] if names else []


def _path(root: Path, label: str) -> Path:
    return root / schema.SLURM_FOLDER / f"{label}.jsonl"
