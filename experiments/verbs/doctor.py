"""`doctor`: is everything there that runs need?"""

from __future__ import annotations

import argparse
import os

from experiments.grid import paragraph
from experiments.parser import AddVerb
from experiments.run_directory import runs_root
from slurm.profiles import load_profile, profile_names


def register(add: AddVerb) -> None:
    look = add("doctor", help="look at store, MLflow and a cluster, and say what to do", allow_abbrev=False,
               description="Exit 1 when something essential is wrong. --cluster sends a job of a few seconds.")  # fmt: skip
    look.add_argument("--cluster", metavar="PROFILE", help=f"look at this one, too: {', '.join(profile_names())}")
    look.add_argument("--patience", type=float, default=60.0, metavar="S", help="for the job to begin (default: 60)")
    look.set_defaults(run=doctor)


def doctor(options: argparse.Namespace, command: str) -> int:
    from experiments.doctor import Finding, examine

    profile = load_profile(options.cluster) if options.cluster else None
    if profile and profile.runs_root and not os.environ.get("MOCO_RUNS"):
        os.environ["MOCO_RUNS"] = os.path.expanduser(profile.runs_root)

    def tell(finding: Finding) -> None:
        first, *rest = paragraph(str(finding))
        print("\n".join([first, *(f"{'':<9}{line}" for line in rest)]), flush=True)

    return 0 if examine(runs_root(), profile, options.patience, tell) else 1
