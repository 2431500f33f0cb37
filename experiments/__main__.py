"""`python -m experiments VERB`: one run in the foreground, and everything about runs that exist.

Exit 0: done. 1: the run failed. 2: wrong input, nothing was started. 130: interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from experiments.commands import (
    arms,
    benchmark,
    control,
    doctor,
    look,
    runs,
    search,
    state,
    tracking,
    transfer,
    verify_resume,
)
from experiments.plan.disk import no_room
from experiments.plan.parser import Parser, run_quietly_past_reader
from experiments.run.distributed import standard_error
from experiments.store.secrets import words_without_secrets

FAMILIES = (runs, look, state, arms, control, doctor, tracking, search, benchmark, transfer, verify_resume)
PROG = "python -m experiments"


def parser(prog: str = PROG) -> Parser:
    result = Parser(
        prog=prog,
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = result.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    def add(name: str, *, help: str, allow_abbrev: bool, description: str | None = None) -> Parser:
        result.summaries[name] = help
        made: Parser = verbs.add_parser(name, help=help, allow_abbrev=allow_abbrev, description=description)
        return made

    for family in FAMILIES:
        family.register(add)
    return result


def main(arguments: Sequence[str], prog: str = PROG) -> int:
    try:
        options = parser(prog).parse_args(arguments)
        command = shlex.join(["python", "-m", "experiments", *words_without_secrets(arguments)])
        return run_quietly_past_reader(lambda: options.run(options, command))
    except ValueError as error:
        print(f"error: {error}", file=standard_error())
        return 2
    except OSError as error:
        print(f"error: {no_room(error)}", file=standard_error())
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
