"""`status`, `logs`, `find`: the commands that show sweeps and runs, and change nothing."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from experiments.commands.arms import in_short, reasons
from experiments.launch.grid import counts, grid, paragraph
from experiments.launch.options import INTERRUPTED
from experiments.plan.orphans import Orphan, orphans
from experiments.plan.parser import AddVerb
from experiments.run.cluster import DEFAULT, cluster_named
from experiments.state.find import ANY, Found, find, mlflow_runs, sweeps_named
from experiments.state.state import RunState, state_of, states_of
from experiments.store import causes, schema
from experiments.store.images import ONLY_NAMES, known_by_names
from experiments.store.manifests import all_manifests
from experiments.store.run import RunDirectory, runs_root
from experiments.store.schema import Cell, Manifest
from experiments.store.states import AT_REST
from experiments.tracking.lookup import run_id_of

LISTED = 10  # runs in words; the rest is counted
BROKEN = (schema.FAILED, schema.LOST, schema.PREEMPTED)
LIVE = (schema.QUEUED, schema.RUNNING)


@dataclass(frozen=True)
class SweepStatus:
    """The states of a sweep's runs at a moment, by run id, and how `status` shows them."""

    root: Path
    manifest: Manifest
    states: dict[str, RunState]

    @staticmethod
    def of(root: Path, manifest: Manifest) -> SweepStatus:
        return SweepStatus(root, manifest, states_of(root, [cell["run_id"] for cell in manifest["cells"]]))

    @property
    def live(self) -> bool:
        """Whether a run is queued or running."""
        return any(state.state in LIVE for state in self.states.values())

    def state(self, cell: Cell) -> RunState:
        return self.states[cell["run_id"]]

    def summary(self) -> str:
        return counts(self.state(cell) for cell in self.manifest["cells"])

    def lines(self) -> list[str]:
        """Counts, the grid, and a line for each run that is running or has failed."""
        manifest = self.manifest
        keyed = {(cell["arm"], cell["seed"]): self.state(cell) for cell in manifest["cells"]}
        table = grid(manifest["arms"], manifest["seeds"], keyed, manifest["baseline"])
        return [
            f"{manifest['label']}: {self.summary()}",
            *(f"  {line}" for line in table),
            *self._by_names(),
            *self._listed([c for c in manifest["cells"] if self.state(c).state == schema.RUNNING], _pace),
            *self._waiting(),
            *self._listed([c for c in manifest["cells"] if self.state(c).state in BROKEN], _reason),
            *self._never_begun(),
        ]

    def _by_names(self) -> list[str]:
        by_names = known_by_names(cell["config"] for cell in self.manifest["cells"])
        return paragraph(ONLY_NAMES, "  ") if by_names else []

    def _listed(self, cells: Sequence[Cell], describe: Any) -> Iterator[str]:
        for cell in cells[:LISTED]:
            yield f"  {cell['arm']} seed {cell['seed']}  {describe(self.state(cell))}"
        if len(cells) > LISTED:
            more = f"  and {len(cells) - LISTED} more {self.state(cells[-1]).state}"
            broken = self.state(cells[-1]).state in BROKEN
            yield more + (
                f": python -m experiments retry {self.manifest['label']} sorts them by cause" if broken else ""
            )

    def _waiting(self) -> Iterator[str]:
        """Why queued runs wait, in the words of their cluster, with the runs of one reason in a line."""
        jobs: dict[str, list[str]] = defaultdict(list)
        for cell in self.manifest["cells"]:
            if self.state(cell).state == schema.QUEUED:
                status = RunDirectory(self.root / cell["run_id"]).status() or schema.Status()
                if job := status.get("job"):
                    jobs[status.get("cluster", DEFAULT)].append(job)
        for name, ids in jobs.items():
            why = cluster_named(name).waiting(ids)
            for reason, number in Counter(why[id] for id in ids if id in why).most_common(LISTED):
                yield f"  {number} {'waits' if number == 1 else 'wait'}: {reason}"

    def _never_begun(self) -> Iterator[str]:
        """Runs whose job ended before they began, with the last line of the first job's log."""
        cells = [c for c in self.manifest["cells"] if self.state(c).state == schema.MISSING and self.state(c).cause]
        yield from self._listed(cells, _reason)
        for cell in cells[:1]:
            yield from never_begun(self.root, cell["run_id"])

    def plain(self) -> dict[str, Any]:
        """As JSON. `job` is given for queued and running runs only: the directories of others need not be read."""
        return {
            "label": self.manifest["label"],
            "baseline": self.manifest["baseline"],
            "cells": [self._plain(cell) for cell in self.manifest["cells"]],
        }

    def _plain(self, cell: Cell) -> dict[str, Any]:
        state, run_id = self.state(cell), cell["run_id"]
        live = state.state in LIVE
        job = (RunDirectory(self.root / run_id).status() or schema.Status()).get("job") if live else None
        return {"arm": cell["arm"], "seed": cell["seed"], "run_id": run_id, **asdict(state), "job": job}


