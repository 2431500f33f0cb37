"""A search's results, from its record.

    find_search     the record
    table           the best trials, the Pareto front, and the confirmation, as text
    confirmation    the best trials at fresh seeds

A trial's own number comes from the one seed it was chosen by, and the best of many is partly luck; so only the
confirmation can rank trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.advantage import advantages
from analysis.frame import Log, manifests, read_object, to_stderr
from analysis.stats import Comparison, compare
from analysis.table import added_by_results
from analysis.words import count
from experiments.store import schema
from experiments.store.named import named, names, nearest
from experiments.store.schema import SearchRecord, TrialRecord
from experiments.store.search_record import arm_of, feasible, not_ranked
from experiments.store.summary import Summary, summarise, t_interval

SHOWN = 10  # trials in the table
BASE = "base"  # arm of the confirmation, and source of the trial with the base's own values
UNITS = {"gpu_hours": "GPU-hours"}


@dataclass(frozen=True)
class Confirmed:
    """A trial, or the base, at fresh seeds. `against_base` is paired by seed; None, as the advantage, unless all seeds that
    were planned for the trial and for the base have a value: the others are survivors, or too early."""

    arm: str
    planned: int  # seeds
    summary: Summary | None
    interval: tuple[float, float] | None
    against_base: Comparison | None
    test: Summary | None  # reported, never chosen by
    shrunken: float | None = None  # advantage over the base that is expected at further seeds


def records(root: Path, log: Log = to_stderr) -> list[SearchRecord]:
    """All search records, the newest first; damaged files are logged and left out."""
    found = []
    for path in sorted((root / schema.SEARCHES_FOLDER).glob("*.json")):
        problems: list[str] = []
        record = read_object(path, SearchRecord, problems)
        if record is None:
            log("; ".join(problems))
        else:
            found.append(record)
    return sorted(found, key=lambda r: r["updated"], reverse=True)


def find_search(root: Path, name: str, log: Log = to_stderr) -> SearchRecord:
    """By label, else by name, the newest. `ValueError`, one line, for an unknown one or a newer store."""
    known = records(root, log)
    found = named(known, name)
    if not found:
        there = f"there are {', '.join(names(known))}" if known else "there is none"
        if (near := nearest(name, names(known))) is not None:
            there = f"did you mean {near}?"
        raise ValueError(f"no search {name!r} under {root}: {there}; one begins with python sweeps/search_moco.py")
    if found[0]["store_version"] > schema.STORE_VERSION:
        raise ValueError(f"{found[0]['label']}: written in a newer store version, {found[0]['store_version']}: update")
    return found[0]


def by_number(record: SearchRecord) -> dict[int, TrialRecord]:
    return {trial["number"]: trial for trial in record["trials"]}


def base_trial(record: SearchRecord) -> TrialRecord | None:
    """The trial with the base's own values, if it is done."""
    return next((t for t in record["trials"] if t.get("source") == BASE and t.get("values")), None)


def confirmation(root: Path, record: SearchRecord) -> list[Confirmed]:
    """The arms at fresh seeds, the best mean first, those that lack seeds last; empty where nothing was confirmed."""
    manifest, arms = _newest(root, record)
    if manifest is None:
        return []
    metric, higher = record["metrics"][0], record["directions"][0] == "maximize"
    seen, test = (_readouts(root, manifest, metric, split) for split in ("validation", "test"))
    planned = {arm: sum(cell["arm"] == arm for cell in manifest["cells"]) for arm in arms}
    whole = {arm: v if len(v := seen.get(arm, {})) == planned[arm] else {} for arm in arms}
    base, joined = whole[BASE], added_by_results(manifest)
    trials = {arm: whole[arm] for arm in arms if arm != BASE}
    believed = advantages(trials, base, higher_is_better=higher, sequential=joined)
    rows = [
        Confirmed(
            arm,
            planned[arm],
            summarise(list(seen.get(arm, {}).values())),
            t_interval(list(seen.get(arm, {}).values())),
            compare(whole[arm], base, sequential=joined) if arm != BASE else None,
            summarise(list(test.get(arm, {}).values())),
            believed[arm].shrunken if arm != BASE else None,
        )
        for arm in arms
    ]

    def place(row: Confirmed) -> tuple[bool, float]:
        mean = -math.inf if row.summary is None else row.summary.mean if higher else -row.summary.mean
        return not whole[row.arm], -mean

    return sorted(rows, key=place)


def _newest(root: Path, record: SearchRecord) -> tuple[schema.Manifest | None, list[str]]:
    """The newest confirmation of this search, and its arms that are of it.

    As `adopt` has it (`experiments.search.result.confirmed`): the base has the search's base config, and an arm counts if it
    has the config of the trial that it is named after. Those of the study before `--new-study` have other configs.
    """
    known = {arm_of(t["number"]): t["config"] for t in record["trials"] if t.get("config")}
    known[BASE] = record["base_config"]
    for manifest in manifests(root):
        if manifest["name"] != f"{record['name']}_confirm":
            continue
        configs = {cell["arm"]: cell["config"] for cell in manifest["cells"]}
        own = [arm for arm in manifest["arms"] if arm in known and arm in configs and _alike(known[arm], configs[arm])]
        if BASE in own and len(own) > 1:
            return manifest, own
    return None, []


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two plain configs are equal but for the seed. Fields that only one of them has are not compared."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            return all(same(a[name], b[name]) for name in a.keys() & b.keys() if name != "seed")
        return bool(a == b)

    return same(one, other)


