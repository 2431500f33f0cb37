"""What MLflow holds of a run, as a row of `store.CELLS` and points of `store.CURVES`. Asks no server."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from analysis.store import CELLS
from experiments import schema

_NOTHING: Final[dict[str, Any]] = {
    **dict.fromkeys(CELLS),
    "reason": "",
    "diverged": False,
    "commits": [],
    "hardware": [],
    "problems": [],
}


def missing_row(cell: schema.Cell) -> dict[str, Any]:
    """Planned, and never begun as far as MLflow knows."""
    return {**_NOTHING, "arm": cell["arm"], "seed": cell["seed"], "run_id": cell["run_id"], "state": schema.MISSING}


def row_of(
    cell: schema.Cell,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    results: Mapping[str, Any] | None,
    last_step: int | None,
) -> dict[str, Any]:
    """results: seconds and steps of results.json, None unless done; last_step: of its metrics, for runs without results."""
    done = is_done(tags)
    return {
        **missing_row(cell),
        "state": tags.get("moco.state", schema.RUNNING),
        "reason": tags.get("moco.reason", ""),
        "diverged": tags.get("moco.diverged") == "1",
        "step": results.get("steps") if results else last_step,
        "total_steps": results.get("steps") if results else None,
        **{readout: finite(metrics.get(f"test/{readout}")) for readout in schema.READOUTS if done},
        "seconds": finite(results.get("seconds")) if results else None,
        "device_seconds": _number(tags.get("moco.device_seconds", "")),
        "commits": [_version(tags)] if tags.get("moco.commit") else [],
        "hardware": [tags["moco.hardware"]] if tags.get("moco.hardware") else [],
    }


def spent(tags: Mapping[str, str]) -> dict[str, float] | None:
    """Seconds and steps of a done run, as its results.json has them; None of a run that was brought over without."""
    if "moco.seconds" not in tags:
        return None
    found = {name: json.loads(tags[f"moco.{name}"]) for name in ("seconds", "steps") if f"moco.{name}" in tags}
    return {name: value for name, value in found.items() if finite(value) is not None}


def points_of(table: str, keys: Sequence[str]) -> Iterator[tuple[int, float | None, str, float | None]]:
    """step, epoch, key, value from the table of a run's curves (curves.csv), in the order of the journal."""
    wanted = sorted(set(keys))
    for record in csv.DictReader(table.splitlines()):
        for key in wanted:
            if record.get(key):
                yield int(record["step"]), _number(record["epoch"]), key, _number(record[key])


def is_done(tags: Mapping[str, str]) -> bool:
    return tags.get("moco.state") == schema.DONE


def finite(value: Any) -> float | None:
    """A finite number; anything else is missing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _number(text: str) -> float | None:
    return finite(float(text)) if text else None


def _version(tags: Mapping[str, str]) -> str:
    """`0123456`, or `0123456+89ab` with the hash of the uncommitted changes, as `analysis.runs` has it."""
    uncommitted = tags.get("moco.uncommitted")
    return f"{tags['moco.commit'][:7]}+{uncommitted[:7]}" if uncommitted else tags["moco.commit"][:7]
