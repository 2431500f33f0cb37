"""`python -m analysis table|plot|report SWEEP`. Imports what a verb needs when it is called: a table needs no plotting."""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from analysis.style import FIGURE_FORMATS
from experiments import schema

TABLE_SUFFIXES = {".txt": "text", ".md": "md", ".csv": "csv", ".tex": "tex", ".html": "html"}
EPILOG = """\
SWEEP is a sweep's name (queue_size) or its full label (queue_size@digits,train.epochs=5); of several variants of a
name the most recently updated is read. Runs are looked for under $MOCO_RUNS, by default runs/ in the current folder.
Exit codes: 0 done, 2 wrong input."""

Arguments = argparse.Namespace


def _table_format(arguments: Arguments) -> str:
    if arguments.format:
        return str(arguments.format)
    if arguments.out is None:
        return "text"
    suffix = arguments.out.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise ValueError(
            f"--out {arguments.out}: no table has this suffix; end it in {', '.join(TABLE_SUFFIXES)} or add --format"
        )
    return TABLE_SUFFIXES[suffix]


def _write(out: Path, text: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(out)


def table(arguments: Arguments) -> None:
    from analysis.render import TERMINAL_WIDTH, render
    from analysis.store import load_sweep, runs_root
    from analysis.tables import ablation_table

    format = _table_format(arguments)
    manifest, cells = load_sweep(runs_root(), arguments.sweep)
    made = ablation_table(manifest, cells, arguments.readout)
    wide = arguments.out is None and sys.stdout.isatty()
    width = max(TERMINAL_WIDTH, shutil.get_terminal_size().columns) if wide else TERMINAL_WIDTH
    text = render(made, format, width)
    if arguments.out:
        _write(arguments.out, text)
    else:
        sys.stdout.write(text)


def _figure_path(arguments: Arguments) -> Path:
    out: Path = arguments.out or Path(f"{arguments.sweep.partition('@')[0]}.{arguments.format or 'svg'}")
    suffix = out.suffix.lstrip(".").lower()
    if suffix not in FIGURE_FORMATS or arguments.format not in (None, suffix):
        wanted = f"--format {arguments.format}" if arguments.format else f"one of {', '.join(FIGURE_FORMATS)}"
        raise ValueError(f"--out {out}: the suffix does not fit {wanted}; end it in .{arguments.format or 'svg'}")
    return out


def plot(arguments: Arguments) -> None:
    from analysis.figures import Picture, save
    from analysis.learning_curves import curves_figure
    from analysis.plots import axis_figure
    from analysis.store import curves, load_sweep, runs_root

    out = _figure_path(arguments)
    manifest, cells = load_sweep(runs_root(), arguments.sweep)
    asked: list[str] = arguments.readout or [manifest["metric"]]
    journal = [name for name in asked if "/" in name]
    if journal and len(journal) < len(asked):
        raise ValueError(f"--readout {' '.join(asked)}: readouts and curves need a figure each")
    figure: Picture
    if journal:
        figure = curves_figure(manifest, curves(runs_root(), cells, journal), journal)
    else:
        figure = axis_figure(manifest, cells, asked)
    save(figure, out)
    print(out)


def report(arguments: Arguments) -> None:
    from analysis.report import report as page
    from analysis.store import load_sweep, runs_root

    out: Path = arguments.out or Path(f"{arguments.sweep.partition('@')[0]}.html")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out}: a report is a page; end it in .html")
    _write(out, page(runs_root(), load_sweep(runs_root(), arguments.sweep)))


class OneLineParser(argparse.ArgumentParser):
    """Says what was wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    main = OneLineParser(
        prog="python -m analysis", description="From a sweep's runs to an answer.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    verbs = main.add_subparsers(dest="verb", required=True, metavar="table|plot|report")

    def verb(name: str, summary: str, detail: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=summary, description=detail, epilog=EPILOG, allow_abbrev=False,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        made.add_argument("sweep", metavar="SWEEP", help="name or label of a sweep")
        made.add_argument("--out", metavar="FILE", type=Path, help="write here; a missing folder is made")
        return made

    tests = ", ".join(schema.READOUTS)
    made = verb("table", "the ablation table: n, mean ± std, paired difference to the baseline, verdict",
                "Print the ablation table, or write it with --out.")  # fmt: skip
    made.add_argument(
        "--format", choices=tuple(TABLE_SUFFIXES.values()), help="default: by the suffix of --out, else text"
    )
    made.add_argument("--readout", metavar="NAME", help=f"what to compare, by default the sweep's metric: {tests}")
    made = verb("plot", "a figure: a readout against what the arms vary, or curves over epochs",
                "Draw the readout of each arm with one dot per seed, or a journal's metric over epochs.\n"
                "Without --out the file is SWEEP.svg in the current folder.")  # fmt: skip
    made.add_argument("--format", choices=FIGURE_FORMATS, help="default: by the suffix of --out, else svg")
    curve_names = "validation/knn20_top1, train/loss_over_chance, train/loss, train/contrast_top1, ..."
    made.add_argument(
        "--readout", metavar="NAME", nargs="+", help=f"one panel each: {tests}; or over epochs {curve_names}"
    )
    made = verb("report", "one self-contained HTML page: answer, table, figures, failures, provenance",
                "Write one HTML page that needs no server and no network. Without --out the file is SWEEP.html.")  # fmt: skip
    made.add_argument("--format", choices=("html",), help="only html")
    return main


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 2 with one line on stderr for a user's mistake."""
    arguments = parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ± still gets its table
    try:
        {"table": table, "plot": plot, "report": report}[arguments.verb](arguments)
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) has seen enough
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
