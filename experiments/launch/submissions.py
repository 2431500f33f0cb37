"""Records of what was sent to clusters, one line for each submission.

$MOCO_RUNS/slurm/<label>.jsonl              runs of a sweep: `record`, `submissions`, `difference`
$MOCO_RUNS/slurm/<label>.limit              how many of its runs may run at a time: `keep_limit`, `limit_of`
$MOCO_RUNS/slurm/evaluate/<label>.jsonl     readouts to be added to finished runs: `record_evaluation`,
                                            `awaited_readouts`, `one_at_a_time`
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypedDict

from experiments.plan.sweep import Cell
from experiments.run.cluster import ENDED, this_user
from experiments.state.state import GONE, JUST_SECONDS, QUEUE, Queue
from experiments.store import schema
from experiments.store.files import Appender, age_of, exclusive, now, read_lines, replace_text

LISTED = 3  # names of cells in a difference; more are counted


class Submission(TypedDict):
    """A line of <label>.jsonl."""

    time: str  # ISO 8601, UTC
    user: str
    label: str
    profile: str
    cluster: str  # of the jobs, as profiles name it; absent in older stores, where it was slurm
    code: str  # hash of the copy of the code
    command: str
    planned: dict[str, str]  # run id -> "K=128 seed 0", of all cells that the sweep then had
    jobs: dict[str, str]  # run id -> job id, of those that were submitted


class EvaluationSubmission(TypedDict):
    """A line of evaluate/<label>.jsonl."""

    time: str  # ISO 8601, UTC
    user: str
    profile: str
    cluster: str  # as in Submission
    code: str  # hash of the copy of the code
    protocols: list[str]
    jobs: dict[str, str]  # run id -> "12_3"


def record(
    root: Path,
    label: str,
    *,
    profile: str,
    cluster: str,
    code: str,
    command: str,
    planned: Mapping[str, str],
    jobs: Mapping[str, str],
) -> None:
    line = Submission(
        time=now(),
        user=this_user(),
        label=label,
        profile=profile,
        cluster=cluster,
        code=code,
        command=command,
        planned=dict(planned),
        jobs=dict(jobs),
    )
    path = _path(root, label)
    with exclusive(path.with_name(f".{label}.lock")), Appender(path) as lines:
        lines.append(line, sync=True)


def submissions(root: Path, label: str) -> list[Submission]:
    """The oldest first."""
    return read_lines(_path(root, label))


def keep_limit(root: Path, label: str, at_a_time: int | None) -> None:
    """Keep how many runs of the sweep may run at a time, for `retry` and later commands; None for no limit."""
    path = _path(root, label).with_suffix(".limit")
    if at_a_time is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, f"{at_a_time}\n", sync=True)


def limit_of(root: Path, label: str) -> int | None:
    """The limit that was given last for the sweep. Raises ValueError if its file is damaged."""
    path = _path(root, label).with_suffix(".limit")
    try:
        text = path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    if not text.isdigit() or int(text) < 1:
        raise ValueError(
            f"{path}: {text[:40]!r}, must be a whole number of runs at a time; --max-parallel N writes it anew"
        )
    return int(text)


def all_submissions(root: Path) -> Iterator[Submission]:
    for path in sorted((root / schema.SLURM_FOLDER).glob("*.jsonl")):
        yield from read_lines(path)


def names(cells: Iterable[Cell]) -> dict[str, str]:
    """Run id -> name."""
    return {cell.run_id: cell.name for cell in cells}


def difference(planned: Mapping[str, str], last: Submission) -> list[str]:
    """What the plan (run id -> name) has gained and lost since the last submission: counts, and the first names."""
    added = [name for run_id, name in planned.items() if run_id not in last["planned"]]
    gone = [name for run_id, name in last["planned"].items() if run_id not in planned]
    kept = len(planned) - len(added)
    head = f"since the last submission ({last['time'][:16].replace('T', ' ')} UTC, {last['profile']}):"
    counts = f"+{len(added)} cells, {kept} kept, {len(gone)} no longer referenced"
    return [f"{head} {counts}", *_names("+", added), *_names("-", gone)]


def _names(sign: str, names: Sequence[str]) -> list[str]:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return [f"  {sign} {', '.join(names[:LISTED])}{more}"] if names else []


def one_at_a_time(root: Path) -> AbstractContextManager[None]:
    """A lock, so that the second of two commands sees what the first has submitted."""
    _folder(root).mkdir(parents=True, exist_ok=True)
    return exclusive(_folder(root) / ".lock")


def record_evaluation(
    root: Path, label: str, *, profile: str, cluster: str, code: str, protocols: Sequence[str], jobs: Mapping[str, str]
) -> None:
    line = EvaluationSubmission(
        time=now(),
        user=this_user(),
        profile=profile,
        cluster=cluster,
        code=code,
        protocols=list(protocols),
        jobs=dict(jobs),
    )
    with Appender(_folder(root) / f"{label}.jsonl") as lines:
        lines.append(line, sync=True)


def all_evaluation_submissions(root: Path) -> Iterator[EvaluationSubmission]:
    for path in sorted(_folder(root).glob("*.jsonl")):
        yield from read_lines(path)


def awaited_readouts(root: Path, queue: Queue = QUEUE) -> dict[str, dict[str, str]]:
    """Run id -> protocol -> the job that may still add it."""
    found: dict[str, dict[str, str]] = {}
    for line in all_evaluation_submissions(root):
        for run_id, job in line["jobs"].items():
            if may_still_run(job, line, queue):
                found.setdefault(run_id, {}).update(dict.fromkeys(line["protocols"], job))
    return found


def may_still_run(job: str, line: EvaluationSubmission, queue: Queue = QUEUE) -> bool:
    """Whether the job may still run; True, too, if its cluster does not answer or cannot know of it yet."""
    phase = queue.phase(job, line.get("cluster"), line["user"]).phase
    return age_of(line["time"]) < JUST_SECONDS if phase == GONE else phase != ENDED


def _folder(root: Path) -> Path:
    return root / schema.SLURM_FOLDER / "evaluate"


def _path(root: Path, label: str) -> Path:
    return root / schema.SLURM_FOLDER / f"{label}.jsonl"
