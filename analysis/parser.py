"""The flags of `python -m analysis`. Imports nothing heavy: `--help` and a wrong flag are answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from analysis.style import FIGURE_FORMATS
from experiments.store import schema

TABLE_SUFFIXES = {".txt": "text", ".md": "md", ".csv": "csv", ".tex": "tex", ".html": "html"}
EPILOG = """\
SWEEP is a sweep's name (queue_size) or its full label (queue_size@digits,train.epochs=5); of several variants of a
name the most recently updated is read. Runs are looked for under $MOCO_RUNS, by default runs/ in the current folder.
Exit codes: 0 done, 1 a table that no longer holds (verify), 2 wrong input."""


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, without the usage.

    `experiments.plan.parser` has another one, since the two commands print different sentences.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.summaries: dict[str, str] = {}  # of a parser with verbs: verb -> what it does, in the order of `--help`

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


PROG = "python -m analysis"


def parser(prog: str = PROG) -> OneLineParser:
    main = OneLineParser(
        prog=prog,
        description="From a sweep's runs to an answer.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = main.add_subparsers(dest="verb", required=True, metavar="table|plot|report|power|decide|verify|search")

    def verb(name: str, summary: str, detail: str) -> argparse.ArgumentParser:
        made = _verb(main, verbs, name, summary, detail)
        count = "?" if name == "report" else None
        made.add_argument("sweep", metavar="SWEEP", nargs=count, help="name or label of a sweep")
        made.add_argument("--out", metavar="FILE", type=Path, help="write here; a missing folder is made")
        made.add_argument("--mlflow", metavar="ADDRESS", help="read this MLflow server or SQLite file instead")
        return made

    tests = ", ".join(schema.READOUTS)
    made = verb(
        "table",
        "the ablation table: n, mean ± std, paired difference to the baseline, verdict",
        "Print the ablation table, or write it with --out.",
    )
    made.add_argument(
        "--format", choices=tuple(TABLE_SUFFIXES.values()), help="default: by the suffix of --out, else text"
    )
    made.add_argument("--readout", metavar="NAME", help=f"what to compare, by default the sweep's metric: {tests}")
    made.add_argument(
        "--view",
        choices=("arms", "crossed"),
        default="arms",
        help="arms (default): a row per arm; crossed: the two-way tables and effects of crossed factors alone",
    )
    made = verb(
        "plot",
        "a figure: a readout against what the arms vary, or curves over epochs",
        "Draw the readout of each arm with one dot per seed, or a journal's metric over epochs.\n"
        "Without --out the file is SWEEP.svg in the current folder.",
    )
    made.add_argument("--format", choices=FIGURE_FORMATS, help="default: by the suffix of --out, else svg")
    made.add_argument(
        "--kind",
        metavar="KIND",
        help="answer, forest, axis, heat-map, four-way, curves, per-arm, loss, diagnostics or pareto; "
        "`--kind list` says what each shows and which one the sweep gets by default",
    )
    curve_names = "validation/knn20_top1, train/loss_over_chance, train/loss, train/contrast_top1, ..."
    made.add_argument(
        "--readout", metavar="NAME", nargs="+", help=f"one panel each: {tests}; or over epochs {curve_names}"
    )
    made.add_argument(
        "--width", metavar="WIDTH", help="of the figure: inches, or 8.5cm, 85mm, 246pt; text keeps its size"
    )
    made.add_argument("--font", metavar="FAMILY", help="of all text, such as 'Liberation Serif'")
    made.add_argument("--no-caption", action="store_true", help="leave the small print out, for a paper's own caption")
    made.add_argument("--dark", action="store_true", help="for a dark page or slide")
    made = verb(
        "report",
        "one self-contained HTML page: answer, table, figures, failures, provenance",
        "Write one HTML page that needs no server and no network. Without --out the file is SWEEP.html.",
    )
    made.add_argument("--format", choices=("html",), help="only html")
    made.add_argument("--all", action="store_true", help="a report of every sweep and a page of all, in folder --out")
    made.add_argument(
        "--server",
        metavar="URL",
        help="link the cells to this MLflow server; by default $MLFLOW_TRACKING_URI, "
        "or the UI of these runs if it is up",
    )
    _add_answers(main, verbs)
    return main


def _verb(
    main: OneLineParser, verbs: argparse._SubParsersAction[OneLineParser], name: str, summary: str, detail: str
) -> OneLineParser:
    main.summaries[name] = summary
    return verbs.add_parser(
        name,
        help=summary,
        description=detail,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_answers(main: OneLineParser, verbs: argparse._SubParsersAction[OneLineParser]) -> None:
    """The verbs that answer in lines or in JSON."""

    power = _verb(
        main,
        verbs,
        "power",
        "how many seeds more, and what they cost, for each arm that is not told apart",
        "Paired seeds that show a difference of --effect to the baseline, if the spread is as seen.",
    )
    power.add_argument(
        "--effect", type=float, default=1.0, metavar="POINTS", help="the smallest difference that matters (1.0)"
    )
    power.add_argument("--power", type=float, default=0.8, metavar="P", help="chance to see the difference (0.8)")
    decide = _verb(
        main,
        verbs,
        "decide",
        "which arms are told apart from the baseline, and what became of the claim",
        "A line per arm. `--until-significant` of a sweep asks this after each round of seeds.",
    )
    for made in (power, decide):
        made.add_argument("sweep", metavar="SWEEP", help="name or label of a sweep")
        made.add_argument("--readout", metavar="NAME", help="what to compare, by default the sweep's metric")
        made.add_argument("--json", action="store_true", help="for programs")
    check = _verb(
        main,
        verbs,
        "verify",
        "does a table still say what the runs say?",
        "Hold the seal of a table (.md, .csv, .tex, .html) against the runs, and name what has changed.",
    )
    trials = _verb(
        main,
        verbs,
        "search",
        "the best trials of a search, and its figures",
        "Print the best trials and what fresh seeds say; draw history, importances, slices, contour,\n"
        "parallel coordinates and, with several objectives, the Pareto front.",
    )
    trials.add_argument("search", metavar="SEARCH", help="name or label of a search, e.g. search_moco")
    trials.add_argument("--out", metavar="FOLDER", type=Path, help="for the figures (default: the search's name)")
    trials.add_argument("--format", choices=FIGURE_FORMATS, default="svg", help="default: svg")
    trials.add_argument("--table", action="store_true", help="print the table only")
    check.add_argument("file", metavar="FILE", type=Path, help="written by `python -m analysis table SWEEP --out FILE`")
