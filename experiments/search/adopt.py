"""`adopt`: the winner of a search as a baseline to paste, written as what it changes in the named one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from experiments import schema
from experiments.baselines import baseline
from experiments.manifest import all_manifests
from experiments.run_directory import RunDirectory
from experiments.schema import SearchRecord, TrialRecord
from experiments.search.confirm import BASE, sweep_name
from experiments.search.record import arm_of, front, ranked
from moco.config import Config
from moco.identity import from_plain

INDENT = "    "


@dataclass(frozen=True)
class Winner:
    """`means`: arm -> its readouts at fresh seeds; empty where nothing was confirmed."""

    trial: TrialRecord
    means: Mapping[str, list[float]]


def winner(root: Path, record: SearchRecord, number: int | None) -> Winner:
    """The trial asked for; else the best at fresh seeds; else the search's best. Raises ValueError where that is open."""
    done = {t["number"]: t for t in ranked(record)}
    fresh = confirmed(root, record)
    if number is not None:
        found = next((t for t in record["trials"] if t["number"] == number and t.get("config")), None)
        if found is None:
            raise ValueError(f"--trial {number}: {record['label']} has no such trial; the best are {_best(done)}")
        return Winner(found, fresh)
    if not done:
        raise ValueError(f"{record['label']}: no trial is done within its limits")
    if len(record["metrics"]) > 1:
        numbers = ", ".join(str(t["number"]) for t in front(record))
        raise ValueError(
            f"{record['label']}: several objectives have no one winner; choose with --trial among {numbers}"
        )
    trials = {arm: t for arm in fresh if (t := next((t for t in done.values() if arm_of(t["number"]) == arm), None))}
    if trials:
        return Winner(trials[max(trials, key=lambda arm: statistics.fmean(fresh[arm]))], fresh)
    return Winner(next(iter(done.values())), {})


def _best(done: Mapping[int, TrialRecord]) -> str:
    return ", ".join(map(str, list(done)[:5])) or "none yet"


def confirmed(root: Path, record: SearchRecord) -> dict[str, list[float]]:
    """arm -> validation readouts at the seeds of the newest confirmation; arms that lack a seed are left out."""
    named = [m for m in all_manifests(root) if m["name"] == sweep_name(record)]
    if not named:
        return {}
    found: dict[str, list[float]] = {}
    for arm in named[0]["arms"]:
        cells = [cell for cell in named[0]["cells"] if cell["arm"] == arm]
        results = [RunDirectory(root / cell["run_id"]).results() or schema.Results() for cell in cells]
        values = [v for r in results if (v := r.get("validation", {}).get(record["metrics"][0])) is not None]
        if values and len(values) == len(cells):
            found[arm] = values
    return found


def source(record: SearchRecord, chosen: Winner) -> str:
    """Python, fit for experiments/baselines.py, with the numbers behind it; ends with a newline."""
    name, trial = f"{record['base']}_{record['name'].removeprefix('search_')}", chosen.trial
    winning: Config = from_plain(Config, trial["config"])
    changes = differences(baseline(record["base"]), winning, "base")
    lines = [
        f"def {name}() -> Config:",
        f'{INDENT}"""{record["base"]} with what a search found: {_evidence(record, chosen)}',
        "",
        f"{INDENT}Source: {record['label']}, trial {trial['number']}, run {trial['run_id']}.",
        f"{INDENT}Command: {record['command']}",
        f'{INDENT}"""',
        f"{INDENT}base = {record['base']}()",
        f"{INDENT}return {changes}",
    ]
    return "\n".join(lines) + "\n"


def _evidence(record: SearchRecord, chosen: Winner) -> str:
    arm, metric = arm_of(chosen.trial["number"]), record["metrics"][0]
    if arm in chosen.means:
        base = f", {_mean(chosen.means[BASE])} of the base" if BASE in chosen.means else ""
        return f"validation {metric} {_mean(chosen.means[arm])} at fresh seeds{base}."
    values = chosen.trial.get("values")
    return f"validation {metric} {values[0]:.1f} at the one seed it was chosen by." if values else "chosen by hand."


def _mean(values: list[float]) -> str:
    spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread} (n = {len(values)})"


def differences(old: Any, new: Any, name: str, depth: int = 1) -> str:
    """An expression that makes `new` out of the value called `name`, which is `old`."""
    if type(old) is not type(new):
        return repr(new)
    meant = [f.name for f in fields(new) if not f.metadata.get("cosmetic") and f.name != "seed"]
    changed = [field for field in meant if not _same(getattr(old, field), getattr(new, field))]
    if not changed:
        return name
    inner = [
        f"{field}={_value(getattr(old, field), getattr(new, field), f'{name}.{field}', depth)}" for field in changed
    ]
    pad = INDENT * (depth + 1)
    short = f"replace({name}, {', '.join(inner)})"
    if len(short) + len(pad) <= 100 and "\n" not in short:
        return short
    return "\n".join(["replace(", f"{pad}{name},", *(f"{pad}{part}," for part in inner), f"{INDENT * depth})"])


def _same(old: Any, new: Any) -> bool:
    """Apart from the seed, and from paths, workers and the like."""
    return old == new or (type(old) is type(new) and is_dataclass(new) and differences(old, new, "same") == "same")


def _value(old: Any, new: Any, name: str, depth: int) -> str:
    return differences(old, new, name, depth + 1) if is_dataclass(new) and not isinstance(new, type) else repr(new)


def imports(text: str) -> str:
    """The classes of the config that the pasted text needs."""
    import moco.config as config

    names = [n for n in vars(config) if isinstance(getattr(config, n), type) and f"{n}(" in text.partition("return")[2]]
    return (
        f"from moco.config import {', '.join(['Config', *sorted(names)])}"
        if names
        else "from moco.config import Config"
    )
