"""RUNS/searches/<label>.json: reads the record of a search, ranks its trials, and presents it as a sweep of its trials."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.store import records, schema
from experiments.store.files import Damaged, warn_once
from experiments.store.named import named, names, nearest
from experiments.store.schema import Manifest, SearchRecord, TrialRecord
from experiments.store.summary import pareto_front

TRIAL = re.compile(r"(?P<search>.+)#(?P<number>\d+)")  # search_moco#12


def record_path(root: Path, label: str) -> Path:
    return root / schema.SEARCHES_FOLDER / f"{label}.json"


def read_record(path: Path) -> SearchRecord | None:
    """Raises ValueError for a file that is damaged or written by a newer version."""
    return records.read_record(SearchRecord, path)


def all_records(root: Path) -> list[SearchRecord]:
    """The newest first. A damaged one is left out and named on standard error."""
    found: list[SearchRecord] = []
    for path in (root / schema.SEARCHES_FOLDER).glob("*.json"):
        try:
            if record := read_record(path):
                found.append(record)
        except Damaged as error:
            warn_once(f"{error}; the search is left out: its own command writes the file anew")
    return sorted(found, key=lambda r: r["updated"], reverse=True)


def record_named(root: Path, name: str) -> SearchRecord:
    """By label, else the newest of that name. Raises ValueError with the nearest name."""
    known = all_records(root)
    if found := named(known, name):
        return found[0]
    hint = f"there are {', '.join(names(known))}" if known else "there is none yet"
    if (near := nearest(name, names(known))) is not None:
        hint = f"did you mean {near}?"
    raise ValueError(f"{name}: no such search in {root}; {hint}")


def arm_of(number: int) -> str:
    return f"trial-{number}"


def finished(record: SearchRecord) -> list[TrialRecord]:
    """Trials that count towards the budget: done or pruned, and asked for by this search."""
    ended = (schema.DONE, schema.PRUNED)
    return [t for t in record["trials"] if t["state"] in ended and t.get("source") != "warm start"]


def feasible(trial: TrialRecord) -> bool:
    """Whether it keeps all limits."""
    return all(excess <= 0 for excess in trial.get("constraints", {}).values())


def ranked(record: SearchRecord) -> list[TrialRecord]:
    """Done trials within the limits, the best by the first metric first, ties by number. One trial per run."""
    sign = -1 if record["directions"][0] == "maximize" else 1
    done = [t for t in record["trials"] if t["state"] == schema.DONE and t.get("values") and feasible(t)]
    best: dict[str, TrialRecord] = {}
    for trial in sorted(done, key=lambda t: (sign * (t["values"] or [0.0])[0], t["number"])):
        best.setdefault(trial["run_id"], trial)
    return list(best.values())


def front(record: SearchRecord) -> list[TrialRecord]:
    """The Pareto front of several objectives, the best by the first metric first."""
    signs = [-1 if direction == "maximize" else 1 for direction in record["directions"]]
    candidates = ranked(record)
    losses = [[sign * v for sign, v in zip(signs, trial["values"] or [], strict=True)] for trial in candidates]
    return [candidates[i] for i in sorted(pareto_front(losses))]


def by_field(shares: Mapping[str, float], fields: Iterable[str]) -> dict[str, float]:
    """Importances by config field, the largest first. A sampler's parameter may be called after a scale or a condition:
    `log2 head.dim if head.hidden=()` is of head.dim, and a field with several such parameters has their sum."""
    found: dict[str, float] = {}
    known = list(fields)
    for name, share in shares.items():
        plain = name.partition(" if ")[0].removeprefix("log2 ").removeprefix("1 - ")
        field = plain if plain in known else name
        found[field] = found.get(field, 0.0) + share
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def not_ranked(record: SearchRecord) -> dict[int, str]:
    """Number of each done trial that `ranked` leaves out -> why, in a few words. Other trials are counted by their state."""
    ranking = {trial["number"]: trial for trial in ranked(record)}
    holder = {trial["run_id"]: number for number, trial in ranking.items()}
    reasons: dict[int, str] = {}
    for trial in record["trials"]:
        number = trial["number"]
        if number in ranking or trial["state"] != schema.DONE:
            continue
        over = [f"{name} over by {excess:.3g}" for name, excess in trial.get("constraints", {}).items() if excess > 0]
        if over:
            reasons[number] = ", ".join(over)
        elif trial.get("run_id") in holder:
            reasons[number] = f"the same run as trial {holder[trial['run_id']]}"
        else:
            reasons[number] = "without a value"
    return reasons


def as_manifest(record: SearchRecord) -> Manifest:
    """The search as a sweep whose arms are its trials, for `status`, `logs`, `cancel`, `find` and `sync`."""
    trials = [t for t in record["trials"] if t.get("run_id")]
    seed = int(record["base_config"]["train"]["seed"])
    cells = [
        schema.Cell(
            arm=arm_of(t["number"]), seed=int(t["config"]["train"]["seed"]), run_id=t["run_id"], config=t["config"]
        )
        for t in trials
    ]
    base = next((t for t in record["trials"] if t.get("source") == "base"), None)
    plain: Any = {
        "store_version": record["store_version"],
        "name": record["name"],
        "label": record["label"],
        "question": record["question"],
        "claim": "",
        "metric": next(iter(record["metrics"])),
        "varies": list(record["space"]),
        "axis": None,
        "axis_values": {},
        "baseline": arm_of(base["number"]) if base else "",
        "baseline_config": record["base"],
        "arms": [cell["arm"] for cell in cells],
        "seeds": sorted({seed, *(cell["seed"] for cell in cells)}),
        "cells": cells,
        "published": {},
        "published_source": "",
        "command": record["command"],
        "updated": record["updated"],
        "trials": {arm_of(t["number"]): t["number"] for t in trials},
        "study": record["study"],
        "open": len(finished(record)) < record["budget"] and record["failure"] is None,
    }
    made: Manifest = plain
    return made


def search_manifests(root: Path) -> list[Manifest]:
    """All searches as sweeps, the newest first."""
    found: list[Manifest] = []
    for record in all_records(root):
        try:
            found.append(as_manifest(record))
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # below the depth that the reader checks
            path = record_path(root, record["label"])
            warn_once(f"{path}: damaged ({error!r}); the search is left out: its own command writes the file anew")
    return found


def split_trial(text: str) -> tuple[str, str] | None:
    """(search, arm) of a trial's name such as `search_moco#12`; None for another text."""
    match = TRIAL.fullmatch(text)
    return (match["search"], arm_of(int(match["number"]))) if match else None
