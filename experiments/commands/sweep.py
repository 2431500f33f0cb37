"""The command line of a sweep: `main(SWEEP)` at the end of a file in `sweeps/`.

    run          the exit code of one command: reads the flags, then `carry_out`
    carry_out    plans the sweep and does what the flags say with the plan: show, calibrate, start here, submit

Exit 0: done. 1: some runs failed, they are listed with their last line. 2: wrong input, nothing was started.
130: interrupted, the same command goes on. `--dry-run` imports neither torch nor mlflow nor seaborn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.commands.answers import show_table, undecided
from experiments.commands.arms import reasons
from experiments.launch.adaptive import Rounds
from experiments.launch.grid import many, paragraph
from experiments.launch.launch_plan import LaunchPlan
from experiments.launch.options import (
    DEBUG,
    FIRST_DECISION,
    INTERRUPTED,
    LOCAL,
    LOOKS,
    MAX_SEEDS,
    LaunchOptions,
    Place,
    add_cluster_set,
    cluster_profile,
)
from experiments.plan.by_names import with_runs_of_before
from experiments.plan.disk import no_room
from experiments.plan.manifest import check_file, events_of, merged, write_manifest
from experiments.plan.orphans import orphans
from experiments.plan.parser import Parser, add_set, command_line, script
from experiments.plan.proposal import of_fixed, start
from experiments.plan.registry import baselines
from experiments.plan.sweep import Plan, Sweep, plan
from experiments.run import distributed
from experiments.run.cluster import Profile, profile_names
from experiments.run.machine import share_a_gpu, slots_on_gpus, visible_gpus
from experiments.run.provenance import check_script
from experiments.store import schema
from experiments.store.manifests import all_manifests
from experiments.store.run import RunDirectory
from experiments.store.secrets import without_secrets

if TYPE_CHECKING:
    from experiments.launch.process import Work


def run(sweep: Sweep, arguments: Sequence[str], work: Work | None = None) -> int:
    """Run a command line and return the exit code. A user's mistake is one line on stderr.

    work: what the local pool does with a run, None to train.
    """
    try:
        check_script(Path(sys.argv[0]))
        options = launch_options(parser(sweep).parse_args(arguments), command_line(arguments), work)
        code = carry_out(sweep, options)
        if options.notify is not None and not options.dry_run:
            _notify(options.notify, sweep.name, code)
        return code
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {no_room(error)}", file=sys.stderr)
        return 2


def _notify(command: str, sweep: str, code: int) -> None:
    """Run the user's command. That it fails changes nothing about the sweep."""
    variables = {"MOCO_SWEEP": sweep, "MOCO_EXIT_CODE": str(code)}
    failed = subprocess.run(command, shell=True, env={**os.environ, **variables}, check=False).returncode
    if failed:
        print(f"--notify: {without_secrets(command)} ended with exit code {failed}", file=sys.stderr)


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
        default=LOCAL,
        metavar="NAME",
        help=f"local (default): a pool on this machine; debug: one run here; a Slurm profile: {', '.join(profile_names())}",
    )
    add_cluster_set(result)
    add("--baseline", metavar="NAME", help=f"{', '.join(baselines())} (default: {sweep.base}, or the profile's)")
    add_set(result)
    add("--seeds", type=int, metavar="N", help=f"seeds 0 to N-1 for every arm (default: {sweep.seeds})")
    add("--only", nargs="+", action="extend", metavar="ARM", help="run these arms; the others stay planned")
    add("--max-parallel", type=int, metavar="N", help="runs at a time (default: one per GPU, else one per core)")
    add("--pack", type=int, metavar="K", help="runs that share one GPU; on a cluster, one job (default: 1)")
    add("--dry-run", action="store_true", help="print the grid with its states and the estimated time, start nothing")
    add("--look", type=Path, metavar="FILE", help="write a page with each arm's augmented views, start nothing")
    add("--retry", action="store_true", help="also run again what failed or was cancelled")
    add("--force", action="store_true", help="run everything anew; finished runs are set aside, not deleted")
    add("--yes", action="store_true", help="do not ask")
    add("--until-significant", action="store_true", help="add seeds to the arms that are not told apart yet")
    add("--max-seeds", type=int, metavar="N", help=f"where --until-significant ends (default: {MAX_SEEDS})")
    add("--looks", choices=LOOKS, help=f"fix its looks beforehand, every {FIRST_DECISION} seeds, for more power")
    add("--wait", action="store_true", help="stay until all runs have ended; local always does")
    add(
        "--notify",
        metavar="COMMAND",
        help="run it at the end, in a shell; MOCO_SWEEP and MOCO_EXIT_CODE say how it went",
    )
    add("--max-gpu-hours", type=float, metavar="H", help="ask before a launch that may take more, or an unknown number")
    add("--calibrate", action="store_true", help="time 20 steps there, for --max-gpu-hours; start nothing else")
    return result


