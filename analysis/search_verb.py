"""`python -m analysis search NAME`: the table of a search on the terminal, its figures in a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis.search import find_search, table
from experiments.store.run import runs_root


def search(arguments: argparse.Namespace) -> int:
    record = find_search(runs_root(), arguments.search)
    sys.stdout.write(table(runs_root(), record))
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
