"""The command line of a search, `main(SEARCH)` at the end of a file in `sweeps/`; and the verb `adopt`.

    run          the exit code of one command: reads the flags, then `carry_out`
    carry_out    shows, searches, or confirms the best trials, as the flags say
    adopt        prints the winner as a baseline, or why the base stays

Exit 0: the trials asked for are finished. 1: some are not. 2: wrong input, nothing was started. 130: interrupted, the
same command goes on. `--dry-run` imports neither torch nor optuna.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.commands import sweep as sweep_command
from experiments.commands.answers import show_search, show_table
from experiments.launch.grid import paragraph
from experiments.launch.options import INTERRUPTED, LOCAL, LaunchOptions, Place, add_cluster_set, cluster_profile
from experiments.plan.disk import no_room
from experiments.plan.parser import AddVerb, Parser, add_set, command_line
from experiments.plan.registry import baselines
from experiments.run.cluster import Profile, cluster_named, profile_names
from experiments.run.machine import make_slots, visible_gpus
from experiments.search.address import STORAGE, address_of, environment, named
from experiments.search.definition import PRUNERS, SAMPLERS, Planned, Search, changes, plan
from experiments.search.space import describe
from experiments.store import schema
from experiments.store.files import now
from experiments.store.run import runs_root
from experiments.store.schema import SearchRecord
from experiments.store.search_record import arm_of, finished, not_ranked, read_record, record_named, record_path
from moco.data.catalog import training_images

if TYPE_CHECKING:
    from analysis.advantage import Advantage
    from experiments.launch.process import Work
    from experiments.search.result import Fresh

EPILOG = (
    "Runs live under $MOCO_RUNS, by default runs/ in the current folder, the study in its searches/. Ctrl-C once saves and "
    "stops, twice kills; the same command goes on."
)


@dataclass(frozen=True)
class SearchOptions:
    """The flags of a search. `profile` is that of `cluster`, None on this machine."""

    command: str  # that starts the same search again
    place: Place
    cluster: str = LOCAL
    profile: Profile | None = None
    baseline: str | None = None
    settings: tuple[str, ...] = ()  # of --set
    trials: int | None = None
    workers: int | None = None
    storage: str | None = None
    sampler: str | None = None
    pruner: str | None = None
    sampler_seed: int = 0
    max_hours: float | None = None
    warm_start: str | None = None
    new_study: bool = False
    confirm: str | None = None
    retry: bool = False
    dry_run: bool = False
    yes: bool = False
    wait: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers {self.workers}: must be at least 1")
        if self.max_hours is not None and not 0 < self.max_hours < math.inf:
            raise ValueError(f"--max-hours {self.max_hours:g}: must be above 0")


@dataclass(frozen=True)
class Workers:
    """What a worker does: as a process of this machine (`here`), and as a job of an array (`element`)."""

    here: Work
    element: Callable[[str], object]


def run(search: Search, arguments: Sequence[str], workers: Workers | None = None) -> int:
    """Run a command line and return the exit code. A user's mistake is one line on stderr. `workers`: None to train."""
    try:
        options = search_options(parser(search).parse_args(arguments), command_line(arguments))
        return carry_out(search, options, workers)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {no_room(error)}", file=sys.stderr)
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
    add_cluster_set(result)
    add("--baseline", metavar="NAME", help=f"{', '.join(baselines())} (default: {search.base}, or the profile's)")
    add_set(result)
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
    add(
        "--max-hours", type=float, metavar="H", help="begin no trial after so many hours from now; those that run go on"
    )
    add("--warm-start", metavar="SWEEP", help="tell the study the finished runs of a sweep that lie in the space")
    add("--new-study", action="store_true", help="begin anew; the study that is there is kept")
    add("--confirm", metavar="KxN", help="train the K best trials and the base at N fresh seeds, as a sweep, e.g. 3x10")
    add("--retry", action="store_true", help="with --confirm: also run again what failed or was cancelled")
    add("--dry-run", action="store_true", help="print the space and what is there, start nothing")
    add("--yes", action="store_true", help="do not ask")
    add("--wait", action="store_true", help="stay until all workers have ended; local always does")
    return result


def search_options(given: argparse.Namespace, command: str) -> SearchOptions:
    """The flags, checked, with the profile of --cluster. Raises ValueError for wrong ones."""
    profile = cluster_profile(given.cluster, settings=given.cluster_set)
    if profile is not None and profile.processes > 1:
        raise ValueError(
            f"--cluster {profile.name}: it gives a run {profile.processes} processes, a search worker is one; "
            "choose a profile with one GPU"
        )
    flags = {name: value for name, value in vars(given).items() if name not in ("set", "cluster_set")}
    return SearchOptions(**flags, command=command, place=Place.of(profile), profile=profile, settings=tuple(given.set))