def launch_options(given: argparse.Namespace, command: str, work: Work | None = None) -> LaunchOptions:
    """The flags, checked, with the profile of --cluster. Raises ValueError for wrong ones."""
    profile = cluster_profile(given.cluster, here=(LOCAL, DEBUG), settings=given.cluster_set)
    flags = {name: value for name, value in vars(given).items() if name not in ("set", "only", "cluster_set")}
    options = LaunchOptions(
        **flags,
        command=command,
        place=Place.of(profile),
        profile=profile,
        settings=tuple(given.set),
        only=tuple(given.only or ()),
        cluster_settings=tuple(given.cluster_set),
        show_table=show_table,
        work=work,
    )
    if profile is not None:
        return replace(options, profile=replace(profile, pack=options.pack or profile.pack))
    slots = slots_on_gpus(options.pack) if options.pack and not options.max_parallel else options.max_parallel
    return replace(options, max_parallel=slots)


def carry_out(sweep: Sweep, options: LaunchOptions) -> int:
    """Plan the sweep, do what the flags say, and return the exit code.

    Raises ValueError for wrong input, with nothing started.
    """
    if distributed.size() > 1:
        raise ValueError(
            f"WORLD_SIZE = {distributed.size()}: a sweep is started once; its runs have several processes each with a "
            "--cluster profile that says so (tasks_per_node), and one run has them with torchrun -m experiments pretrain"
        )
    base_name = options.baseline or (options.profile and options.profile.baseline) or sweep.base
    begun = start(base_name, options.settings, gpu=_on_gpu(options.profile))
    if begun.line:
        print("\n".join(paragraph(begun.line)))

    def planned(seeds: int | None) -> Plan:
        make = partial(plan, sweep, base_name=base_name, preset=begun.preset, seeds=seeds)
        made = with_runs_of_before(make, begun.base, options.place.root)
        fingerprint = made.arms[made.baseline].data.fingerprint
        fixed = of_fixed(
            begun, fingerprint, lambda base: [cell.run_id for cell in make(base).cells()], options.place.root
        )
        return replace(made, warnings=(*made.warnings, fixed)) if fixed else made

    launch_plan = LaunchPlan.of(planned(options.seeds), options)
    if options.look is not None:
        from experiments.commands.look import write_views

        trained = {arm: config for arm, config in launch_plan.planned.arms.items() if arm != schema.RANDOM_INIT}
        return write_views(
            trained, f"{launch_plan.planned.label}: what each arm is shown", options.command, options.look
        )
    if (file := script()) is not None:
        check_file(launch_plan.root, launch_plan.planned, file)
    if options.calibrate:
        from experiments.launch.calibration import calibrate

        return calibrate(launch_plan)
    if options.until_significant and not options.dry_run:
        return Rounds(planned, _start_round, undecided, options).run(len(launch_plan.planned.seeds))
    if options.profile is not None:
        return _on_cluster(launch_plan, options.profile)
    if options.cluster == DEBUG:
        launch_plan = launch_plan.first()
    if options.dry_run:
        launch_plan.show(launch_plan.would_start())
        _look_ahead(launch_plan)
        return 0
    _ask_first(launch_plan)
    _write_plan(launch_plan)
    if options.force:
        _set_aside(launch_plan)
    if not launch_plan.to_run:
        return _nothing_to_start(launch_plan)
    launch_plan.announce()
    return _debug(launch_plan) if options.cluster == DEBUG else _local(launch_plan)


def _on_gpu(profile: Profile | None) -> bool:
    """Will the runs have a GPU, there or here?"""
    return bool(visible_gpus()) if profile is None else profile.gpus_per_node > 0


def _write_plan(launch_plan: LaunchPlan) -> None:
    """Record the plan, and print what it does to arms that were planned before."""
    file = script()
    made = write_manifest(
        launch_plan.root, launch_plan.planned, launch_plan.options.command, None if file is None else str(file)
    )
    for line in events_of(made):
        print("\n".join(paragraph(line)))


def _look_ahead(launch_plan: LaunchPlan) -> None:
    """Print what writing this plan would do to arms that were planned before, and which runs would count in no table."""
    root, label = launch_plan.root, launch_plan.planned.label
    would = merged(root, launch_plan.planned, launch_plan.options.command)
    for line in events_of(would):
        print("\n".join(paragraph(line)))
    plans = [would, *(manifest for manifest in all_manifests(root) if manifest["label"] != label)]
    lines = reasons(root, [one for one in orphans(root, plans) if one.label == label])
    if lines:
        print("\n".join(lines))