def never_begun(root: Path, run_id: str) -> list[str]:
    """Why a job may have ended before its run began: the last line of its log, or why it may have none."""
    status = RunDirectory(root / run_id).status() or schema.Status()
    if not (job := status.get("job")):
        return []
    log = cluster_named(status.get("cluster", DEFAULT)).log(root / schema.SLURM_FOLDER, job)
    text = log.read_text(errors="replace") if log else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if (cause := causes.named(text)) is not None:
        return paragraph(f"job {job} said: {causes.line_of(cause, text)}; {causes.ADVICE[cause]}", "    ")
    if lines:
        return [f"    job {job} said: {lines[-1]}"]
    text = f"job {job} left no log. Can the nodes see {root}? python -m experiments doctor --cluster NAME tells"
    return paragraph(text, "    ")


def _pace(state: RunState) -> str:
    facts = [
        f"running {state.share:.0%}" if state.share is not None else "running",
        f"{state.images_per_s:.0f} images/s" if state.images_per_s is not None else "",
        f"kNN {state.knn:.1f}" if state.knn is not None else "",
    ]
    return "  ".join(filter(None, facts))


def _reason(state: RunState) -> str:
    """What happened, and where it is known, what to turn."""
    advice = causes.ADVICE.get(state.cause or "")
    return f"{state.state}: {state.reason}" + (f"; {advice}" if advice else "")


AGAIN_SECONDS = 2.0  # between two pages of --watch
FOLLOW_SECONDS = 0.5  # between two reads of logs --follow

Page = Callable[[], tuple[list[str], bool]]  # makes the lines, and says whether they may still change


def watch(page: Page, console: Console | None = None) -> int:
    """Show a page again and again, until it cannot change any more: in place on a terminal, else when it has changed.

    Returns the exit code.
    """
    console = console or Console(highlight=False)
    try:
        _draw(page, console) if console.is_terminal else _print(page, console)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _draw(page: Page, console: Console) -> None:
    """In place: lines are cut at the edge of the terminal and pages at its bottom; the last page is printed whole."""
    lines, live = page()
    with Live(_cut(lines), console=console, auto_refresh=False, transient=True) as drawn:
        while live:
            drawn.update(_cut([*lines, time.strftime("%H:%M:%S, Ctrl-C leaves")]), refresh=True)
            time.sleep(AGAIN_SECONDS)
            lines, live = page()
    for line in lines:
        console.print(_cut([line]))


def _cut(lines: list[str]) -> Text:
    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


def _print(page: Page, console: Console) -> None:
    before: list[str] = []
    while True:
        lines, live = page()
        if lines != before:
            print("\n".join([*([""] if before else []), *lines]), file=console.file, flush=True)
        if not live:
            return
        before = lines
        time.sleep(AGAIN_SECONDS)


def register(add: AddVerb) -> None:
    state = add("status", help="where sweeps and runs stand", allow_abbrev=False)
    state.add_argument("target", nargs="?", metavar="ANY", help=f"{ANY}; without: all sweeps")
    state.add_argument("--watch", "-w", action="store_true", help="go on until nothing is queued or running")
    state.add_argument("--json", action="store_true", help="for programs")
    state.set_defaults(run=status)

    log = add("logs", help="what runs have said", allow_abbrev=False)
    log.add_argument("target", metavar="ANY", help=ANY)
    log.add_argument("arm", nargs="?", metavar="ARM", help="only this arm of the sweep")
    log.add_argument("--follow", "-f", action="store_true", help="go on until all of them have ended")
    log.set_defaults(run=logs)

    search = add("find", help="which runs a name leads to", allow_abbrev=False)
    search.add_argument("target", metavar="ANY", help=ANY)
    search.set_defaults(run=find_runs)


