"""`ui`, `sync`: the MLflow view of the run directories."""

from __future__ import annotations

import argparse

from experiments.parser import AddVerb
from experiments.run_directory import runs_root


def register(add: AddVerb) -> None:
    page = add("ui", help="the MLflow UI on this machine", allow_abbrev=False)
    page.add_argument("sweep", nargs="?", metavar="SWEEP", help="name or label; without: all sweeps")
    page.add_argument("--port", type=int, default=5000, metavar="N", help="default: 5000, or the next that is free")
    page.set_defaults(run=ui)

    mirror = add("sync", help="bring MLflow up to date with the run directories", allow_abbrev=False)
    mirror.add_argument("sweep", nargs="?", metavar="SWEEP", help="name or label; without: all sweeps")
    mirror.add_argument("--follow", action="store_true", help="again and again until the sweep has ended")
    mirror.set_defaults(run=sync)


def ui(options: argparse.Namespace, command: str) -> int:
    from experiments.tracking import serve_ui

    serve_ui(runs_root(), options.sweep, options.port)
    return 0


def sync(options: argparse.Namespace, command: str) -> int:
    from experiments.tracking import sync as bring_up_to_date

    report = bring_up_to_date(runs_root(), options.sweep, options.follow)
    print(report)
    return 1 if report.warnings else 0