def _start_round(launch_plan: LaunchPlan) -> int:
    """One round of `--until-significant`: start its runs and wait for them. Returns the exit code."""
    _ask_first(launch_plan)
    profile = launch_plan.options.profile
    if profile is None:
        return _local(launch_plan)
    from experiments.launch.cluster import check_shared_disk, follow_to_the_end, looking_again, submit_plan

    disk_check = check_shared_disk(launch_plan.root, profile) if launch_plan.to_run else None
    with looking_again(launch_plan) as launch_plan:
        left = submit_plan(launch_plan, wait=True, only_if=disk_check)
    return follow_to_the_end(launch_plan, left)


def _on_cluster(launch_plan: LaunchPlan, profile: Profile) -> int:
    """Submit the sweep, after the checks that can refuse it. Returns the exit code."""
    from experiments.launch.cluster import (
        awaited,
        check_shared_disk,
        check_shares,
        follow_to_the_end,
        looking_again,
        submit_plan,
        without_queued,
    )
    from experiments.launch.preview import Preview

    options = launch_plan.options
    launch_plan = without_queued(launch_plan, force=options.force)
    check_shares(launch_plan.to_run, profile)
    preview = Preview(launch_plan, profile)
    if options.dry_run:
        launch_plan.show(preview.text())
        _look_ahead(launch_plan)
        return 0
    _ask_first(launch_plan)
    disk_check = check_shared_disk(launch_plan.root, profile) if launch_plan.to_run else None
    with looking_again(launch_plan) as launch_plan:
        _write_plan(launch_plan)
        if options.force:
            _set_aside(launch_plan)
        if not launch_plan.to_run and not awaited(launch_plan):
            return _nothing_to_start(launch_plan)
        left = submit_plan(launch_plan, wait=options.wait, only_if=disk_check)
    return follow_to_the_end(launch_plan, left) if options.wait else 0


def _ask_first(launch_plan: LaunchPlan) -> None:
    """Ask for what needs confirmation: too many GPU hours, finished runs to be trained again.

    Raises ValueError if the answer is no, or if there is nobody to ask.
    """
    options = launch_plan.options
    if options.max_gpu_hours is not None:
        from experiments.launch.preview import check_hours

        check_hours(launch_plan, options.profile, options.max_gpu_hours, yes=options.yes)
    if options.force:
        _confirm(launch_plan)


def _confirm(launch_plan: LaunchPlan) -> None:
    for cell in launch_plan.to_run:
        if launch_plan.states[cell.run_id].state == schema.RUNNING:
            raise ValueError(f"--force: {cell.name} is running; cancel it first, or leave out --force")
    done = sum(launch_plan.states[cell.run_id].state == schema.DONE for cell in launch_plan.to_run)
    if launch_plan.options.yes or not done:
        return
    if not sys.stdin.isatty():
        raise ValueError(f"--force: {many(done, 'finished run')} would be trained again; add --yes if that is meant")
    answer = input(f"{many(done, 'finished run')} will be set aside and trained again. Go on? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise ValueError("--force: not confirmed, nothing was started")


def _set_aside(launch_plan: LaunchPlan) -> None:
    for cell in launch_plan.to_run:
        run = RunDirectory(launch_plan.root / cell.run_id)
        if run.exists():
            print(f"{cell.name}: the old run is now {run.set_aside()}")


def _nothing_to_start(launch_plan: LaunchPlan) -> int:
    not_done = launch_plan.say_nothing_to_start()
    launch_plan.show_table()
    return 1 if not_done else 0


def _local(launch_plan: LaunchPlan) -> int:
    from experiments.launch.launch import Launch, summary, tracking

    options, label, began = launch_plan.options, launch_plan.planned.label, time.monotonic()
    launch = Launch(launch_plan.root, label, launch_plan.to_run, options.command, options.work)
    launch.environment["pack"] = share_a_gpu(launch.slots(options.max_parallel))
    launch.enqueue()
    with tracking(options.place, label):
        completed = launch.run(options.max_parallel)
    code = summary(launch_plan.root, launch_plan.cells, began, interrupted=not completed)
    if completed:
        launch_plan.show_table()
    return code


def _debug(launch_plan: LaunchPlan) -> int:
    """Train the first run in this process, with the traceback of its error."""
    from experiments.launch.launch import Launch

    (cell,) = launch_plan.to_run
    launch = Launch(launch_plan.root, launch_plan.planned.label, [cell], launch_plan.options.command)
    launch.enqueue()
    print(f"debug: {cell.name} in this process, {launch_plan.root / cell.run_id}")
    try:
        state = launch.run_here(cell, reraise=True)
    except Exception:
        traceback.print_exc()
        return 1
    return {schema.DONE: 0, schema.CANCELLED: 1}.get(state, INTERRUPTED)
