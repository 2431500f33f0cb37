"""`ui`, `serve`, `sync`, `names`: the MLflow view of the run directories."""

from __future__ import annotations

import argparse
import os

from experiments.plan.parser import AddVerb
from experiments.store.run import runs_root


def register(add: AddVerb) -> None:
    page = add("ui", help="the MLflow UI on this machine", allow_abbrev=False)
    page.add_argument("sweep", nargs="?", metavar="SWEEP", help="name or label; without: all sweeps")
    page.add_argument("--port", type=int, default=5000, metavar="N", help="default: 5000, or the next that is free")
    page.set_defaults(run=ui)

    team = add(
        "serve",
        help="an MLflow server for a team, on PostgreSQL or a SQLite file",
        allow_abbrev=False,
        description=SERVE,
    )
    team.add_argument(
        "--store",
        metavar="URI",
        default=os.environ.get("MOCO_STORE"),
        help="postgresql://USER@HOST/DATABASE or sqlite:///FILE (default: $MOCO_STORE)",
    )
    team.add_argument("--host", default="127.0.0.1", metavar="HOST", help="default: 127.0.0.1; others need --auth")
    team.add_argument("--port", type=int, default=5000, metavar="N", help="default: 5000")
    team.add_argument(
        "--auth",
        action="store_true",
        help="users and passwords; $MLFLOW_AUTH_ADMIN_PASSWORD makes the first user, admin",
    )
    team.add_argument(
        "--name",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="further names that people reach it by, such as a proxy's",
    )
    team.add_argument(
        "--artifacts", metavar="PLACE", help="a folder or s3://... (default: $MOCO_RUNS/mlflow-artifacts)"
    )
    team.add_argument("--workers", type=int, default=4, metavar="N", help="processes that answer, default: 4")
    team.add_argument(
        "--migrate", action="store_true", help="bring the tables of an older MLflow up to date, after a backup"
    )
    team.set_defaults(run=serve)

    table = add("names", help="every metric, tag and artifact, as a Markdown table", allow_abbrev=False)
    table.add_argument(
        "--write",
        action="store_true",
        help="into experiments/NAMES.md and experiments/store/readouts.json, after an edit",
    )
    table.set_defaults(run=names)

    mirror = add("sync", help="bring MLflow up to date with the run directories", allow_abbrev=False)
    mirror.add_argument("sweep", nargs="?", metavar="SWEEP", help="name or label; without: all sweeps")
    mirror.add_argument("--follow", action="store_true", help="again and again until the sweep has ended")
    mirror.add_argument("--watch", action="store_true", help="the same, and also when its terminal is closed (nohup)")
    mirror.set_defaults(run=sync)


SERVE = """Serve MLflow until Ctrl-C. The tables are made if the database is empty. A password in --store leaves the process
list at once, but stays in your shell's history: PGPASSWORD or ~/.pgpass keep it out of there, too. Without TLS before it,
--auth guards against mistakes, not against listeners."""


def serve(options: argparse.Namespace, command: str) -> int:
    from experiments.tracking.serve import Team
    from experiments.tracking.serve import serve as serve_team

    if not options.store:
        raise ValueError("--store: which database? postgresql://USER@HOST/DATABASE or sqlite:///FILE")
    team = Team(options.host, options.port, options.auth, tuple(options.name), options.workers)
    serve_team(runs_root(), options.store, team, artifacts=options.artifacts, migrate=options.migrate)
    return 0


def names(options: argparse.Namespace, command: str) -> int:
    from experiments.run.readouts import relearn_all
    from experiments.store import metrics
    from experiments.tracking.notes import names_markdown

    relearn_all()
    if options.write:
        metrics.FILE.write_text(metrics.as_json(), encoding="utf-8")
        (metrics.FILE.parents[1] / "NAMES.md").write_text(names_markdown(), encoding="utf-8")
    else:
        print(names_markdown(), end="")
    return 0


def ui(options: argparse.Namespace, command: str) -> int:
    from experiments.tracking.ui import serve_ui

    serve_ui(runs_root(), options.sweep, options.port)
    return 0


def sync(options: argparse.Namespace, command: str) -> int:
    from experiments.tracking.sync import sync as bring_up_to_date

    follow = options.follow or options.watch
    report = bring_up_to_date(runs_root(), options.sweep, follow, alone=options.watch)
    print(report)
    return 1 if report.warnings else 0
