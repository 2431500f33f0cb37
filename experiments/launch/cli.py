"""The command line of a sweep: `main(SWEEP)` at the end of a file in `sweeps/`.

Exit 0: done. 1: some runs failed, they are listed with their last line. 2: wrong input, nothing was started.
130: interrupted, the same command goes on. `--dry-run` imports neither torch nor mlflow nor seaborn.
"""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import NoReturn

from experiments.launch import adaptive
from experiments.launch.launch_plan import Prospect
from experiments.launch.profiles import Profile, Settings, load_profile, profile_names
from experiments.plan.baselines import BASELINES, baseline
from experiments.plan.manifest import write_manifest
from experiments.plan.overrides import apply
from experiments.plan.parser import Parser
from experiments.plan.sweep import Plan, Sweep, plan
from experiments.run import distributed
from experiments.run.machine import share_a_gpu, slots_on_gpus
from experiments.store import schema
from experiments.store.run import RunDirectory, runs_root
from moco.config import Config

CLUSTERS = ("local", "debug")
INTERRUPTED = 130
FREE_SOME = "free some space, or set MOCO_RUNS to another folder"
NO_ROOM = {
    errno.ENOSPC: FREE_SOME,
    errno.EDQUOT: FREE_SOME,
    errno.EROFS: "set MOCO_RUNS to a folder that can be written",
    errno.EACCES: "set MOCO_RUNS to a folder that you may write",
}


def main(sweep: Sweep) -> NoReturn:
    """Run the sweep as the command line says, and exit."""
    sys.exit(run(sweep, sys.argv[1:]))


