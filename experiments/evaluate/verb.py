"""`python -m experiments evaluate`: add readouts to a run or to all runs of a sweep, or print those of a file of weights.

Exit 0: every finished run that was named has the readouts. 1: some could not be evaluated, they are listed. 2: wrong
input, nothing was added. 130: interrupted, the same command continues; for a file, only what was printed remains.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from experiments.evaluate.add import (
    DEFAULT,
    check_done,
    complete,
    evaluate_run,
    evaluate_weights,
    headlines,
    known,
    missing,
)
from experiments.evaluate.pool import EvaluationPool
from experiments.evaluate.progress import Progress
from experiments.evaluate.weights import Reading
from experiments.evaluate.worker import report
from experiments.launch.launch import tracking_off
from experiments.launch.options import INTERRUPTED, LOCAL, Place, cluster_profile
from experiments.plan.overrides import base_configs
from experiments.run import distributed
from experiments.run.cluster import Profile
from experiments.run.machine import make_slots
from experiments.run.readouts import readouts_of
from experiments.state.find import Found, cells_of, find
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.manifests import all_manifests
from experiments.store.run import Busy, RunDirectory
from experiments.store.states import child_environment
from experiments.tracking.lookup import run_id_of
from moco.config import Config

ShowTable = Callable[[Path, str, str], None]  # (root, label, readout): prints a sweep's table

WIDTH = len("readout/retrieval_within_test_recall1")  # of the column of names, where rows are printed as they come


@dataclass(frozen=True)
class EvaluateOptions:
    """The flags of `evaluate`, checked. `profile` is that of --cluster, None on this machine."""

    target: str
    place: Place
    protocols: tuple[str, ...]
    base: Config | None  # of --baseline: its images are used instead of the run's own
    baseline: str | None
    cluster: str | None
    profile: Profile | None
    max_parallel: int | None
    device: str | None
    reading: Reading  # of a file of weights
    moved_to: Path | None = None  # where the run's own images are now

    @staticmethod
    def of(given: argparse.Namespace) -> EvaluateOptions:
        """Raises ValueError, in one line, for an unknown protocol or profile, and for --set without --baseline."""
        protocols = tuple(dict.fromkeys(given.protocol or DEFAULT))
        for name in protocols:
            readouts_of(name)
        reading, settings = Reading.of(given, given.set)
        base = base_configs(given.baseline, settings)[0] if given.baseline else None
        moved_to = None if given.baseline else _moved_to(settings)
        profile = cluster_profile(given.cluster or LOCAL, settings=given.cluster_set)
        return EvaluateOptions(
            given.target,
            Place.of(profile),
            protocols,
            base,
            given.baseline,
            given.cluster,
            profile,
            given.max_parallel,
            given.device,
            reading,
            moved_to,
        )


def _moved_to(settings: Sequence[str]) -> Path | None:
    """The folder of `data.root=DIR`, which may be said of a run too. Raises ValueError for any other field."""
    fields = dict([part.strip() for part in one.partition("=")[::2]] for one in settings)
    if fields.keys() - {"data.root"}:
        raise ValueError(
            "--set: changes what --baseline NAME says, and there is none; a run is judged as it was planned, and only "
            "data.root=DIR, where its images are now, may be said"
        )
    if fields.get("data.root") == "":
        raise ValueError("--set data.root=: name the folder where the images are now")
    return Path(fields["data.root"]).absolute() if fields else None


def evaluate(given: argparse.Namespace, show_table: ShowTable) -> int:
    try:
        distributed.adopt_step()
        return _evaluate(EvaluateOptions.of(given), show_table)
    except KeyboardInterrupt:
        print("interrupted: what is done has been kept; the same command goes on", file=sys.stderr)
        return INTERRUPTED


def _evaluate(options: EvaluateOptions, show_table: ShowTable) -> int:
    path, root = Path(options.target), options.place.root
    if path.exists():
        single = path.is_dir() and (path / schema.CONFIG).exists()
        return _run(path.absolute(), options) if single else _file(path, options)
    options.reading.only_for_files("a run")
    found = find(root, options.target, tracked=partial(run_id_of, address=options.place.tracking))
    if len(found) == 1:
        return _run(root / found[0].run_id, options)
    if options.base is not None:
        raise ValueError(
            f"--baseline {options.baseline}: gives images to one file or run; {options.target} names {len(found)}"
        )
    return _sweep(found, options, show_table)


def _only_here(options: EvaluateOptions) -> None:
    for flag, value in (("--cluster", options.cluster), ("--max-parallel", options.max_parallel)):
        if value is not None:
            raise ValueError(f"{flag} {value}: for the runs of a sweep; {options.target} is one")


def _file(path: Path, options: EvaluateOptions) -> int:
    """Print the readouts of a file of weights, each protocol's as soon as they are there; nothing is written."""
    _only_here(options)
    given = path, options.protocols, options.base, options.device, options.reading, options.moved_to
    try:
        for _, evaluated in evaluate_weights(*given):
            if distributed.rank() == 0:
                print_readouts(evaluated.last(), WIDTH)
    except KeyboardInterrupt:
        print("interrupted: of a file nothing is kept but what is printed above", file=sys.stderr)
        return INTERRUPTED
    return 0


def _run(path: Path, options: EvaluateOptions) -> int:
    """Add readouts to one run and print them. Readouts on other images than the run's own are only printed."""
    _only_here(options)
    if options.base is not None:
        return _file(path, options)
    run = check_done(path)
    before = known(run)
    try:
        new = evaluate_run(path, options.protocols, options.device, options.moved_to)
    except BaseException as error:
        return _cut_short(run, before, error, options.place)
    if distributed.rank():
        return 0
    has = known(run)
    there = {f"test/{name}": has[f"test/{name}"] for name in headlines(options.protocols) if f"test/{name}" in has}
    there = {name: value for name, value in there.items() if name not in new}
    if new:
        _print_added(path, {**there, **new}, options.place)
    else:
        print_readouts(there)
        print(f"the run has them already; to compute them again: evaluate {path / schema.ENCODER}")
    return 0


