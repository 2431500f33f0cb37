"""`adopt`: what a search has found, as a baseline to paste."""

from __future__ import annotations

import argparse
import sys

from experiments.parser import AddVerb
from experiments.run_directory import runs_root
from experiments.search.record import record_named


def register(add: AddVerb) -> None:
    take = add("adopt", help="the winner of a search as a baseline to paste", allow_abbrev=False,
               description="Print the winner: the best at fresh seeds (--confirm), else the search's best.")  # fmt: skip
    take.add_argument("search", metavar="SEARCH", help="name or label of a search, e.g. search_moco")
    take.add_argument("--trial", type=int, metavar="N", help="this trial instead; needed with several objectives")
    take.set_defaults(run=adopt)


def adopt(options: argparse.Namespace, command: str) -> int:
    """Exit 0 also for a winner that was not confirmed, with a warning on stderr."""
    from experiments.search.adopt import imports, source, winner

    root = runs_root()
    record = record_named(root, options.search)
    chosen = winner(root, record, options.trial)
    if not chosen.means:
        text = f"chosen by one seed; python sweeps/{record['name']}.py --confirm 5x3 tells whether it was lucky"
        print(f"warning: {text}", file=sys.stderr)
    text = source(record, chosen)
    print(
        f"from dataclasses import replace\n\nfrom experiments.baselines import {record['base']}\n{imports(text)}\n\n\n{text}",
        end="",
    )
    return 0
