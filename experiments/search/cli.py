"""The command line of a search: `main(SEARCH)` at the end of a file in `sweeps/`.

Exit 0: the trials asked for are finished. 1: some are not. 2: wrong input, nothing was started. 130: interrupted, the same
command goes on. `--dry-run` imports neither torch nor optuna.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from experiments.launch import cli
from experiments.launch.grid import paragraph
from experiments.launch.profiles import Profile, Settings, load_profile, profile_names
from experiments.plan.baselines import BASELINES
from experiments.plan.parser import Parser
from experiments.plan.sweep import training_images
from experiments.run.cluster import cluster_named
from experiments.run.machine import make_slots
from experiments.search.definition import PRUNERS, SAMPLERS, Planned, Search, changes, plan
from experiments.search.space import words
from experiments.search.storage import STORAGE, address_of, named
from experiments.store import schema
from experiments.store.files import now
from experiments.store.schema import SearchRecord
from experiments.store.search_record import finished, read_record, record_path

INTERRUPTED = 130
EPILOG = (
    "Runs live under $MOCO_RUNS, by default runs/ in the current folder, the study in its searches/. Ctrl-C once saves and "
    "stops, twice kills; the same command goes on."
)


def main(search: Search) -> NoReturn:
    """Search as the command line says, and exit."""
    sys.exit(run(search, sys.argv[1:]))


def run(search: Search, arguments: Sequence[str]) -> int:
    """The exit code. A user's mistake is one line on stderr."""
    try:
        options = parser(search).parse_args(arguments)
        return carry_out(search, options, cli.command_line(arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parser(search: Search) -> Parser:
    contract = getattr(sys.modules["__main__"], "__doc__", None) or search.question
    result = Parser(
        prog=f"sweeps/{search.name}.py",
        description=contract,
        allow_abbrev=False,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add(
        "--cluster",
        default="local",
        metavar="NAME",
        help=f"local (default): workers on this machine; a Slurm profile: {', '.join(profile_names())}",
    )
    add("--baseline", metavar="NAME", help=f"{', '.join(BASELINES)} (default: {search.base}, or the profile's)")
    cli.add_set(result)
    add("--trials", type=int, metavar="N", help=f"finished trials in all, done or pruned (default: {search.budget})")
    add("--workers", type=int, metavar="N", help="at a time (default: one per GPU, else one per core; on Slurm 4)")
    add(
        "--storage",
        metavar="URL",
        help=f"postgresql://USER@HOST/DATABASE (or {STORAGE}); default: a journal file beside the runs",
    )
    add("--sampler", metavar="NAME", help=f"{', '.join(SAMPLERS)} (default: {search.sampler})")
    add("--pruner", metavar="NAME", help=f"{', '.join(PRUNERS)} (default: {search.pruner})")
    add("--sampler-seed", type=int, default=0, metavar="N", help="what a new study draws by (default: 0)")
    add("--warm-start", metavar="SWEEP", help="tell the study the finished runs of a sweep that lie in the space")
    add("--new-study", action="store_true", help="begin anew; the study that is there is kept")
    add("--confirm", metavar="KxN", help="train the K best trials and the base at N fresh seeds, as a sweep, e.g. 5x3")
    add("--retry", action="store_true", help="with --confirm: also run again what failed or was cancelled")
    add("--dry-run", action="store_true", help="print the space and what is there, start nothing")
    add("--yes", action="store_true", help="do not ask")
    add("--wait", action="store_true", help="stay until all workers have ended; local always does")
    return result


def carry_out(search: Search, options: argparse.Namespace, command: str) -> int:
    profile = _profile(options)
    base_name = options.baseline or (profile and profile.baseline) or search.base
    chosen = {k: v for k in ("sampler", "pruner") if (v := getattr(options, k)) is not None}
    search = replace(search, budget=search.budget if options.trials is None else options.trials, **chosen)
    if options.workers is not None and options.workers < 1:
        raise ValueError(f"--workers {options.workers}: must be at least 1")
    planned = plan(search, base_name, options.set)
    address = address_of(options.storage, nodes=profile is not None)
    path = record_path(Settings.of(profile).root, planned.label)
    record = _record(planned, path, options, command, address)
    if options.confirm is not None:
        from experiments.search.result import confirm

        return confirm(record, options, command)
    if options.dry_run:
        show(record, path, planned, profile)
        return 0
    return _search(record, path, options, profile, address)


def _profile(options: argparse.Namespace) -> Profile | None:
    """Of the cluster; None on this machine."""
    if options.cluster == "local":
        return None
    clusters = ["local", *profile_names()]
    if options.cluster not in clusters:
        near = get_close_matches(options.cluster, clusters, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"--cluster {options.cluster}: no such cluster; there are {', '.join(clusters)}{meant}")
    profile = load_profile(options.cluster)
    if profile.processes > 1:
        raise ValueError(
            f"--cluster {profile.name}: it gives a run {profile.processes} processes, a search worker is one; "
            "choose a profile with one GPU"
        )
    return profile


def _record(
    planned: Planned, path: Path, options: argparse.Namespace, command: str, address: str | None
) -> SearchRecord:
    """The record of the study that is there, or of a new one. Raises ValueError where they do not go together."""
    new = planned.record(command, seed=options.sampler_seed, storage=named(address))
    old = read_record(path)
    if old is None:
        return new
    if options.new_study:
        version = int(old["study"].rpartition("~")[2]) if "~" in old["study"] else 1
        return SearchRecord(**{**new, "study": f"{new['label']}~{version + 1}"})
    different = changes(old, new)
    if different:
        raise ValueError(
            f"{new['label']}: the study has {len(old['trials'])} trials of another space ({'; '.join(different)}); "
            "--new-study begins another beside it"
        )
    if old["storage"] != new["storage"]:
        raise ValueError(
            f"{new['label']}: its study is kept in {old['storage']}, not in {new['storage']}; "
            f"name that with --storage or {STORAGE}, or begin another with --new-study"
        )
    return SearchRecord(
        **{
            **old,
            "budget": new["budget"],
            "sampler": new["sampler"],
            "pruner": new["pruner"],
            "command": new["command"],
            "question": new["question"],
            "failure": None,
            "updated": now(),
        }
    )


def show(record: SearchRecord, path: Path, planned: Planned, profile: Profile | None) -> None:
    from moco.config.plain import flatten

    base = flatten(planned.base)
    lines = [f"{record['label']} in {path.parent.parent}", *paragraph(record["question"]), ""]
    width = max(map(len, record["space"]))
    for name, entry in record["space"].items():
        own = base.get(name, base.get(f"{name}.kind"))
        lines.append(f"{name:<{width}}  {words(entry)}  (base: {own})")
    lines += [
        "",
        f"judged by {', '.join(record['metrics'])} on the validation images; sampler {record['sampler']}, "
        f"pruner {record['pruner']}, storage {record['storage']}",
    ]
    lines += [f"within {', '.join(f'{k} {v:g}' for k, v in record['limits'].items())}"] if record["limits"] else []
    done = len(finished(record))
    lines.append(f"{done} of {record['budget']} trials finished, {max(0, record['budget'] - done)} to go")
    lines.append(f"{training_images(planned.base.data)} training images, {planned.base.train.epochs} epochs a trial")
    lines += (
        []
        if profile is None
        else [
            f"workers on {profile.name}: " + " ".join(f"--{name}={value}" for name, value in profile.options().items())
        ]
    )
    print("\n".join(lines))


def _search(
    record: SearchRecord, path: Path, options: argparse.Namespace, profile: Profile | None, address: str | None
) -> int:
    from experiments.search.launch import begin

    cells = options.warm_start and _finished_cells(path.parent.parent, options.warm_start)
    record = begin(path, record, address, cells or [])
    left = record["budget"] - len(finished(record))
    if left <= 0:
        print(f"{record['label']}: nothing to start, {len(finished(record))} of {record['budget']} trials finished")
        return _table(record, path)
    print(f"{record['label']}: {left} of {record['budget']} trials to go in {path.parent.parent}", flush=True)
    if profile is not None:
        return _on_slurm(record, path, options, profile, address)
    return _here(record, path, min(left, options.workers or left), options.workers, address)


def _finished_cells(root: Path, sweep: str) -> list[schema.Cell]:
    """Of a sweep's plan. Raises ValueError for a name that no sweep has."""
    from experiments.tracking.sync import manifests

    return [cell for manifest in manifests(root, sweep)[:1] for cell in manifest["cells"]]


def _here(record: SearchRecord, path: Path, runs: int, workers: int | None, address: str | None) -> int:
    from experiments.launch.launch import tracking
    from experiments.search.launch import View, Workers, closing

    device = record["base_config"]["train"]["device"]
    crew = Workers(path, make_slots(workers, runs, use_gpus=device != "cpu"), address)
    view = View(path)
    view.skip_past()
    with tracking(path.parent.parent, record["label"]):
        completed = crew.run(view)
        record = closing(path, address)
    for line in crew.failures() if completed else []:
        print(line)
    if not completed:
        print(f"interrupted: {len(finished(record))} of {record['budget']} trials finished; the same command goes on")
        return INTERRUPTED
    return _table(record, path)


def _on_slurm(
    record: SearchRecord, path: Path, options: argparse.Namespace, profile: Profile, address: str | None
) -> int:
    from experiments.launch.launch import tracking
    from experiments.search.launch import closing, follow, submit_workers

    left = record["budget"] - len(finished(record))
    jobs = submit_workers(path, record, profile, min(left, options.workers or 4), address)
    if not options.wait:
        return 0
    with tracking(path.parent.parent, record["label"], Settings.of(profile).tracking):
        seen_to_the_end = follow(path, jobs, cluster_named(profile.cluster))
        record = closing(path, address)
    if not seen_to_the_end:
        print("not followed any more; the jobs go on")
        return INTERRUPTED
    return _table(record, path)


def _table(record: SearchRecord, path: Path) -> int:
    from experiments.search.launch import print_table

    count, name = len(finished(record)), record["name"]
    print_table(path.parent.parent, record["label"])
    if record["failure"]:
        print(f"given up: {record['failure']}")
    if count < record["budget"]:
        print(f"{count} of {record['budget']} trials finished; the same command goes on")
        return 1
    print(f"figures: python -m analysis search {name}; is the best one lucky? python sweeps/{name}.py --confirm 5x3")
    return 0
