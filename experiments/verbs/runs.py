"""`pretrain`, `evaluate`: one run here, and the readouts of one that exists."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Sequence
from pathlib import Path

from experiments import ranks, schema
from experiments.baselines import BASELINES
from experiments.cli import INTERRUPTED, add_set, base_configs
from experiments.grid import paragraph
from experiments.lookup import Found, find
from experiments.parser import AddVerb
from experiments.reconcile import state_of
from experiments.run_directory import Busy, RunDirectory, runs_root
from experiments.sweep import Cell, make_cell


def register(add: AddVerb) -> None:
    one = add("pretrain", help="one run in the foreground", allow_abbrev=False,
              description="Train and evaluate one config here; the same command goes on after a stop. Several processes "
              "share one run: torchrun --nproc_per_node 2 -m experiments pretrain ...")  # fmt: skip
    one.add_argument("--baseline", required=True, metavar="NAME", help=", ".join(BASELINES))
    add_set(one)
    one.set_defaults(run=pretrain)

    again = add("evaluate", help="readouts of a finished run or an encoder file", allow_abbrev=False,
                description="Readouts of a run or of its encoder.pt; the run's own results stay.")  # fmt: skip
    again.add_argument("target", metavar="RUN_OR_CHECKPOINT", help="a file, a run directory, or any name `find` knows")
    again.add_argument(
        "--protocol", nargs="+", metavar="NAME", help="knn, linear, few_label (the default: all three), linear_paper"
    )
    again.add_argument("--baseline", metavar="NAME", help=f"images for a file of another tool: {', '.join(BASELINES)}")
    add_set(again)
    again.set_defaults(run=evaluate)

    out = add("export", help="an encoder for torchvision, timm, detectron2 or as safetensors", allow_abbrev=False,
              description="Write the encoder of a finished run for other tools, with a model card.")  # fmt: skip
    out.add_argument("target", metavar="RUN", help="a run directory, or any name `find` knows")
    out.add_argument(
        "--to", nargs="+", required=True, metavar="TOOL", help="torchvision, timm, detectron2, safetensors"
    )
    out.add_argument("--out", default="exports", metavar="FOLDER", help="default: exports/<run id>")
    out.set_defaults(run=export)


def pretrain(options: argparse.Namespace, command: str) -> int:
    """One run in this process, or in torchrun's; a finished one is only shown."""
    from dataclasses import replace

    from experiments.checks import check_sizes, warnings
    from experiments.launch import Launch
    from moco.config import check_processes
    from moco.data.catalog import resolve

    ranks.adopt_step()
    config, _ = base_configs(options.baseline, options.set)
    config = replace(config, data=resolve(config.data))
    check_sizes(options.baseline, config)
    check_processes(config, ranks.size())
    cell, root = make_cell(options.baseline, config.train.seed, config), runs_root()
    if ranks.rank():
        return ranks.accompany(RunDirectory(root / cell.run_id), config)
    for warning in warnings({options.baseline: config}):
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
            if not (isinstance(error, ValueError) or type(error).__name__ == "Diverged"):  # those say it in one line
                traceback.print_exc()
            print(f"log: {root / cell.run_id / schema.LOG}")
            return 1
        if state != schema.DONE:
            print(f"{state}: the same command goes on from there  {root / cell.run_id}")
            return INTERRUPTED if state == schema.PREEMPTED else 1
    _print_results(cell, root)
    return 0


def _print_results(cell: Cell, root: Path) -> None:
    results = RunDirectory(root / cell.run_id).results() or schema.Results()
    print_readouts({f"test/{name}": value for name, value in results.get("test", {}).items()})
    print(f"done in {results.get('seconds', 0.0):.1f} s  {root / cell.run_id}")


def print_readouts(readouts: dict[str, float | None]) -> None:
    width = max(map(len, readouts), default=0)
    for name, value in readouts.items():
        print(f"{name:<{width}}  {'-' if value is None else f'{value:.4g}'}")


def evaluate(options: argparse.Namespace, command: str) -> int:
    from experiments.evaluate import DEFAULT
    from experiments.evaluate import evaluate as readouts_of

    ranks.adopt_step()
    target = Path(options.target)
    if not target.exists():
        target = _one_run(options.target)
    base = base_configs(options.baseline, options.set)[0] if options.baseline else None
    readouts = readouts_of(target, options.protocol or DEFAULT, base)
    if ranks.rank() == 0:
        print_readouts(readouts)
    return 0


def export(options: argparse.Namespace, command: str) -> int:
    from experiments.export import export as write

    for path in write(_one_run(options.target), options.to, Path(options.out)):
        print(path)
    return 0


def _one_run(target: str) -> Path:
    """The run directory that a name leads to. Raises ValueError where it leads to several."""
    root = runs_root()
    found = find(root, target)
    if len(found) > 1:
        raise ValueError(f"{target}: names {len(found)} runs; choose one, by its run id: {_ids(found)}")
    return root / found[0].run_id


def _ids(found: Sequence[Found]) -> str:
    return ", ".join(f"{run.run_id} ({run.name})" for run in found[:6]) + (", ..." if len(found) > 6 else "")