def carry_out(search: Search, options: SearchOptions, workers: Workers | None = None) -> int:
    """Do what the flags say and return the exit code. Raises ValueError for wrong input, with nothing started."""
    base_name = options.baseline or (options.profile and options.profile.baseline) or search.base
    search = replace(
        search,
        budget=search.budget if options.trials is None else options.trials,
        sampler=options.sampler or search.sampler,
        pruner=options.pruner or search.pruner,
    )
    gpu = bool(visible_gpus()) if options.profile is None else options.profile.gpus_per_node > 0
    planned = plan(search, base_name, options.settings, gpu=gpu)
    if planned.proposal:
        print("\n".join(paragraph(planned.proposal)))
    address = address_of(options.storage, nodes=options.profile is not None)
    path = record_path(options.place.root, planned.label)
    for label, to_set in planned.of_before.items():
        if record_path(options.place.root, label).exists() and not path.exists():
            text = f"warning: the search {label} is of before the images were looked at or compared by their contents; "
            print("\n".join(paragraph(f"{text}--set {to_set} goes on with it, comparing names and sizes only")))
    record = _record(planned, path, options, address)
    if options.confirm is not None:
        return confirm(record, options.confirm, options)
    if options.dry_run:
        show(record, path, planned, options.profile)
        return 0
    return _search(record, path, options, address, workers)


def _record(planned: Planned, path: Path, options: SearchOptions, address: str | None) -> SearchRecord:
    """The record of the existing study, with the new flags, or of a new one.

    Raises ValueError where the existing study has another space, metric, base or storage.
    """
    new = planned.record(options.command, seed=options.sampler_seed, storage=named(address))
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
            "sampler_options": new.get("sampler_options", {}),
            "pruner": new["pruner"],
            "command": options.command,
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
        lines.append(f"{name:<{width}}  {describe(entry)}  (base: {own})")
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
    record: SearchRecord, path: Path, options: SearchOptions, address: str | None, workers: Workers | None
) -> int:
    from experiments.search.launch import WORKER, begin
    from experiments.search.worker import work

    workers = workers or Workers(WORKER, work)
    cells = _finished_cells(options.place.root, options.warm_start) if options.warm_start else []
    record = begin(path, record, address, cells)
    left = record["budget"] - len(finished(record))
    if left <= 0:
        print(f"{record['label']}: nothing to start, {len(finished(record))} of {record['budget']} trials finished")
        return _table(record, options.place)
    print(f"{record['label']}: {left} of {record['budget']} trials to go in {options.place.root}", flush=True)
    if options.profile is not None:
        return _on_cluster(record, path, options, options.profile, address, workers)
    return _here(record, path, options, address, workers)


def _finished_cells(root: Path, sweep: str) -> list[schema.Cell]:
    """The cells of a sweep, for --warm-start. Raises ValueError for an unknown sweep."""
    from experiments.tracking.sync import manifests

    return [cell for manifest in manifests(root, sweep)[:1] for cell in manifest["cells"]]


def _here(record: SearchRecord, path: Path, options: SearchOptions, address: str | None, workers: Workers) -> int:
    from experiments.launch.launch import tracking
    from experiments.search.launch import LocalWorkers, View, closing

    left = record["budget"] - len(finished(record))
    device = record["base_config"]["train"]["device"]
    slots = make_slots(options.workers, min(left, options.workers or left), use_gpus=device != "cpu")
    given = environment(address, options.max_hours)
    pool, view = LocalWorkers(path, slots, given, workers.here), View(path)
    view.skip_past()
    with tracking(options.place, record["label"]):
        completed = pool.run(view)
        record = closing(path, address)
    for line in pool.failures if completed else []:
        print(line)
    if not completed:
        print(f"interrupted: {len(finished(record))} of {record['budget']} trials finished; the same command goes on")
        return INTERRUPTED
    return _table(record, options.place)


def _on_cluster(
    record: SearchRecord,
    path: Path,
    options: SearchOptions,
    profile: Profile,
    address: str | None,
    workers: Workers,
) -> int:
    from experiments.launch.launch import tracking
    from experiments.search.launch import closing, follow, submit_workers

    left = record["budget"] - len(finished(record))
    given = environment(address, options.max_hours)
    jobs = submit_workers(path, record, profile, min(left, options.workers or 4), given, workers.element)
    if not options.wait:
        return 0
    with tracking(options.place, record["label"]):
        seen_to_the_end = follow(path, jobs, cluster_named(profile.cluster))
        record = closing(path, address)
    if not seen_to_the_end:
        print("not followed any more; the jobs go on")
        return INTERRUPTED
    return _table(record, options.place)


def _table(record: SearchRecord, place: Place) -> int:
    count, name = len(finished(record)), record["name"]
    show_search(place.root, record["label"])
    if record["failure"]:
        print(f"given up: {record['failure']}")
    if count < record["budget"]:
        print(f"{count} of {record['budget']} trials finished; the same command goes on")
        return 1
    print(f"figures: python -m analysis search {name}; is the best one lucky? python sweeps/{name}.py --confirm 3x10")
    return 0