def _readouts(root: Path, manifest: schema.Manifest, metric: str, split: str) -> dict[str, dict[int, float]]:
    """arm -> seed -> percent, of finished runs."""
    found: dict[str, dict[int, float]] = {}
    for cell in manifest["cells"]:
        results = read_object(root / cell["run_id"] / schema.RESULTS, schema.Results, []) or schema.Results()
        value = ((results.get("test") if split == "test" else results.get("validation")) or {}).get(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            found.setdefault(cell["arm"], {})[cell["seed"]] = float(value)
    return found


def table(root: Path, record: SearchRecord) -> str:
    """Plain text: how far the search is, the best trials, and the confirmation if there is one."""
    lines = [*_head(record), "", *_columns(_trial_rows(record)), *_left_out(record)]
    rows = confirmation(root, record)
    if rows:
        lines += ["", "at fresh seeds, validation images (the test split is only reported):", *_columns(_fresh(rows))]
    elif record["ranking"]:
        lines += [
            "",
            f"The best of {len(record['ranking'])} was chosen by one seed, a lucky one; rank by fresh seeds:",
            f"python sweeps/{record['name']}.py --confirm 3x10",
        ]
    return "\n".join(lines) + "\n"


def _left_out(record: SearchRecord) -> list[str]:
    """Done trials that no row shows: how many, and why."""
    more = len(record["ranking"]) - SHOWN
    lines = [f"and {count(more, 'more ranked trial')}"] if more > 0 else []
    lines += [f"not ranked: trial {number}, {why}" for number, why in not_ranked(record).items()]
    return ["", *lines] if lines else []


def _head(record: SearchRecord) -> list[str]:
    warm = sum(t.get("source") == "warm start" for t in record["trials"])
    states = [_state(t) for t in record["trials"] if t.get("source") != "warm start"]
    over = sum(t["state"] == schema.DONE and not feasible(t) for t in record["trials"])
    counts = ", ".join(
        f"{states.count(s)} {s}" + (f" ({over} of them over a limit)" if s == schema.DONE and over else "")
        for s in dict.fromkeys(sorted(states))
    )
    objectives = ", ".join(
        f"{m} ({'higher' if d == 'maximize' else 'lower'} is better)"
        for m, d in zip(record["metrics"], record["directions"], strict=True)
    )
    lines = [
        f"{record['label']}: {counts or 'no trial yet'}" + (f", {warm} told from a sweep" if warm else ""),
        record["question"],
        f"judged by {objectives} on the validation images; {record['sampler']}, pruner {record['pruner']}",
    ]
    return lines + ([f"given up: {record['failure']}"] if record["failure"] else [])


def _state(trial: TrialRecord) -> str:
    return "diverged" if trial.get("diverged") else trial["state"]


def _trial_rows(record: SearchRecord) -> list[list[str]]:
    several = len(record["metrics"]) > 1
    header = ["", "trial", *(UNITS.get(metric, metric) for metric in record["metrics"]), "time", "settings"]
    trials, rows = by_number(record), [header]
    first = record["front"] if several else []
    shown = first + [number for number in record["ranking"] if number not in first]
    for rank, number in enumerate(shown[:SHOWN], start=1):
        rows.append(_trial_row("front" if several and number in record["front"] else str(rank), trials[number]))
    base = base_trial(record)
    if base is not None and base["number"] not in shown[:SHOWN]:
        rows.append(_trial_row(BASE, base))
    return rows


def _trial_row(mark: str, trial: TrialRecord) -> list[str]:
    hours = trial.get("hours")
    base = " (base)" if trial.get("source") == BASE and mark != BASE else ""
    values = [f"{value:.4g}" if value < 1 else f"{value:.2f}" for value in trial["values"] or []]
    settings = " ".join(f"{name}={value}" for name, value in trial.get("settings", {}).items())
    return [mark, f"{trial['number']}{base}", *values, "-" if hours is None else f"{hours * 3600:.0f} s", settings]


def _fresh(rows: Sequence[Confirmed]) -> list[list[str]]:
    header = ["", "arm", "n", "mean ± std", "95 % interval", "minus base", "95 % interval", "shrunken", "test"]
    return [header, *([str(rank), *_fresh_row(row)] for rank, row in enumerate(rows, start=1))]


def _fresh_row(row: Confirmed) -> list[str]:
    other = row.against_base
    difference = ["", ""] if other is None else [f"{other.difference:+.2f}", _interval(other.low, other.high)]
    test = "-" if row.test is None else f"{row.test.mean:.2f}"
    n = 0 if row.summary is None else row.summary.n
    mean = "-" if row.summary is None else row.summary.text()
    own = _interval(*(row.interval or (None, None)))
    shrunken = "" if row.shrunken is None else f"{row.shrunken:+.2f}"
    return [row.arm, f"{n}/{row.planned}", mean, own, *difference, shrunken, test]


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def best_so_far(values: Mapping[int, float], *, maximise: bool) -> list[tuple[int, float]]:
    """(trial, best value up to it), in the order of the trials."""
    best: list[tuple[int, float]] = []
    choose: Callable[..., Any] = max if maximise else min
    for number in sorted(values):
        best.append((number, choose(best[-1][1], values[number]) if best else values[number]))
    return best