def status(options: argparse.Namespace, command: str) -> int:
    """Show all sweeps in a line each, one sweep as a grid, or one run with its attempts."""
    root = runs_root()
    if options.json:
        print(json.dumps(_plain(root, options.target), indent=1))
        return 0
    if options.watch:
        return watch(lambda: _page(root, options.target))
    print("\n".join(_page(root, options.target)[0]))
    return 0


def _page(root: Path, target: str | None) -> tuple[list[str], bool]:
    """The lines to print, and whether they may still change."""
    found = _sweep_statuses(root, target)
    if target is None:
        empty = [] if found else [f"no sweep in {root} yet; start one with python sweeps/queue_size.py"]
        lines = [f"{one.manifest['label']}  {one.summary()}" for one in found] + empty
        return lines + in_short(orphans(root)), any(one.live for one in found)
    if found:
        left = _left(root, found)
        lines = [line for one in found for line in [*one.lines(), *reasons(root, left[one.manifest["label"]])]]
        return lines, any(one.live for one in found)
    runs = find(root, target, tracked=run_id_of)
    live = any(state_of(root / run.run_id).state in LIVE for run in runs)
    return [line for run in runs for line in _run_lines(root, run)], live


def _left(root: Path, found: Sequence[SweepStatus]) -> dict[str, list[Orphan]]:
    """Label of each sweep -> its runs that count in no table."""
    left: dict[str, list[Orphan]] = {one.manifest["label"]: [] for one in found}
    for orphan in orphans(root):
        if orphan.label in left:
            left[orphan.label].append(orphan)
    return left


def _sweep_statuses(root: Path, target: str | None) -> list[SweepStatus]:
    manifests = all_manifests(root) if target is None else sweeps_named(root, target)
    return [SweepStatus.of(root, manifest) for manifest in manifests]


def _plain(root: Path, target: str | None) -> list[dict[str, Any]]:
    """For `--json`: sweeps, or for a target that is no sweep, its runs."""
    statuses = _sweep_statuses(root, target)
    if statuses or target is None:
        left = _left(root, statuses)
        return [one.plain() | _in_no_table(left[one.manifest["label"]]) for one in statuses]
    runs = find(root, target, tracked=run_id_of)
    jobs = {run.run_id: _job(root / run.run_id) for run in runs}
    facts = _accounts(jobs.values())
    return [
        {
            "run_id": run.run_id,
            "arm": run.arm,
            "seed": run.seed,
            "label": run.label,
            **asdict(state_of(root / run.run_id)),
            "job": job.id if (job := jobs[run.run_id]) else None,
            "accounting": facts.get(job),  # by sacct's names; null where the cluster keeps no accounts
        }
        for run in runs
    ]


def _in_no_table(left: Sequence[Orphan]) -> dict[str, Any]:
    return {"in_no_table": [asdict(one) for one in left]} if left else {}


def _run_lines(root: Path, run: Found) -> Iterator[str]:
    state, directory = state_of(root / run.run_id), RunDirectory(root / run.run_id)
    yield "  ".join(dict.fromkeys(filter(None, [run.run_id, run.name, run.label])))
    if run.label is None:
        yield from (f"  in no table: {one.why}" for one in orphans(root) if one.run_id == run.run_id)
    if run.past is not None:
        yield f"  in no table: {run.past}"
    for name, value in asdict(state).items():
        if value not in (None, False):
            yield f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}"
    for line in directory.attempts():
        if line["event"] == "start":
            yield f"  attempt {line['attempt']}: {line['time']} on {line['host']}, process {line['pid']}"
        else:
            yield f"  attempt {line['attempt']}: {line['time']} {line['state']}, {line.get('reason') or 'as planned'}"
    status = directory.status() or schema.Status()
    if id := status.get("job"):
        yield from _job_lines(root, run, state, Job(status.get("cluster", DEFAULT), id))


