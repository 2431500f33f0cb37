"""`python -m experiments transfer`: a file is judged and that is printed; a run, or all runs of a sweep, keep records.

Exit 0: all finished runs that were meant have the record. 1: some failed or are at work in another process, they are listed.
2: wrong input, nothing was begun. 130: interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.evaluate.pool import EvaluationPool, Outcome
from experiments.evaluate.transfer.run import Scores, Source, record_of, run_job, run_recorded
from experiments.evaluate.transfer.spec import HEADLINES, Job, changed, record_file
from experiments.evaluate.transfer.table import Row, markdown, rows_of, title, write
from experiments.evaluate.transfer.worker import report
from experiments.evaluate.verb import print_readouts
from experiments.evaluate.weights import Reading, say, weights_file
from experiments.launch.options import INTERRUPTED
from experiments.plan.overrides import base_configs
from experiments.run import distributed
from experiments.run.machine import make_slots
from experiments.state.find import Found, cells_of, find, sweeps_named
from experiments.store import schema
from experiments.store.run import Busy, runs_root
from experiments.tracking.lookup import run_id_of
from moco.config import Config
from moco.errors import FieldError
from moco.transfer.recipes import HELD_OUT, recipe_for


@dataclass(frozen=True)
class TransferOptions:
    """The flags of `transfer` under their own names; those that say what is asked of every encoder are the `job`.

    Raises ValueError, in one line, for whatever can be known to be wrong before torch is there.
    """

    target: str
    job: Job
    base: Config | None  # gives the pixel statistics of another tool's file
    baseline: str | None
    seed: int | None
    random_init: bool
    max_parallel: int | None
    reading: Reading  # of a file: `--set encoder.*`, `--prefix`, `--branch`

    @staticmethod
    def of(given: argparse.Namespace) -> TransferOptions:
        reading, settings = Reading.of(given, given.set or [])
        recipe = changed(recipe_for(given.task, given.data, given.recipe), settings)
        if given.frozen:
            recipe = changed(recipe, ["backbone=frozen"])
        if given.on not in HELD_OUT:
            raise ValueError(f"--on {given.on}: must be one of {', '.join(HELD_OUT)}")
        for flag, value, least in (("--workers", given.workers, 0), ("--max-parallel", given.max_parallel, 1)):
            if value is not None and value < least:
                raise ValueError(f"{flag} {value}: must be at least {least}")
        root = str(Path(given.root).absolute()) if given.root else None
        return TransferOptions(
            given.target,
            Job(recipe, given.on, root, given.device, given.workers),
            base_configs(given.baseline, [])[0] if given.baseline else None,
            given.baseline,
            given.seed,
            given.random_init,
            given.max_parallel,
            replace(reading, settings=()),  # those are of the recipe
        )


def transfer(given: argparse.Namespace, command: str) -> int:
    distributed.adopt_step()
    if distributed.size() > 1:
        raise ValueError(
            f"WORLD_SIZE={distributed.size()}: transfer is one process; start it without torchrun, as one task"
        )
    try:
        return _transfer(TransferOptions.of(given))
    except KeyboardInterrupt:
        print(
            "interrupted: finished runs keep their records, of a file nothing is kept; the same command goes on",
            file=sys.stderr,
        )
        return INTERRUPTED


def _transfer(options: TransferOptions) -> int:
    path, root = Path(options.target), runs_root()
    if path.exists():
        single = path.is_dir() and (path / schema.CONFIG).exists()
        return _run(path.absolute(), options) if single else _file(path, options)
    options.reading.only_for_files("a run")
    found = find(root, options.target, tracked=run_id_of)
    if len(found) == 1:
        return _run(root / found[0].run_id, options)
    return _sweep(root, found, options)


def _check(job: Job) -> None:
    """Before anything is trained: the data are there, and what counts."""
    from experiments.evaluate.transfer.run import splits_of
    from moco.transfer.scores import require_counting
    from moco.transfer.tasks import check_splits

    _check_device(job.device)
    if job.recipe.task != "segmentation":
        require_counting()
    check_splits(*splits_of(job), job.recipe)


def _check_device(name: str) -> None:
    from moco.trainer import choose_device

    try:
        choose_device(name)
    except FieldError as error:
        raise ValueError(f"--device {error.value}: {error.problem}") from None


def _file(path: Path, options: TransferOptions) -> int:
    """Nothing is written."""
    job, base = options.job, options.base
    weights_file(path)
    _check(job)
    source = Source(path, base, seed=options.seed, reading=options.reading)
    rows = {"": run_job(source, job, say)}
    if options.random_init:
        rows[f" ({schema.RANDOM_INIT})"] = run_job(replace(source, untrained=True), job, say)
    _print(rows, job)
    return 0


def _run(run: Path, options: TransferOptions) -> int:
    job = options.job
    options.reading.only_for_files("a run")
    weights_file(run)
    if options.seed is not None or options.baseline:
        raise ValueError(
            "--seed and --baseline: for a file of weights; a run has its own seed and its own pixel statistics"
        )
    _check(job)
    try:
        rows = {"": run_recorded(run, job, say)}
    except Busy as busy:
        print(f"{busy}; nothing was begun")
        return 1
    if options.random_init:
        rows[f" ({schema.RANDOM_INIT})"] = run_job(Source(run, untrained=True), job, say)
    _print(rows, job)
    print(f"record: {record_file(run, job)}")
    return 0


def _print(rows: dict[str, Scores], job: Job) -> None:
    print_readouts({f"{job.on}/{name}{what}": value for what, scores in rows.items() for name, value in scores.items()})


def _sweep(root: Path, found: Sequence[Found], options: TransferOptions) -> int:
    job = options.job
    for flag, given in (
        ("--seed", options.seed),
        ("--baseline", options.baseline),
        ("--random-init", options.random_init),
    ):
        if given not in (None, False):
            raise ValueError(f"{flag}: for one run or file; {options.target} names {len(found)} runs, with their own")
    if job.device.startswith("cuda:"):
        raise ValueError(f"--device {job.device}: the runs of a sweep share out all GPUs; say cuda, or choose one run")
    label = _label_of_whole(root, options.target, found)
    done = {run.run_id: run.name for run in found if (root / run.run_id / schema.ENCODER).exists()}
    if not done:
        raise ValueError(f"{options.target}: none of its {len(found)} runs is done; start it first")
    _check(job)
    todo = {run_id: name for run_id, name in done.items() if record_of(root / run_id, job) is None}
    _tell_start(options.target, found, done, todo, job)
    code = _carry_out(root, todo, job, options.max_parallel) if todo else 0
    if code == INTERRUPTED:
        return code
    rows = rows_of(root, found, job)
    if any(row.by_seed for row in rows):
        _show(root, label, options.target, rows, job)
    return code


def _label_of_whole(root: Path, target: str, found: Sequence[Found]) -> str | None:
    """None if the runs are an arm's, a trial's or a job's. Asked at the start: a sweep may grow while its runs are at work."""
    return next((m["label"] for m in sweeps_named(root, target)[:1] if cells_of(m) == list(found)), None)


