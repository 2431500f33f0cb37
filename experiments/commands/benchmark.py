"""`benchmark`: runs the benchmarks of a checkout, which are not part of the installed package."""

from __future__ import annotations

import argparse

from experiments.plan.parser import AddVerb

HELP = "measure speed against a peer"


def register(add: AddVerb) -> None:
    verb = add("benchmark", help=HELP, allow_abbrev=False)
    try:
        from tests.benchmarks.command import add_arguments
    except ModuleNotFoundError:
        verb.add_argument("rest", nargs=argparse.REMAINDER, metavar="...")
    else:
        add_arguments(verb)
    verb.set_defaults(run=measure)


def measure(options: argparse.Namespace, command: str) -> int:
    try:
        from tests.benchmarks.command import measure
    except ModuleNotFoundError as missing:
        if missing.name not in ("tests", "tests.benchmarks"):
            raise
        raise ValueError("benchmark: there is no tests/benchmarks here; run it in the folder of a checkout") from None
    return measure(options)
