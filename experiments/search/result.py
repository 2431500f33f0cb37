"""After a search: its best trials as a sweep at fresh seeds, and its winner as a baseline to paste.

    parse, best, confirmation    `--confirm 5x3`: the best trials and the base at fresh seeds, as an ordinary sweep
    confirmed                    what fresh seeds say
    source, imports              `adopt`: a trial, as Python for experiments/plan/baselines.py

Neither needs optuna: both read the record of the search and the run directories.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from experiments.plan.registry import baseline_config
from experiments.plan.sweep import Sweep
from experiments.store import schema
from experiments.store.manifests import all_manifests
from experiments.store.run import RunDirectory
from experiments.store.schema import Manifest, SearchRecord, TrialRecord
from experiments.store.search_record import arm_of, front, ranked
from moco.config import Config
from moco.config.plain import from_plain, run_id

BASE = "base"  # arm of the confirmation
INDENT = "    "


def sweep_name(record: SearchRecord) -> str:
    return f"{record['name']}_confirm"


def parse(text: str) -> tuple[int, int]:
    """`5x3`: trials and seeds. Raises ValueError for anything else."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"--confirm {text}: write trials x seeds, such as 5x3")
    return int(match[1]), int(match[2])


def best(record: SearchRecord, count: int) -> list[TrialRecord]:
    """The best trials by the search's own numbers, or its Pareto front. The base is left out: it is an arm by itself."""
    base = _id(record["base_config"])
    candidates = ranked(record) if len(record["metrics"]) == 1 else front(record)
    return [trial for trial in candidates if _id(trial["config"]) != base][:count]


def _id(plain: Mapping[str, Any]) -> str:
    """The run id of a config at seed 0: equal for configs that differ in their seed only."""
    config: Config = from_plain(Config, plain)
    return run_id(replace(config, train=replace(config.train, seed=0)))


def confirmation(record: SearchRecord, winners: list[TrialRecord], seeds: int) -> Sweep:
    """A sweep of the base and the winning trials, at `seeds` seeds that the search has not used."""

    def arms(base: Config) -> dict[str, Config]:
        return {BASE: base, **{arm_of(t["number"]): from_plain(Config, t["config"]) for t in winners}}

    used = [t["config"]["train"]["seed"] for t in record["trials"] if t.get("config")]
    return Sweep(
        name=sweep_name(record),
        question=f"Which of the {len(winners)} best trials of {record['label']} holds at fresh seeds?",
        claim="the best trial stays above the base",
        varies=tuple(record["space"]),
        arms=arms,
        baseline=BASE,
        base=record["base"],
        seeds=seeds,
        first_seed=max(used) + 1,
        metric=record["metrics"][0],
    )


@dataclass(frozen=True)
class Fresh:
    """A confirmation: the trials that were to be confirmed, by arm, and the validation readouts of the search's first metric.

    values: arm -> seed -> readout, of arms all of whose seeds are there. The base is the arm `BASE`. manifest: of the sweep.
    """

    manifest: Manifest
    trials: Mapping[str, TrialRecord]
    values: Mapping[str, Mapping[int, float]]

    @property
    def of_trials(self) -> dict[str, Mapping[int, float]]:
        """Of every trial that was to be confirmed, empty where seeds are missing."""
        return {arm: self.values.get(arm, {}) for arm in self.trials}

    @property
    def missing(self) -> list[str]:
        """Arms that lack a seed."""
        return [arm for arm in (BASE, *self.trials) if arm not in self.values]


def confirmed(root: Path, record: SearchRecord) -> Fresh | None:
    """The newest confirmation of this search. An arm counts if its config is that of the trial in its name.

    Those of another base, of other settings, or of the study before `--new-study` do not. None without one.
    """
    base, of_arm = _id(record["base_config"]), {arm_of(t["number"]): t for t in record["trials"] if t.get("config")}
    for manifest in all_manifests(root):
        if manifest["name"] != sweep_name(record):
            continue
        configs = {cell["arm"]: cell["config"] for cell in manifest["cells"]}
        own = {arm: t for arm, t in of_arm.items() if arm in configs and _id(configs[arm]) == _id(t["config"])}
        if own and BASE in configs and _id(configs[BASE]) == base:
            return Fresh(manifest, own, _values(root, manifest, record["metrics"][0]))
    return None