def _show(root: Path, label: str | None, target: str, rows: Sequence[Row], job: Job) -> None:
    """The table of a whole sweep is a file, too; a part of one must not take its place."""
    print(f"\n{markdown(label or target, rows, job)}")
    if label is None:
        print("no file of it: only a whole sweep has one, `transfer SWEEP`")
        return
    print(f"table: {write(root, label, rows, job)}")
    if not any(row.arm == schema.RANDOM_INIT and row.by_seed for row in rows):
        print(
            f"{schema.RANDOM_INIT}: not done; the sweep's own command with --only random-init makes its runs in seconds"
        )


def _tell_start(target: str, found: Sequence[Found], done: dict[str, str], todo: dict[str, str], job: Job) -> None:
    rest = len({run.run_id for run in found}) - len(done)
    others = f"; {rest} not done, left out" if rest else ""
    print(
        f"{target}: {job.words}; {len(todo)} runs to fine-tune, {len(done) - len(todo)} have a record{others}",
        flush=True,
    )


def _carry_out(root: Path, todo: dict[str, str], job: Job, at_once: int | None) -> int:
    slots = make_slots(at_once, len(todo), use_gpus=job.device != "cpu")
    outcomes = EvaluationPool(slots, report, (job,)).outcomes([root / run_id for run_id in todo])
    failed = 0
    try:
        for number, outcome in enumerate(outcomes, start=1):
            failed += outcome.error is not None
            print(f"{number}/{len(todo)}  {todo[outcome.run_id]}  {_words(outcome, job)}", flush=True)
    except KeyboardInterrupt:
        outcomes.close()
        print("interrupted: what was finished is kept, the same command goes on")
        return INTERRUPTED
    return 1 if failed else 0


def _words(outcome: Outcome, job: Job) -> str:
    if outcome.error is not None:
        return outcome.error
    scores = outcome.values or {}
    known = {name: scores.get(name) for name in HEADLINES[job.recipe.task]}
    return "  ".join(f"{title(name)} {'-' if value is None else f'{value:.1f}'}" for name, value in known.items())
