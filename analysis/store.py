"""From `$MOCO_RUNS` to one polars frame: a row for each cell that a sweep planned, whether or not it has run.

The frame's columns are `CELLS`; `tables`, `plots` and `report` need nothing else, so another reader that fills the same
columns (from a tracking server, say) gets the same tables and figures.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import polars as pl

from analysis.index import read_runs
from analysis.runs import Run, read_journal
from experiments import schema
from experiments.schema import Manifest

_CELL_TYPES: Final[dict[str, Any]] = {
    "arm": pl.String,
    "seed": pl.Int64,
    "run_id": pl.String,
    "state": pl.String,  # one of schema.STATES
    "reason": pl.String,
    "diverged": pl.Boolean,
    "step": pl.Int64,
    "total_steps": pl.Int64,
    **dict.fromkeys(schema.READOUTS, pl.Float64),  # percent; null unless the run is done and has it
    "seconds": pl.Float64,  # wall clock of all attempts
    "device_seconds": pl.Float64,  # the same of every run, finished or not, times the processes of each attempt
    "commits": pl.List(pl.String),  # of all attempts; `0123456+89ab` had uncommitted changes
    "hardware": pl.List(pl.String),
    "problems": pl.List(pl.String),  # damaged files, one line each
}
CELLS: Final = pl.Schema(_CELL_TYPES)
CURVES: Final = pl.Schema(
    {
        "arm": pl.String,
        "seed": pl.Int64,
        "run_id": pl.String,
        "state": pl.String,
        "step": pl.Int64,
        "epoch": pl.Float64,
        "key": pl.String,  # one of schema.METRICS, or another key of the journal
        "value": pl.Float64,
    }
)


class Loaded(NamedTuple):
    manifest: Manifest
    cells: pl.DataFrame  # CELLS, in the order of the manifest


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def runs_root() -> Path:
    """`$MOCO_RUNS`, by default `runs/` in the current folder."""
    return Path(os.environ.get("MOCO_RUNS") or "runs")


def _read_manifest(path: Path, log: Callable[[str], None]) -> Manifest | None:
    """A manifest of any version that says so; a file that is damaged or something else is named and left out."""
    try:
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        log(f"{path}: damaged manifest ({str(error).splitlines()[0]}); left out")
        return None
    version = value.get("store_version") if isinstance(value, dict) else None
    absent = sorted(Manifest.__required_keys__ - set(value)) if isinstance(value, dict) else ["everything"]
    newer = isinstance(version, int) and version > schema.STORE_VERSION and {"name", "label"} <= set(value)
    if absent and not newer:
        log(f"{path}: not a manifest of a sweep (without {', '.join(absent)}); left out")
        return None
    return cast(Manifest, value)


def manifests(root: Path, log: Callable[[str], None] = to_stderr) -> list[Manifest]:
    """All planned sweeps of a store, most recently updated first."""
    paths = sorted((root / schema.SWEEPS_FOLDER).glob("*.json"))
    found = [m for path in paths if (m := _read_manifest(path, log))]
    return sorted(found, key=lambda m: str(m.get("updated", "")), reverse=True)


def find_sweep(root: Path, name: str, log: Callable[[str], None] = to_stderr) -> Manifest:
    """By label (`queue_size@digits`), else by name (`queue_size`): of several variants the most recently updated.

    `ValueError`, one line: an empty store, an unknown sweep, a sweep written by a newer version.
    """
    known = manifests(root, log)
    if not known:
        raise ValueError(
            f"no sweeps under {root}: run one first, such as `python sweeps/queue_size.py`, "
            "or set MOCO_RUNS to the folder that holds your runs"
        )
    matching = [m for m in known if m["label"] == name] or [m for m in known if m["name"] == name]
    if not matching:
        raise ValueError(_unknown(root, name, known))
    chosen, *others = matching
    if others:
        log(f"{name}: reading {chosen['label']}; also there: {', '.join(m['label'] for m in others)}")
    if chosen["store_version"] > schema.STORE_VERSION:
        raise ValueError(
            f"{chosen['label']}: written in store version {chosen['store_version']}, this program reads up to "
            f"{schema.STORE_VERSION}: update it, or read the sweep with the version that wrote it"
        )
    return chosen


def _unknown(root: Path, name: str, known: Sequence[Manifest]) -> str:
    names = list(dict.fromkeys([m["name"] for m in known] + [m["label"] for m in known]))
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"no sweep {name!r} under {root}: {hint}there are {', '.join(dict.fromkeys(m['label'] for m in known))}"


def _cell_row(cell: schema.Cell, run: Run) -> dict[str, Any]:
    return {
        "arm": cell["arm"],
        "seed": cell["seed"],
        "run_id": cell["run_id"],
        "state": run.state,
        "reason": run.reason,
        "diverged": run.diverged,
        "step": run.step,
        "total_steps": run.total_steps,
        **{readout: run.readouts.get(readout) for readout in schema.READOUTS},
        "seconds": run.seconds,
        "device_seconds": run.device_seconds,
        "commits": list(run.commits),
        "hardware": list(run.hardware),
        "problems": list(run.problems),
    }


def _column(name: str, values: list[Any]) -> pl.Series:
    """By column: three times as fast as by row. Lists of text are few and stand in many runs: each is made once."""
    if not isinstance(CELLS[name], pl.List):
        return pl.Series(name, values, dtype=CELLS[name])
    places: dict[tuple[str, ...], int] = {}
    at = [places.setdefault(tuple(value), len(places)) for value in values]
    return pl.Series(name, list(map(list, places)), dtype=CELLS[name]).gather(at)


def load_sweep(root: Path, name: str, log: Callable[[str], None] = to_stderr) -> Loaded:
    """A sweep's manifest and its cells. Damaged files are said to `log` and kept in the column `problems`."""
    manifest = find_sweep(root, name, log)
    runs = read_runs(root, manifest["label"], (cell["run_id"] for cell in manifest["cells"]))
    rows = [_cell_row(cell, runs[cell["run_id"]]) for cell in manifest["cells"]]
    cells = pl.DataFrame({name: _column(name, [row[name] for row in rows]) for name in CELLS})
    for problem in cells["problems"].explode().drop_nulls():
        log(problem)
    return Loaded(manifest, cells)


def curves(
    root: Path, cells: pl.DataFrame, keys: Sequence[str], log: Callable[[str], None] = to_stderr
) -> pl.DataFrame:
    """The journals of all runs that exist, in long form (`CURVES`), for the metric keys asked for.

    Records that a resume made void are gone; a value that is not a finite number is null.
    """
    rows: list[tuple[Any, ...]] = []
    problems: list[str] = []
    wanted = set(keys)
    for arm, seed, run_id, state in cells.select("arm", "seed", "run_id", "state").iter_rows():
        if state == schema.MISSING:
            continue
        for record in read_journal(root / run_id, problems):
            step, epoch = record["step"], record.get("epoch")
            for key in sorted(wanted.intersection(record["values"])):
                value = record["values"][key]
                finite = isinstance(value, int | float) and math.isfinite(value)
                rows.append((arm, seed, run_id, state, step, epoch, key, value if finite else None))
    for problem in problems:
        log(problem)
    return pl.DataFrame(rows, schema=CURVES, orient="row", strict=False)