def _values(root: Path, manifest: Manifest, metric: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for arm in manifest["arms"]:
        cells = [cell for cell in manifest["cells"] if cell["arm"] == arm]
        results = {cell["seed"]: RunDirectory(root / cell["run_id"]).results() or schema.Results() for cell in cells}
        values = {seed: v for seed, r in results.items() if (v := r.get("validation", {}).get(metric)) is not None}
        if values and len(values) == len(cells):
            found[arm] = values
    return found


def trial_numbered(record: SearchRecord, number: int) -> TrialRecord:
    """Raises ValueError for a trial that is not there, with the best ones."""
    found = next((t for t in record["trials"] if t["number"] == number and t.get("config")), None)
    if found is None:
        numbers = ", ".join(str(t["number"]) for t in ranked(record)[:5]) or "none yet"
        raise ValueError(f"--trial {number}: {record['label']} has no such trial; the best are {numbers}")
    return found


def check_one_winner(record: SearchRecord) -> None:
    """Raises ValueError where only a person can choose: no done trial, or several objectives."""
    if not ranked(record):
        raise ValueError(f"{record['label']}: no trial is done within its limits")
    if len(record["metrics"]) > 1:
        numbers = ", ".join(str(t["number"]) for t in front(record))
        raise ValueError(
            f"{record['label']}: several objectives have no one winner; choose with --trial among {numbers}"
        )


def source(record: SearchRecord, trial: TrialRecord, evidence: str) -> str:
    """A function for experiments/plan/baselines.py, with its evidence in the docstring; ends with a newline."""
    name = f"{record['base']}_{record['name'].removeprefix('search_')}"
    winning: Config = from_plain(Config, trial["config"])
    changes = differences(baseline_config(record["base"]), winning, "base")
    lines = [
        f"def {name}() -> Config:",
        f'{INDENT}"""{record["base"]} with what a search found: {evidence}',
        "",
        f"{INDENT}Source: {record['label']}, trial {trial['number']}, run {trial['run_id']}.",
        f"{INDENT}Command: {record['command']}",
        f'{INDENT}"""',
        f"{INDENT}base = {record['base']}()",
        f"{INDENT}return {changes}",
    ]
    return "\n".join(lines) + "\n"


def evidence(record: SearchRecord, trial: TrialRecord, fresh: Fresh | None) -> str:
    """What speaks for a trial, as the end of a sentence."""
    arm, metric = arm_of(trial["number"]), record["metrics"][0]
    if fresh is not None and arm in fresh.values:
        base = f", {_mean(fresh.values[BASE])} of the base" if BASE in fresh.values else ""
        return f"validation {metric} {_mean(fresh.values[arm])} at fresh seeds{base}."
    values = trial.get("values")
    return f"validation {metric} {values[0]:.1f} at the one seed it was chosen by." if values else "chosen by hand."


def _mean(by_seed: Mapping[int, float]) -> str:
    values = list(by_seed.values())
    spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread} (n = {len(values)})"


def differences(old: Any, new: Any, name: str, depth: int = 1) -> str:
    """A Python expression for `new`, given that the variable `name` holds `old`."""
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
    """Whether they are equal but for the seed and cosmetic fields."""
    return old == new or (type(old) is type(new) and is_dataclass(new) and differences(old, new, "same") == "same")


def _value(old: Any, new: Any, name: str, depth: int) -> str:
    return differences(old, new, name, depth + 1) if is_dataclass(new) and not isinstance(new, type) else repr(new)


def imports(text: str) -> str:
    """The import line of the config classes that the text needs."""
    import moco.config as config

    names = [n for n in vars(config) if isinstance(getattr(config, n), type) and f"{n}(" in text.partition("return")[2]]
    return (
        f"from moco.config import {', '.join(['Config', *sorted(names)])}"
        if names
        else "from moco.config import Config"
    )
