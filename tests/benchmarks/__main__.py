"""`python -m tests.benchmarks NAME`: the same as `python -m experiments benchmark NAME`."""

from __future__ import annotations

import sys

from experiments.plan.parser import Parser
from tests.benchmarks.command import add_arguments, measure


def main() -> int:
    parser = Parser(prog="python -m tests.benchmarks", allow_abbrev=False)
    add_arguments(parser)
    try:
        return measure(parser.parse_args())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