def _cut_short(run: RunDirectory, before: Mapping[str, float], error: BaseException, place: Place) -> int:
    """After an error: print what had been added. Returns exit code 1 for Busy, and for a ValueError after an addition.

    Raises every other error again: a ValueError with nothing added is wrong input.
    """
    added = {} if distributed.rank() else {name: value for name, value in known(run).items() if name not in before}
    if added:
        _print_added(run.path, added, place)
    if isinstance(error, Busy):
        print(f"{error}; {'no more' if added else 'nothing'} was added")
    elif isinstance(error, ValueError) and added:
        print(f"error: {error}", file=sys.stderr)
    else:
        raise error
    return 1


def _print_added(path: Path, readouts: Mapping[str, float | None], place: Place) -> None:
    print_readouts(readouts)
    print(f"added to {path}", flush=True)
    _bring_to_mlflow(replace(place, root=path.parent), [path.name])


def print_readouts(readouts: Mapping[str, float | None], at_least: int = 0) -> None:
    width = max(map(len, readouts), default=0)
    for name, value in readouts.items():
        print(f"{name:<{max(width, at_least)}}  {'-' if value is None else f'{value:.4g}'}", flush=True)


def _sweep(found: Sequence[Found], options: EvaluateOptions, show_table: ShowTable) -> int:
    root, protocols, profile = options.place.root, options.protocols, options.profile
    if distributed.size() > 1:
        raise ValueError(
            f"WORLD_SIZE = {distributed.size()}: a sweep is judged by one command; several processes share one run"
        )
    if options.device and options.device.startswith("cuda:"):
        raise ValueError(
            f"--device {options.device}: the runs of a sweep share out all GPUs; say cuda, or choose one run"
        )
    if options.device and profile is not None:
        raise ValueError(f"--device {options.device}: on a cluster a run is judged as it was trained; leave it out")
    if options.moved_to and profile is not None:
        raise ValueError(
            f"--set data.root={options.moved_to}: judge the runs here; jobs of a cluster take it from the run"
        )
    if options.max_parallel is not None and options.max_parallel < 1:
        raise ValueError(f"--max-parallel {options.max_parallel}: must be at least 1")
    done = _finished(root, found)
    todo = {run.run_id: run.name for run in done if missing(RunDirectory(root / run.run_id), protocols)}
    for run in done:
        if run.run_id not in todo:
            complete(RunDirectory(root / run.run_id))
    label = found[0].label or options.target
    have = len(done) - len(todo)
    if have:
        print(f"{have} of {len(done)} finished runs have {', '.join(protocols)} already")
    paths = [root / run_id for run_id in todo]
    if profile is not None:
        from experiments.evaluate.cluster import submit_and_print

        submit_and_print(root, label, paths, protocols, profile, options.max_parallel)
        return 0
    code = _evaluate_all(label, todo, paths, options) if todo else 0
    if code != INTERRUPTED:
        _bring_to_mlflow(options.place, list(todo))
        show_table(root, label, headlines(protocols)[0])
    return code


def _finished(root: Path, found: Sequence[Found]) -> list[Found]:
    """The finished runs, each once; the others are counted on the terminal. Raises ValueError if none is finished."""
    runs = list({run.run_id: run for run in found}.values())
    states = {run.run_id: state_of(root / run.run_id).state for run in runs}
    done = [run for run in runs if states[run.run_id] == schema.DONE]
    others = Counter(state for state in states.values() if state != schema.DONE)
    words = ", ".join(f"{count} {state}" for state, count in others.items())
    if not done:
        raise ValueError(f"{found[0].label or 'these runs'}: none of {len(runs)} runs is done ({words})")
    if others:
        print(f"left out, not done: {words}")
    return done


def _evaluate_all(label: str, names: dict[str, str], paths: Sequence[Path], options: EvaluateOptions) -> int:
    slots = make_slots(options.max_parallel, len(paths), use_gpus=options.device != "cpu")
    pool, failed, evaluated = (
        EvaluationPool(slots, report, (options.protocols, options.device, options.moved_to)),
        {},
        0,
    )
    with Progress(label, names, options.protocols) as view:
        outcomes = pool.outcomes(paths)
        try:
            for outcome in outcomes:
                view.one_done(outcome)
                evaluated += outcome.error is None
                if outcome.error is not None:
                    failed[outcome.run_id] = outcome.error
        except KeyboardInterrupt:
            outcomes.close()
            print(f"interrupted: {evaluated} of {len(paths)} runs judged; the same command goes on from there")
            return INTERRUPTED
    if failed:
        print(f"{len(failed)} of {len(paths)} runs could not be judged:")
        for run_id, error in failed.items():
            print(f"  {names[run_id]}: {error}")
    return 1 if failed else 0


def _bring_to_mlflow(place: Place, run_ids: Iterable[str]) -> None:
    """Sync every sweep that has one of these runs, each in a process of its own. A sync that fails loses nothing."""
    wanted = set(run_ids)
    labels = [m["label"] for m in all_manifests(place.root) if any(c.run_id in wanted for c in cells_of(m))]
    if tracking_off() or not labels:
        return
    for label in labels:
        command = [sys.executable, "-m", "experiments", "sync", label]
        subprocess.run(command, env=child_environment(**place.environment), check=False)


__all__ = ["evaluate", "print_readouts"]
