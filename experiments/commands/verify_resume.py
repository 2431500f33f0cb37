"""`verify-resume`: is a run of this config, on this device, killed again and again, the same to the bit as one that is not?"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from experiments.launch.verify_resume import Report, verify
from experiments.plan.overrides import base_configs
from experiments.plan.parser import AddVerb, add_set
from experiments.plan.registry import baselines
from experiments.plan.sweep import check_sizes, make_cell
from moco.data.catalog import resolve

KILLS = 10


def register(add: AddVerb) -> None:
    verb = add(
        "verify-resume",
        help="kill runs of a config again and again: do they end as one that nobody kills, to the bit?",
        allow_abbrev=False,
        description="Trains the config once whole, then with kills at seeded places (steps, evaluations, checkpoints, in the "
        "midst of writes), and compares weights, records and readouts to the bit. Nothing under $MOCO_RUNS is touched. It "
        "takes several times as long as the run: shorten that, --set train.epochs=1. Exit code 1: they differ.",
    )
    verb.add_argument("--baseline", required=True, metavar="NAME", help=", ".join(baselines()))
    add_set(verb)
    verb.add_argument("--kills", type=int, default=KILLS, metavar="N", help=f"how many (default: {KILLS})")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the places where they strike (default: 0)")
    verb.add_argument("--keep", metavar="FOLDER", help="keep the runs there (default: only if they differ)")
    verb.set_defaults(run=carry_out)


def carry_out(options: argparse.Namespace, command: str) -> int:
    """Raises ValueError for wrong input."""
    if options.kills < 1:
        raise ValueError(f"--kills {options.kills}: must be at least 1")
    config, _ = base_configs(options.baseline, options.set)
    config = replace(config, data=resolve(config.data))
    check_sizes(options.baseline, config)
    if config.train.epochs == 0:
        raise ValueError("train.epochs = 0: there is no step to be killed at; set 1 or more")
    folder = Path(options.keep).absolute() if options.keep else Path(tempfile.mkdtemp(prefix="verify-resume-"))
    if options.keep and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--keep {options.keep}: holds files already; name an empty folder")
    report = verify(
        make_cell(options.baseline, config.train.seed, config),
        folder,
        options.kills,
        options.seed,
        lambda line: print(line, flush=True),
    )
    for problem in report.problems:
        print(problem)
    print(summary(report))
    if not options.keep and not report.problems:
        shutil.rmtree(folder)
    return 1 if report.problems else 0


def summary(report: Report) -> str:
    phases = ", ".join(f"{count} in {phase}" for phase, count in sorted(report.phases.items()))
    verdict = f"{len(report.problems)} differences" if report.problems else "all bit for bit, nothing left behind"
    return (
        f"{report.kills} kills ({phases}; {report.writing} left a file half written) in {report.sequences} runs of "
        f"{report.starts} starts: {verdict}"
    )
