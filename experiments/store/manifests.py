"""Reads manifests: sweeps as they were planned, from which tables know which runs are missing.

An arm is its config. A plan in which one config stands under two names (programs up to November 2026 wrote such plans after
arms had been renamed) is read with the name that was planned last.
"""

from __future__ import annotations

from pathlib import Path

from experiments.store import records, schema
from experiments.store.files import Damaged, warn_once
from experiments.store.schema import Cell, Manifest, PlanEvent
from experiments.store.search_record import search_manifests

RENAMED, LEFT_OUT, BROUGHT_BACK = "renamed", "left out", "brought back"
BY_HAND = "dropped by hand"  # why an arm stands in the past of a plan, if a person took it out


def manifest_path(root: Path, label: str) -> Path:
    return root / schema.SWEEPS_FOLDER / f"{label}.json"


def read_manifest(root: Path, label: str) -> Manifest | None:
    """Raises ValueError for a file that is damaged or written by a newer version."""
    found = records.read_record(Manifest, manifest_path(root, label))
    return found and one_name_an_arm(found)


def all_manifests(root: Path) -> list[Manifest]:
    """The newest first. Searches are among them, as sweeps whose arms are the trials.

    A damaged one is left out and named on standard error: it harms no other sweep.
    """
    labels = [
        path.stem if path.suffix == ".json" else path.name for path in (root / schema.SWEEPS_FOLDER).glob("*.json")
    ]
    found: list[Manifest] = []
    for label in labels:
        try:
            manifest = read_manifest(root, label)
        except Damaged as error:
            warn_once(f"{error}; the sweep is left out: its own command writes the file anew")
            continue
        if manifest:
            found.append(manifest)
    found += search_manifests(root)
    return sorted(found, key=lambda m: m["updated"], reverse=True)


def one_name_an_arm(manifest: Manifest) -> Manifest:
    """The same plan with each config under one name, the first in its order: an old name was kept behind the new ones.

    Two arms are one if a run stands in both. The arm of the untrained encoder stays as it is.
    """
    current = _current_names(manifest)
    doubled = {old: new for old, new in current.items() if old != new}
    if not doubled:
        return manifest
    seen: set[tuple[str, int]] = set()
    cells: list[Cell] = []
    for cell in sorted(manifest["cells"], key=lambda cell: cell["arm"] in doubled):
        arm = current[cell["arm"]]
        if (arm, cell["seed"]) not in seen:
            seen.add((arm, cell["seed"]))
            cells.append(Cell(**{**cell, "arm": arm}))
    order = [arm for arm in manifest["arms"] if arm not in doubled]
    cells.sort(key=lambda cell: (order.index(cell["arm"]), cell["seed"]))
    events = [PlanEvent(time=manifest["updated"], event=RENAMED, arm=new, was=old) for old, new in doubled.items()]
    return Manifest(
        **{
            **manifest,
            "arms": order,
            "cells": cells,
            "baseline": current.get(manifest["baseline"], manifest["baseline"]),
            "axis_values": {arm: v for arm, v in manifest["axis_values"].items() if arm not in doubled},
            "published": {arm: v for arm, v in manifest["published"].items() if arm not in doubled},
            "factors": {arm: v for arm, v in manifest.get("factors", {}).items() if arm not in doubled},
            "history": [*manifest.get("history", []), *events],
        }
    )


def _current_names(manifest: Manifest) -> dict[str, str]:
    """Arm -> the name under which its config is planned now."""
    holder: dict[str, str] = {}  # run id -> the first arm that has it
    names: dict[str, str] = {}
    runs: dict[str, list[str]] = {}
    for cell in manifest["cells"]:
        runs.setdefault(cell["arm"], []).append(cell["run_id"])
    for arm in manifest["arms"]:
        ids = runs.get(arm, [])
        taken = next((holder[run] for run in ids if run in holder), arm)
        names[arm] = arm if schema.RANDOM_INIT in (arm, taken) else taken
        for run in ids:
            holder.setdefault(run, names[arm])
    return names


def former_names(manifest: Manifest, arm: str) -> list[str]:
    """The names that an arm had before, the oldest first."""
    history = manifest.get("history", [])
    return list(dict.fromkeys(e["was"] for e in history if e.get("arm") == arm and e.get("was")))