def run(sweep: Sweep, arguments: Sequence[str]) -> int:
    """The exit code. A user's mistake is one line on stderr."""
    try:
        return carry_out(sweep, parser(sweep).parse_args(arguments), command_line(arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(f"error: {error.filename or runs_root()}: {error.strerror}; {NO_ROOM[error.errno]}", file=sys.stderr)
        return 2


def parser(sweep: Sweep) -> Parser:
    contract = getattr(sys.modules["__main__"], "__doc__", None) or sweep.question
    result = Parser(
        prog=f"sweeps/{sweep.name}.py",
        description=contract,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Runs live under $MOCO_RUNS, by default runs/ in the current folder. Ctrl-C once saves and stops, twice kills.",
    )
    add = result.add_argument
    add(
        "--cluster",
        default="local",
        metavar="NAME",
        help=f"local (default): a pool on this machine; debug: one run here; a Slurm profile: {', '.join(profile_names())}",
    )
    add("--baseline", metavar="NAME", help=f"{', '.join(BASELINES)} (default: {sweep.base}, or the profile's)")
    add_set(result)
    add("--seeds", type=int, metavar="N", help=f"seeds 0 to N-1 for every arm (default: {sweep.seeds})")
    add("--only", nargs="+", action="extend", metavar="ARM", help="run these arms; the others stay planned")
    add("--max-parallel", type=int, metavar="N", help="runs at a time (default: one per GPU, else one per core)")
    add("--pack", type=int, metavar="K", help="runs that share one GPU; on a cluster, one job (default: 1)")
    add("--dry-run", action="store_true", help="print the grid with its states and the estimated time, start nothing")
    add("--retry", action="store_true", help="also run again what failed or was cancelled")
    add("--force", action="store_true", help="run everything anew; finished runs are set aside, not deleted")
    add("--yes", action="store_true", help="do not ask")
    add("--until-significant", action="store_true", help="add seeds to the arms that are not told apart yet")
    add("--max-seeds", type=int, metavar="N", help=f"where --until-significant ends (default: {adaptive.MAX_SEEDS})")
    add("--wait", action="store_true", help="stay until all runs have ended; local always does")
    add("--max-gpu-hours", type=float, metavar="H", help="ask before a launch that may take more, or an unknown number")
    add("--calibrate", action="store_true", help="time 20 steps there, for --max-gpu-hours; start nothing else")
    return result


def add_set(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="override a field of the baseline, e.g. train.epochs=40 optim.lr=0.03; optim=adamw switches a kind",
    )


def command_line(arguments: Sequence[str]) -> str:
    """What to type to get the same again, from the top of the checkout."""
    script = Path(sys.argv[0])
    shown = f"{script.parent.name}/{script.name}" if script.parent.name == "sweeps" else script.name
    return shlex.join(["python", shown, *arguments])


def base_configs(name: str, assignments: Sequence[str]) -> tuple[Config, Config]:
    """The named baseline with the user's settings, and as it is named. Raises ValueError."""
    preset = baseline(name)
    return apply(preset, assignments), preset


def carry_out(sweep: Sweep, options: argparse.Namespace, command: str) -> int:
    _check(options)
    profile = _profile(options)
    options.baseline = options.baseline or (profile and profile.baseline) or sweep.base
    base, preset = base_configs(options.baseline, options.set)
    planned = plan(sweep, base, base_name=options.baseline, preset=preset, seeds=options.seeds)
    root = Settings.of(profile).root
    prospect = Prospect.of(planned, planned.choose(options.only), root, retry=options.retry, force=options.force)
    if options.calibrate:
        from experiments.launch.calibration import calibrate

        return calibrate(prospect, profile)
    if options.until_significant and not options.dry_run:
        at = partial(plan, sweep, base, base_name=options.baseline, preset=preset)
        return _until_significant(lambda seeds: at(seeds=seeds), profile, command, options, len(planned.seeds))
    if profile is not None:
        return _submit(prospect, profile, command, options)
    if options.cluster == "debug":
        prospect = prospect.first()
    if options.dry_run:
        prospect.show(prospect.would_start(options.max_parallel))
        return 0
    _ask_first(prospect, None, options)
    write_manifest(prospect.root, planned, command)
    if options.force:
        _set_aside(prospect)
    if not prospect.to_run:
        return _nothing_to_start(prospect)
    prospect.announce()
    return _debug(prospect, command) if options.cluster == "debug" else _local(prospect, command, options.max_parallel)


def _until_significant(
    planned: Callable[[int], Plan], profile: Profile | None, command: str, options: argparse.Namespace, seeds: int
) -> int:
    def start(prospect: Prospect) -> int:
        _ask_first(prospect, profile, options)
        if profile is None:
            return _local(prospect, command, options.max_parallel)
        from experiments.launch import cluster
        from experiments.launch import cluster as sight

        new = cluster.without_queued(prospect, force=False)
        look = sight.looked_at(new.root, profile) if new.to_run else None
        return cluster.submit_and_follow(new, profile, command, options.max_parallel, wait=True, only_if=look)

    most, at_once = options.max_seeds or adaptive.MAX_SEEDS, options.max_parallel or 1
    return adaptive.Rounds(
        planned, start, Settings.of(profile).root, options.only, options.retry, command, most, at_once
    ).run(seeds)


def _check(options: argparse.Namespace) -> None:
    adaptive.check(options)
    if distributed.size() > 1:
        raise ValueError(
            f"WORLD_SIZE = {distributed.size()}: a sweep is started once; its runs have several processes each with a "
            "--cluster profile that says so (tasks_per_node), and one run has them with torchrun -m experiments pretrain"
        )
    clusters = [*CLUSTERS, *profile_names()]
    if options.cluster not in clusters:
        near = get_close_matches(options.cluster, clusters, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"--cluster {options.cluster}: no such cluster; there are {', '.join(clusters)}{meant}")
    if options.max_parallel is not None and options.max_parallel < 1:
        raise ValueError(f"--max-parallel {options.max_parallel}: must be at least 1")
    if options.pack is not None and options.pack < 1:
        raise ValueError(f"--pack {options.pack}: must be at least 1")
    if options.max_gpu_hours is not None and not options.max_gpu_hours >= 0:
        raise ValueError(f"--max-gpu-hours {options.max_gpu_hours:g}: must be 0 or more")
    for assignment in options.set:
        if assignment.partition("=")[0].strip() == "train.seed":
            raise ValueError(f"--set {assignment}: a sweep sets its seeds itself; use --seeds N for seeds 0 to N-1")


def _profile(options: argparse.Namespace) -> Profile | None:
    """Of the cluster; None on this machine."""
    if options.cluster in CLUSTERS:
        options.max_parallel = options.max_parallel or (options.pack and slots_on_gpus(options.pack))
        return None
    profile = load_profile(options.cluster)
    return replace(profile, pack=options.pack or profile.pack)


def _submit(prospect: Prospect, profile: Profile, command: str, options: argparse.Namespace) -> int:
    """Slurm is asked first: what it refuses is not begun."""
    from experiments.launch import cluster
    from experiments.launch import cluster as sight
    from experiments.launch.preview import Preview

    prospect = cluster.without_queued(prospect, force=options.force)
    cluster.check_shares(prospect.to_run, profile)
    preview = Preview(prospect, profile, options.max_parallel)
    if options.dry_run:
        prospect.show(preview.text())
        return 0
    _ask_first(prospect, profile, options)
    look = sight.looked_at(prospect.root, profile) if prospect.to_run else None
    write_manifest(prospect.root, prospect.planned, command)
    if options.force:
        _set_aside(prospect)
    if not prospect.to_run and not cluster.queued(prospect):
        return _nothing_to_start(prospect)
    most, wait = options.max_parallel, options.wait
    return cluster.submit_and_follow(prospect, profile, command, most, wait=wait, only_if=look)


def _ask_first(prospect: Prospect, profile: Profile | None, options: argparse.Namespace) -> None:
    """Whatever needs a yes. Raises ValueError if there is none."""
    if options.max_gpu_hours is not None:
        from experiments.launch.preview import check_hours

        check_hours(prospect, profile, options.max_gpu_hours, yes=options.yes)
    if options.force:
        _confirm(prospect, yes=options.yes)


def _confirm(prospect: Prospect, *, yes: bool) -> None:
    for cell in prospect.to_run:
        if prospect.states[cell.run_id].state == schema.RUNNING:
            raise ValueError(f"--force: {cell.name} is running; cancel it first, or leave out --force")
    done = sum(prospect.states[cell.run_id].state == schema.DONE for cell in prospect.to_run)
    if yes or not done:
        return
    if not sys.stdin.isatty():
        raise ValueError(f"--force: {done} finished runs would be trained again; add --yes if that is meant")
    answer = input(f"{done} finished runs will be set aside and trained again. Go on? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise ValueError("--force: not confirmed, nothing was started")


def _set_aside(prospect: Prospect) -> None:
    for cell in prospect.to_run:
        run = RunDirectory(prospect.root / cell.run_id)
        if run.exists():
            print(f"{cell.name}: the old run is now {run.set_aside()}")


def _nothing_to_start(prospect: Prospect) -> int:
    from experiments.launch.launch import print_table

    not_done = prospect.say_nothing_to_start()
    print_table(prospect.root, prospect.planned.label)
    return 1 if not_done else 0


def _local(prospect: Prospect, command: str, max_parallel: int | None) -> int:
    from experiments.launch.launch import Launch, print_table, summary, tracking

    root, label, began = prospect.root, prospect.planned.label, time.monotonic()
    launch = Launch(root, label, prospect.to_run, command)
    launch.environment["pack"] = share_a_gpu(launch.slots(max_parallel))
    launch.enqueue()
    with tracking(root, label):
        completed = launch.run(max_parallel)
    code = summary(root, prospect.cells, began, interrupted=not completed)
    if completed:
        print_table(root, label)
    return code


def _debug(prospect: Prospect, command: str) -> int:
    """The first run that is to go, in this process, with its real traceback."""
    from experiments.launch.launch import Launch

    (cell,) = prospect.to_run
    launch = Launch(prospect.root, prospect.planned.label, [cell], command)
    launch.enqueue()
    print(f"debug: {cell.name} in this process, {prospect.root / cell.run_id}")
    try:
        state = launch.run_here(cell, reraise=True)
    except Exception:
        traceback.print_exc()
        return 1
    return {schema.DONE: 0, schema.CANCELLED: 1}.get(state, INTERRUPTED)
