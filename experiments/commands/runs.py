"""`pretrain`, `evaluate`, `export`: train one run here, add readouts to runs, write weights for other tools."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from experiments.evaluate.weights import add_reading
from experiments.launch.grid import paragraph
from experiments.launch.options import INTERRUPTED, add_cluster_set
from experiments.plan.parser import AddVerb, add_set
from experiments.plan.registry import baselines
from experiments.plan.sweep import Cell, make_cell
from experiments.run import distributed
from experiments.run.machine import visible_gpus
from experiments.state.find import find
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.images import images_line
from experiments.store.metrics import PROTOCOLS
from experiments.store.run import Busy, RunDirectory, runs_root
from experiments.tracking.lookup import run_id_of
from moco.errors import Diverged

EVALUATE = """A run, and each finished run of a sweep, gains the readouts that it lacks: in its journal, results.json,
MLflow and the tables. Of a file the readouts are only printed. Images that have moved: --set data.root=DIR."""


def register(add: AddVerb) -> None:
    one = add(
        "pretrain",
        help="one run in the foreground",
        allow_abbrev=False,
        description="Train and evaluate one config here; the same command goes on after a stop. Several processes "
        "share one run: torchrun --nproc_per_node 2 -m experiments pretrain ...",
    )
    one.add_argument("--baseline", required=True, metavar="NAME", help=", ".join(baselines()))
    add_set(one)
    one.set_defaults(run=pretrain)

    again = add(
        "evaluate",
        help="more readouts of a finished run, of all runs of a sweep, or of a file of weights",
        allow_abbrev=False,
        description=EVALUATE,
    )
    again.add_argument(
        "target",
        metavar="ANY",
        help="a file of weights, a run directory, or any name `find` knows: a run, an arm, a sweep",
    )
    again.add_argument(
        "--protocol",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="one or more of those below (default: linear knn few_label)",
    )
    again.add_argument(
        "--baseline",
        metavar="NAME",
        help="images for a file of another tool, or other images than a run's "
        f"own (then only printed): {', '.join(baselines())}",
    )
    add_set(again)
    add_reading(again)
    again.add_argument(
        "--cluster", metavar="NAME", help="a Slurm profile that judges the runs of a sweep (default: here)"
    )
    add_cluster_set(again)
    again.add_argument("--max-parallel", type=int, metavar="N", help="of a sweep, runs at a time; on a cluster, jobs")
    again.add_argument("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: as the run was trained)")
    again.formatter_class, again.epilog = argparse.RawDescriptionHelpFormatter, _protocols()
    again.set_defaults(run=evaluate)

    out = add(
        "export",
        help="an encoder for torchvision, timm, detectron2, the authors' linear probe or as safetensors",
        allow_abbrev=False,
        description="Write the encoder of a finished run for other tools, with a model card.",
    )
    out.add_argument("target", metavar="RUN", help="a run directory, or any name `find` knows")
    out.add_argument(
        "--to",
        nargs="+",
        action="extend",
        required=True,
        metavar="TOOL",
        help="torchvision, timm, detectron2, lincls (the authors' main_lincls.py), safetensors; one that has no such network "
        "leaves the others alone",
    )
    out.add_argument("--out", default="exports", metavar="FOLDER", help="default: exports/<run id>")
    out.set_defaults(run=export)


def _protocols() -> str:
    width = max(map(len, PROTOCOLS))
    return "protocols:\n" + "\n".join(f"  {name:<{width}}  {what}" for name, what in PROTOCOLS.items())


def pretrain(options: argparse.Namespace, command: str) -> int:
    """Train one run in this process, or in those of torchrun, and print its readouts; a finished one is only printed."""
    from dataclasses import replace

    from experiments.launch.launch import Launch
    from experiments.plan.by_names import choose
    from experiments.plan.proposal import of_fixed, start
    from experiments.plan.sweep import check_sizes, warnings
    from moco.config import check_processes
    from moco.config.plain import run_id
    from moco.data.catalog import resolve

    distributed.adopt_step()
    begun = start(options.baseline, options.set, gpu=bool(visible_gpus()))
    data, of_before = choose(
        resolve(begun.base.data), lambda data: [run_id(replace(begun.base, data=data))], runs_root()
    )
    config = replace(begun.base, data=data)
    check_sizes(options.baseline, config)
    check_processes(config, distributed.size())
    cell, root = make_cell(options.baseline, config.train.seed, config), runs_root()
    if distributed.rank():
        return distributed.accompany(RunDirectory(root / cell.run_id), config)
    if begun.line:
        print("\n".join(paragraph(begun.line)))
    fixed = of_fixed(begun, data.fingerprint, lambda base: [run_id(base)], root)
    for warning in [*warnings({options.baseline: config}), *filter(None, [of_before, fixed])]:
        print("\n".join(paragraph(f"warning: {warning}")))
    if state_of(root / cell.run_id).state != schema.DONE:
        launch = Launch(root, options.baseline, [cell], command)
        launch.enqueue()
        try:
            state = launch.run_here(cell, reraise=True)
        except Busy as busy:
            print(f"{busy}; nothing started")
            return 1
        except Exception as error:
            if not isinstance(error, ValueError | Diverged):  # `run_here` has printed those in one line
                traceback.print_exc()
            print(f"log: {root / cell.run_id / schema.LOG}")
            return 1
        if state != schema.DONE:
            print(f"{state}: the same command goes on from there  {root / cell.run_id}")
            return INTERRUPTED if state == schema.PREEMPTED else 1
    _print_results(cell, root)
    return 0


def _print_results(cell: Cell, root: Path) -> None:
    from experiments.evaluate.verb import print_readouts

    run = RunDirectory(root / cell.run_id)
    if line := images_line(run):
        print("\n".join(paragraph(line)))
    results = run.results() or schema.Results()
    print_readouts({f"test/{name}": value for name, value in results.get("test", {}).items()})
    print(f"done in {results.get('seconds', 0.0):.1f} s  {root / cell.run_id}")


def evaluate(options: argparse.Namespace, command: str) -> int:
    from experiments.commands.answers import show_table
    from experiments.evaluate.verb import evaluate as carry_out

    return carry_out(options, show_table)


def export(options: argparse.Namespace, command: str) -> int:
    from experiments.export.export import export as write

    done = write(_one_run(options.target), options.to, Path(options.out))
    for path in done.paths:
        print(path)
    for why in done.refused.values():
        print(f"error: {why}", file=sys.stderr)
    return 1 if done.refused else 0


def _one_run(target: str) -> Path:
    """The run directory of a name. Raises ValueError for a name of several runs."""
    root = runs_root()
    found = find(root, target, tracked=run_id_of)
    if len(found) > 1:
        ids = ", ".join(f"{run.run_id} ({run.name})" for run in found[:6]) + (", ..." if len(found) > 6 else "")
        raise ValueError(f"{target}: names {len(found)} runs; choose one, by its run id: {ids}")
    return root / found[0].run_id
