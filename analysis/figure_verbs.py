"""The verbs that draw: `plot` and `report`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from analysis.style import FIGURE_FORMATS

LIST: Final = "list"
REPORTS: Final = Path("reports")
Arguments = argparse.Namespace


def _figure_path(arguments: Arguments) -> Path:
    out: Path = arguments.out or Path(f"{arguments.sweep.partition('@')[0]}.{arguments.format or 'svg'}")
    suffix = out.suffix.lstrip(".").lower()
    if suffix not in FIGURE_FORMATS or arguments.format not in (None, suffix):
        wanted = f"--format {arguments.format}" if arguments.format else f"one of {', '.join(FIGURE_FORMATS)}"
        raise ValueError(f"--out {out}: the suffix does not fit {wanted}; end it in .{arguments.format or 'svg'}")
    return out


def plot(arguments: Arguments) -> None:
    from analysis.figures import gallery
    from analysis.figures.axis import axis_figure
    from analysis.figures.curves import MOST_LINES, MOST_SEEDS, check_key, curves_figure
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
    out, runs = _figure_path(arguments), source(arguments.mlflow)
    loaded = runs.load(arguments.sweep)
    if arguments.kind == LIST:
        sys.stdout.write(gallery.listing(loaded.manifest))
        return
    figure: Picture
    if journal:
        keys = [check_key(key) for key in journal]
        manifest, cells, said = few(*loaded, MOST_LINES, MOST_SEEDS)
        figure = curves_figure(manifest, runs.curves(cells, keys), keys, said)
    elif asked:
        figure = axis_figure(*loaded, asked)
    else:
        figure = gallery.draw(arguments.kind or gallery.default_kind(loaded.manifest), runs, loaded)
    save(figure, out)
    print(out)


def report(arguments: Arguments) -> None:
    if arguments.all == bool(arguments.sweep):
        raise ValueError("report: name one sweep, or give --all for a page of all of them")
    if arguments.all:
        _report_all(arguments)
        return
    from analysis import tracked
    from analysis.frame import to_stderr
    from analysis.report.report import report as page
    from analysis.sources import source
    from experiments.store.run import runs_root

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
    text = page(runs, loaded, pages)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(out)


def _report_all(arguments: Arguments) -> None:
    from analysis.report.index import write_all
    from experiments.store.run import runs_root

    folder: Path = arguments.out or REPORTS
    if folder.is_file() or folder.suffix.lower() in (".html", ".htm"):
        raise ValueError(f"--out {folder}: --all writes a folder of pages; name one, such as {REPORTS}")
    if arguments.mlflow:
        raise ValueError("--all reads the run directories: leave --mlflow out, or report one sweep")
    print(write_all(runs_root(), folder, arguments.server)[-1])
