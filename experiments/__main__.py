"""`python -m experiments VERB`: one run in the foreground, and everything about runs that exist.

Exit 0: done. 1: the run failed. 2: wrong input, nothing was started. 130: interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from experiments import verbs
from experiments.baselines import BASELINES
from experiments.cli import Parser, add_set

ANY = "a sweep (name or label), an arm, a run id or its beginning, a run directory, a Slurm job, an MLflow run id"


def parser() -> Parser:
    result = Parser(prog="python -m experiments", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = result.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser).add_parser

    one = add("pretrain", help="one run in the foreground", allow_abbrev=False,
              description="Train and evaluate one config here; the same command goes on after a stop.")  # fmt: skip
    one.add_argument("--baseline", required=True, metavar="NAME", help=", ".join(BASELINES))
    add_set(one)
    one.set_defaults(run=verbs.pretrain)

    again = add("evaluate", help="readouts of a finished run or an encoder file", allow_abbrev=False,
                description="Readouts of a run or of its encoder.pt; the run's own results stay.")  # fmt: skip
    again.add_argument("target", metavar="RUN_OR_CHECKPOINT", help="a file, a run directory, or any name `find` knows")
    again.add_argument(
        "--protocol", nargs="+", metavar="NAME", help="knn, linear, few_label (the default: all three), linear_paper"
    )
    again.set_defaults(run=verbs.evaluate)

    state = add("status", help="where sweeps and runs stand", allow_abbrev=False)
    state.add_argument("target", nargs="?", metavar="ANY", help=f"{ANY}; without: all sweeps")
    state.set_defaults(run=verbs.status)

    log = add("logs", help="what runs have said", allow_abbrev=False)
    log.add_argument("target", metavar="ANY", help=ANY)
    log.add_argument("arm", nargs="?", metavar="ARM", help="only this arm of the sweep")
    log.add_argument("--follow", "-f", action="store_true", help="go on until all of them have ended")
    log.set_defaults(run=verbs.logs)

    stop = add("cancel", help="stop runs and keep them stopped; what is trained is saved", allow_abbrev=False)
    stop.add_argument("target", metavar="ANY", help=ANY)
    stop.add_argument("arm", nargs="?", metavar="ARM", help="only this arm of the sweep")
    stop.set_defaults(run=verbs.cancel)

    search = add("find", help="which runs a name leads to", allow_abbrev=False)
    search.add_argument("target", metavar="ANY", help=ANY)
    search.set_defaults(run=verbs.find_runs)

    page = add("ui", help="the MLflow UI on this machine", allow_abbrev=False)
    page.add_argument("sweep", nargs="?", metavar="SWEEP", help="name or label; without: all sweeps")
    page.add_argument("--port", type=int, default=5000, metavar="N", help="default: 5000, or the next that is free")
    page.set_defaults(run=verbs.ui)

    mirror = add("sync", help="bring MLflow up to date with the run directories", allow_abbrev=False)
    mirror.add_argument("sweep", nargs="?", metavar="SWEEP", help="name or label; without: all sweeps")
    mirror.add_argument("--follow", action="store_true", help="again and again until the sweep has ended")
    mirror.set_defaults(run=verbs.sync)
    return result


def main(arguments: Sequence[str]) -> int:
    try:
        options = parser().parse_args(arguments)
        code: int = options.run(options, shlex.join(["python", "-m", "experiments", *arguments]))
        return code
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough: `status | head`
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
