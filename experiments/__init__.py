"""The names that a file in `sweeps/` imports: the parts of a sweep or a search, and `main`, which runs it.

    from experiments import Sweep, expect, main

Each name is loaded on first use, so that importing `experiments.store` (as workers and the analysis do) loads none of
them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from experiments.plan import expectation as expect
    from experiments.plan.factors import crossed, factorial, switched
    from experiments.plan.sweep import NOTEBOOK, PAPER_V1, PAPER_V2, SUPCON, Sweep
    from experiments.search.definition import Search
    from experiments.search.space import Choice, Complement, Float, Given, Int, Log, Powers
    from moco.data.catalog import training_images

__all__ = [
    "NOTEBOOK",
    "PAPER_V1",
    "PAPER_V2",
    "SUPCON",
    "Choice",
    "Complement",
    "Float",
    "Given",
    "Int",
    "Log",
    "Powers",
    "Search",
    "Sweep",
    "crossed",
    "expect",
    "factorial",
    "main",
    "switched",
    "training_images",
]


def main(question: Sweep | Search) -> NoReturn:
    """Run a sweep or a search with the flags of the command line, and exit with its code."""
    from experiments.plan.parser import run_quietly_past_reader
    from experiments.plan.sweep import Sweep

    if isinstance(question, Sweep):
        from experiments.commands import sweep

        sys.exit(run_quietly_past_reader(lambda: sweep.run(question, sys.argv[1:])))
    from experiments.commands import search

    sys.exit(run_quietly_past_reader(lambda: search.run(question, sys.argv[1:])))


def __getattr__(name: str) -> object:
    match name:
        case "Sweep" | "PAPER_V1" | "PAPER_V2" | "SUPCON" | "NOTEBOOK":
            from experiments.plan import sweep

            return getattr(sweep, name)
        case "crossed" | "factorial" | "switched":
            from experiments.plan import factors

            return getattr(factors, name)
        case "expect":
            from experiments.plan import expectation

            return expectation
        case "training_images":
            from moco.data.catalog import training_images

            return training_images
        case "Search" | "Choice" | "Complement" | "Float" | "Given" | "Int" | "Log" | "Powers":
            from experiments.search import definition

            return getattr(definition, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
