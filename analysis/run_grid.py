"""Every run of a sweep, arms down and seeds across, each cell with its readout or its state and the way to the run."""

from __future__ import annotations

from html import escape
from typing import Final

from analysis.links import MlflowPages
from analysis.page import link, plain_table, small
from analysis.store import Loaded
from analysis.tables import READOUT_TITLES
from analysis.thinning import few
from analysis.wording import NOTHING
from experiments import schema

MOST_ARMS: Final = 60
MOST_SEEDS: Final = 12


def _content(row: dict[str, object], metric: str) -> str:
    value, state = row[metric], "diverged" if row["diverged"] else str(row["state"])
    if isinstance(value, float):
        return f"{value:.1f}"
    return f'<span class="missing">{escape("no readout" if state == schema.DONE else state)}</span>'


def run_grid(loaded: Loaded, pages: MlflowPages | None, place: str) -> str:
    """Values lead to their run in MLflow where it is known; below each its run id, the name of its directory."""
    (manifest, cells, said), metric = few(*loaded, MOST_ARMS, MOST_SEEDS), loaded.manifest["metric"]
    by_cell = {(row["arm"], row["seed"]): row for row in cells.iter_rows(named=True)}
    rows = []
    for arm in manifest["arms"]:
        line = [link(pages.arm(arm) if pages else None, escape(arm))]
        for seed in manifest["seeds"]:
            row = by_cell.get((arm, seed))
            if row is None:
                line.append(NOTHING)
                continue
            address = pages.run(row["run_id"], arm) if pages else None
            under = "" if row["state"] == schema.MISSING else f"<br><code>{escape(row['run_id'])}</code>"
            line.append(link(address, _content(row, metric)) + under)
        if pages:
            both = pages.compare([manifest["baseline"], arm]) if arm != manifest["baseline"] else None
            line.append(link(both, "compare") if both else NOTHING)
        rows.append(line)
    heads = ["arm", *(f"seed {seed}" for seed in manifest["seeds"]), *(["with the baseline"] if pages else [])]
    told = f"{READOUT_TITLES[metric]}, %. {said}A run's name is that of its directory in <code>{escape(place)}</code>."
    everything = f" In MLflow: {_everything(manifest, pages)}." if pages else ""
    return small(told + everything) + plain_table(heads, rows)


def _everything(manifest: schema.Manifest, pages: MlflowPages) -> str:
    ways = {
        "all runs with their params": pages.table(),
        "with charts": pages.charts(),
        "compare": pages.compare(manifest["arms"][:-1]),
    }
    return ", ".join(link(address, words) for words, address in ways.items())
