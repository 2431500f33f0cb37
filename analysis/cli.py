"""`python -m analysis VERB`: a function for each verb.

    table  power  decide  verify  search    print text, or JSON
    plot   report                           write figures and pages

Each verb imports what it needs when it is called, so that a table does not load the plotting libraries.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from analysis.parser import PROG, TABLE_SUFFIXES, parser
from analysis.style import FIGURE_FORMATS
from experiments.store.run import runs_root

if TYPE_CHECKING:
    from analysis.table import Row, Table

LIST: Final = "list"  # of --kind
REPORTS: Final = Path("reports")
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


def table(arguments: Arguments) -> int:
    from analysis.ablation import ablation_table
    from analysis.formats import TERMINAL_WIDTH, render, terminal_width
    from analysis.sources import source

    format = _table_format(arguments)
    manifest, cells = source(arguments.mlflow).load(arguments.sweep)
    made = ablation_table(manifest, cells, arguments.readout)
    width = TERMINAL_WIDTH if arguments.out else terminal_width()
    text = render(made, format, width, arguments.view)
    if arguments.out:
        _write(arguments.out, text)
    else:
        sys.stdout.write(text)
    return 0


def _loaded(arguments: Arguments) -> Table:
    from analysis.ablation import ablation_table
    from analysis.frame import load_sweep

    return ablation_table(*load_sweep(runs_root(), arguments.sweep), arguments.readout)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def power(arguments: Arguments) -> int:
    """Seeds and hours for each arm that is not told apart from the baseline yet."""
    from analysis import words
    from analysis.ablation import lost, undecided
    from analysis.power import advise

    table = _loaded(arguments)
    advice = advise(table, arguments.power, effect=arguments.effect)
    if arguments.json:
        data = {"label": table.label, "metric": table.metric, "power": arguments.power, "effect": arguments.effect}
        _print_json(data | {"advice": [a.as_data() for a in advice]})
        return 0
    for line in map(words.advice_line, advice):
        print(line)
    beyond, arms = lost(table), [row for row in table.rows if row.role == "arm"]
    few = [r.arm for r in arms if r.arm not in beyond and (r.comparison is None or r.comparison.n < 2)]
    if few:
        print(f"Too few paired seeds to reckon with: {', '.join(few)}; two are the least")
    if beyond:
        why = "Some of their pairs failed or have no usable value, so that no number of seeds makes a claim"
        print(f"{why}: {', '.join(beyond)}")
    mentioned = {a.arm for a in advice} | set(few)
    if rest := [arm for arm in undecided(table) if arm not in mentioned]:
        print(f"{_why_open(table)}: {', '.join(rest)}")
    elif not mentioned and not beyond:
        print("Every arm is told apart from the baseline.")
    return 0


def _why_open(table: Table) -> str:
    """Of undecided arms for which no number of seeds is reckoned."""
    if table.exploratory:
        return "Exploratory, so that nothing is claimed whatever the seeds"
    return "Not told apart yet, or in an open part of the claim; --until-significant adds their seeds, at the looks of a plan"


def _decided(row: Row, exploratory: bool) -> dict[str, Any]:
    from analysis import words

    c = row.comparison
    numbers = {"n": 0} if c is None else {"n": c.n, "difference": c.difference, "p": c.p_t_holm}
    verdict = words.verdict(c)
    if exploratory and c is not None and c.separable:
        verdict = f"exploratory, no claim: {words.difference(c)}, {words.pairs(c)}"
    return {"decided": c is not None and c.separable and not exploratory, "verdict": verdict, **numbers}


def decide(arguments: Arguments) -> int:
    """Print which arms are told apart from the baseline, and the verdict on the claim."""
    from analysis.ablation import lost, undecided

    table = _loaded(arguments)
    arms = {row.arm: _decided(row, table.exploratory) for row in table.rows if row.role == "arm"}
    claim = None if table.claim is None else {"says": table.claim.says, "verdict": table.claim.verdict}
    if arguments.json:
        facts = {"label": table.label, "metric": table.metric, "baseline": table.baseline}
        _print_json({**facts, "undecided": undecided(table), "lost": lost(table), "arms": arms, "claim": claim})
        return 0
    for arm, facts in arms.items():
        print(f"{arm}: {facts['verdict']}")
    if claim:
        print(f'claim "{claim["says"]}": {claim["verdict"]}')
    return 0


def verify(arguments: Arguments) -> int:
    """Print what has changed since the file was made. Returns 1 if anything has."""
    from analysis.verify import verify as changes

    found = changes(arguments.file, runs_root())
    for line in found:
        print(line)
    if not found:
        print(f"{arguments.file}: nothing has changed since it was made")
    return 1 if found else 0


def search(arguments: Arguments) -> int:
    """Print the best trials of a search, and write its figures into a folder."""
    from analysis.search import find_search
    from analysis.search import table as trials

    record = find_search(runs_root(), arguments.search)
    sys.stdout.write(trials(runs_root(), record))
    if arguments.table:
        return 0
    from analysis.figures.look import save
    from analysis.figures.search import figures

    folder: Path = arguments.out or Path(record["name"])
    if not record["ranking"]:
        raise ValueError(f"{record['label']}: no trial is done yet, there is nothing to draw")
    print()
    for name, figure in figures(record).items():
        save(figure, folder / f"{name}.{arguments.format}")
        print(folder / f"{name}.{arguments.format}")
    return 0


def _figure_path(arguments: Arguments) -> Path:
    out: Path = arguments.out or Path(f"{arguments.sweep.partition('@')[0]}.{arguments.format or 'svg'}")
    suffix = out.suffix.lstrip(".").lower()
    if suffix not in FIGURE_FORMATS or arguments.format not in (None, suffix):
        wanted = f"--format {arguments.format}" if arguments.format else f"one of {', '.join(FIGURE_FORMATS)}"
        raise ValueError(f"--out {out}: the suffix does not fit {wanted}; end it in .{arguments.format or 'svg'}")
    return out


def plot(arguments: Arguments) -> int:
    from analysis.figures import gallery
    from analysis.figures.axis import axis_figure
    from analysis.figures.curves import MOST_LINES, MOST_SEEDS, check_key, curves_figure
    from analysis.figures.dress import Dress, dressed, inches
    from analysis.figures.look import Picture, save
    from analysis.figures.thinning import few
    from analysis.sources import source

    asked: list[str] = arguments.readout or []
    journal = [name for name in asked if "/" in name]
    if journal and len(journal) < len(asked):
        raise ValueError(f"--readout {' '.join(asked)}: readouts and curves need a figure each")
    if asked and arguments.kind:
        raise ValueError(f"--kind {arguments.kind} --readout {' '.join(asked)}: give one or the other")
    if arguments.kind not in (None, LIST, *gallery.KINDS):
        raise ValueError(
            f"--kind {arguments.kind}: not one of {', '.join(gallery.KINDS)}; --kind {LIST} describes them"
        )
    width = None if arguments.width is None else inches(arguments.width)
    dress = Dress(width, arguments.font, not arguments.no_caption, arguments.dark)
    out, runs = _figure_path(arguments), source(arguments.mlflow)
    loaded = runs.load(arguments.sweep)
    if arguments.kind == LIST:
        sys.stdout.write(gallery.listing(loaded.manifest))
        return 0
    figure: Picture
    if journal:
        keys = [check_key(key) for key in journal]
        manifest, cells, left_out = few(*loaded, MOST_LINES, MOST_SEEDS)
        figure = curves_figure(manifest, runs.curves(cells, keys), keys, left_out)
    elif asked:
        figure = axis_figure(*loaded, asked)
    else:
        figure = gallery.draw(arguments.kind or gallery.default_kind(loaded.manifest), runs, loaded)
    save(dressed(figure, dress), out)
    print(out)
    return 0


def report(arguments: Arguments) -> int:
    if arguments.all == bool(arguments.sweep):
        raise ValueError("report: name one sweep, or give --all for a page of all of them")
    if arguments.all:
        return _report_all(arguments)
    from analysis import tracked
    from analysis.frame import to_stderr
    from analysis.report.report import report as page
    from analysis.sources import source

    out: Path = arguments.out or Path(f"{arguments.sweep.partition('@')[0]}.html")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out}: a report is a page; end it in .html")
    runs = source(arguments.mlflow)
    loaded = runs.load(arguments.sweep)
    web = arguments.mlflow if (arguments.mlflow or "").startswith("http") else None
    server, pages = arguments.server or web or tracked.known_server(runs_root()), None
    if server:
        try:
            pages = tracked.pages_at(server, loaded.manifest)
        except ValueError as error:
            if arguments.server:
                raise
            to_stderr(f"without links to MLflow: {error}")
    _write(out, page(runs, loaded, pages))
    return 0


def _report_all(arguments: Arguments) -> int:
    from analysis.report.index import write_all

    folder: Path = arguments.out or REPORTS
    if folder.is_file() or folder.suffix.lower() in (".html", ".htm"):
        raise ValueError(f"--out {folder}: --all writes a folder of pages; name one, such as {REPORTS}")
    if arguments.mlflow:
        raise ValueError("--all reads the run directories: leave --mlflow out, or report one sweep")
    print(write_all(runs_root(), folder, arguments.server)[-1])
    return 0


VERBS: Final[dict[str, Callable[[Arguments], int]]] = {
    "table": table,
    "plot": plot,
    "report": report,
    "power": power,
    "decide": decide,
    "verify": verify,
    "search": search,
}


def main(argv: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run a command line and return the exit code; a user's mistake is one line on stderr and code 2."""
    arguments = parser(prog).parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ± still gets its table
    try:
        code = VERBS[arguments.verb](arguments)
        sys.stdout.flush()  # here, not at exit, where a closed pipe would be a complaint
        return code
    except BrokenPipeError:
        # The reader has left, as in `table | head`: discard what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