def confirm(record: SearchRecord, wanted: str, options: SearchOptions) -> int:
    """`--confirm 5x3`: train the best trials and the base at fresh seeds, as an ordinary sweep; returns its exit code.

    Raises ValueError where there is no finished trial.
    """
    from experiments.search.result import best, confirmation, parse

    count, seeds = parse(wanted)
    winners = best(record, count)
    if not winners:
        over = not_ranked(record)
        if over:
            first = next(iter(over))
            raise ValueError(
                f"--confirm {wanted}: no done trial of {record['label']} can be ranked (trial {first}: {over[first]}); "
                "raise the limits, or search on"
            )
        raise ValueError(f"--confirm {wanted}: {record['label']} has no finished trial yet; search first")
    launch = LaunchOptions(
        command=options.command,
        place=options.place,
        show_table=show_table,
        cluster=options.cluster,
        profile=options.profile,
        baseline=options.baseline,
        settings=tuple(
            text for text in options.settings if text.partition("=")[0].strip() != "train.seed"
        ),  # fresh ones
        max_parallel=options.workers,
        dry_run=options.dry_run,
        retry=options.retry,
        yes=options.yes,
        wait=options.wait,
    )
    return sweep_command.carry_out(confirmation(record, winners, seeds), launch)


def register(add: AddVerb) -> None:
    take = add(
        "adopt",
        help="the winner of a search as a baseline to paste, if fresh seeds have one",
        allow_abbrev=False,
        description="Print the trial that fresh seeds (--confirm) tell apart from the base as better, by the rule for a "
        "claim. Without one the base stays: the reason is printed, as a comment, and the exit code is 1.",
    )
    take.add_argument("search", metavar="SEARCH", help="name or label of a search, e.g. search_moco")
    take.add_argument(
        "--trial", type=int, metavar="N", help="this trial, whatever speaks for it; needed with several objectives"
    )
    take.set_defaults(run=adopt)


def adopt(options: argparse.Namespace, command: str) -> int:
    """Print the winner as a baseline and return 0, or why the base stays, in lines that are Python comments, and return 1."""
    from analysis.advantage import advantages, best
    from analysis.table import added_by_results
    from experiments.search.result import BASE, check_one_winner, confirmed, evidence, imports, source, trial_numbered

    root = runs_root()
    record = record_named(root, options.search)
    fresh = confirmed(root, record)
    found: Mapping[str, Advantage] = {}
    if fresh is not None:
        found = advantages(
            fresh.of_trials,
            fresh.values.get(BASE, {}),
            higher_is_better=record["directions"][0] == "maximize",
            sequential=added_by_results(fresh.manifest),
        )
    if options.trial is not None:
        trial = trial_numbered(record, options.trial)
        if not (one := found.get(arm_of(trial["number"]))) or not one.believed:
            print("warning: fresh seeds do not tell this trial apart from the base as better", file=sys.stderr)
    else:
        check_one_winner(record)
        arm = best(found)
        if fresh is None or arm is None:
            print("\n".join(f"# {line}" for line in base_stays(record, fresh, found)))
            return 1
        trial, one = fresh.trials[arm], found[arm]
    text = source(record, trial, evidence(record, trial, fresh) + (f"\n\n    {advantage_line(one)}" if one else ""))
    print(f"from dataclasses import replace\n\nfrom experiments.plan.baselines import {record['base']}")
    print(f"{imports(text)}\n\n\n{text}", end="")
    return 0


def advantage_line(one: Advantage) -> str:
    """`Above the base by 1.2 [0.4, 2.0] (n = 5, p 0.01 after Holm); 0.9 are expected of it at further seeds.`"""
    c = one.comparison
    if c is None:
        return "Not confirmed: seeds are missing."
    interval = "" if c.low is None or c.high is None else f" [{c.low:+.2f}, {c.high:+.2f}]"
    stops = ", for seeds that were added after results" if c.sequential else ""
    p = "" if one.p is None else f", p {one.p:.2g} after Holm over the confirmed trials{stops}"
    rest = "" if one.shrunken is None else f"; {one.shrunken:+.2f} are expected of it at further seeds (shrunken)"
    return f"Better than the base by {c.difference:+.2f}{interval} (n = {c.n}{p}){rest}."


def base_stays(record: SearchRecord, fresh: Fresh | None, found: Mapping[str, Advantage]) -> list[str]:
    """Why, and what to do, in lines without the sign of a comment."""
    from analysis.stats import SEEDS_TO_CLAIM

    again = f"python sweeps/{record['name']}.py --confirm 3x{2 * SEEDS_TO_CLAIM}"
    head = f"{record['label']}: the base {record['base']} stays"
    if fresh is None:
        return [
            f"{head}: every trial was chosen by one seed, and the best of many is a lucky one.",
            f"Fresh seeds: {again}",
        ]
    lines = [f"{head}: fresh seeds tell no trial apart from it as better."]
    lines += [f"{arm}: {advantage_line(one)}" for arm, one in found.items()]
    if fresh.missing:
        lines.append(f"Not all seeds are there of {', '.join(fresh.missing)}.")
    seeds = max(map(len, fresh.values.values()), default=0)
    if seeds < SEEDS_TO_CLAIM:
        lines.append(f"A claim needs {SEEDS_TO_CLAIM} seeds or more: {again}")
    return [*lines, f"A trial all the same: python -m experiments adopt {record['name']} --trial N"]