def _job_lines(root: Path, run: Found, state: RunState, job: Job) -> Iterator[str]:
    """The job, its accounting where the cluster has some, and why the job may have ended before the run began."""
    yield f"  job: {job.id}"
    if facts := _accounts([job]).get(job):
        yield f"  accounting: {', '.join(f'{name} {value}' for name, value in facts.items())}"
    if state.state == schema.MISSING:
        yield from never_begun(root, run.run_id)


def logs(options: argparse.Namespace, command: str) -> int:
    """Print the logs of the runs, one after the other; with `--follow`, also new lines until all runs have ended."""
    root = runs_root()
    shown: dict[str, int] = defaultdict(int)
    found = find(root, options.target, options.arm, tracked=run_id_of)
    last = ""
    with suppress(KeyboardInterrupt):
        while True:
            resting = all(state_of(root / run.run_id).state in (*AT_REST, schema.MISSING) for run in found)
            for run in found:
                last = _print_new(root, run, shown, last, headed=len(found) > 1)
            if resting or not options.follow:
                return 0
            time.sleep(FOLLOW_SECONDS)
    return INTERRUPTED


def _print_new(root: Path, run: Found, shown: dict[str, int], last: str, *, headed: bool) -> str:
    """Print the new lines of a run's log. Returns the run whose lines were printed last."""
    log = _log(root / run.run_id)
    if log is None:
        return last
    with log.open("rb") as file:
        file.seek(shown[str(log)])
        text = file.read()
    if not text:
        return last
    shown[str(log)] += len(text)
    if headed and last != run.run_id:
        print(f"==> {run.name}  {log} <==")
    print(text.decode(errors="replace"), end="", flush=True)
    return run.run_id


def _log(run: Path) -> Path | None:
    """The run's own log, or that of its job while there is none."""
    own = run / schema.LOG
    if own.exists():
        return own
    status = RunDirectory(run).status() or schema.Status()
    if not (job := status.get("job")):
        return None
    return cluster_named(status.get("cluster", DEFAULT)).log(run.parent / schema.SLURM_FOLDER, job)


def find_runs(options: argparse.Namespace, command: str) -> int:
    root = runs_root()
    found = find(root, options.target, tracked=run_id_of)
    last = {run.run_id: _job(root / run.run_id) for run in found}
    facts = _accounts(last.values())
    labels = {run.label for run in found}
    of_a_sweep = bool(sweeps_named(root, options.target))
    left = [one for one in orphans(root) if (of_a_sweep and one.label in labels) or one.run_id in last]
    for run in found:
        job = f"  job {one.id}{_in_accounts(facts.get(one))}" if (one := last[run.run_id]) else ""
        mlflow = "".join(f"  mlflow {id}" for id in mlflow_runs(root, run.run_id))
        print(f"{run.run_id}  {state_of(root / run.run_id).state:<9}  {run.name}  {run.label or '-'}{job}{mlflow}")
    if left:
        print("\n".join(reasons(root, left)))
    return 0


class Job(NamedTuple):
    cluster: str
    id: str


def _job(path: Path) -> Job | None:
    """The last job of the run."""
    directory = RunDirectory(path)
    records: list[schema.Status | schema.Attempt] = [directory.status() or {}, *reversed(directory.attempts())]
    return next((Job(one.get("cluster", DEFAULT), id) for one in records if (id := one.get("job"))), None)


def _accounts(jobs: Iterable[Job | None]) -> dict[Job | None, Mapping[str, str]]:
    """The accounting of these jobs, where their cluster has some; each cluster is asked once."""
    by_cluster: dict[str, list[str]] = defaultdict(list)
    for job in filter(None, jobs):
        by_cluster[job.cluster].append(job.id)
    return {
        Job(name, id): facts
        for name, ids in by_cluster.items()
        for id, facts in cluster_named(name).accounts(ids).items()
    }


def _in_accounts(facts: Mapping[str, str] | None) -> str:
    """` (COMPLETED, 00:01:12 on n0)`"""
    return f" ({facts.get('State')}, {facts.get('Elapsed')} on {facts.get('NodeList')})" if facts else ""
