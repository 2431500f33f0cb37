"""A search as data. Imports neither torch nor optuna.

    Search     what is varied, which metrics decide, how many trials it may take
    plan       checks a search against its base config
    Planned    a checked search; its `record` is all that workers and the analysis need
    changes    why the trials of an earlier record do not count for a new one

A search file makes one `Search` and calls `experiments.main` with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.plan import sweep
from experiments.plan.proposal import Start, settings, start
from experiments.plan.sweep import label_of
from experiments.search.space import (
    Choice,
    Complement,
    Dimension,
    Float,
    Given,
    Int,
    Log,
    Powers,
    Space,
    as_text,
    configured,
    describe,
    to_plain,
)
from experiments.store import schema
from experiments.store.files import now
from experiments.store.schema import SearchRecord
from moco.config import Config
from moco.config.plain import flatten
from moco.config.plain import to_plain as config_to_plain
from moco.data.catalog import FOLDER, known_by, known_by_names, resolve

__all__ = ["Choice", "Complement", "Float", "Given", "Int", "Log", "Planned", "Powers", "Search", "plan"]

SAMPLERS = ("tpe", "gp", "cmaes", "qmc", "random")
PRUNERS = ("median", "hyperband", "wilcoxon", "none")
HOURS = "gpu_hours"
DIRECTIONS = {**dict.fromkeys(schema.AT_END, "maximize"), HOURS: "minimize"}
LIMITS = ("memory_gb", "hours")
PACE = ("train.epochs", "evaluation.knn_every")  # what an epoch of a trial means, and when it is evaluated
WILCOXON_PAIRS = 4  # of n pairs the smallest one-sided p is 1 / 2^n, and Optuna's pruner asks for p < 0.1
DURING_TRAINING = schema.KNN20  # the one readout that a pruner can use


@dataclass(frozen=True)
class Search:
    """A search over config fields.

    metric: a readout of the validation images, or several objectives, such as (KNN20, "gpu_hours").
    sampler_options: arguments of Optuna's sampler, such as {"n_startup_trials": 20}.
    budget: number of finished trials. limits: what a trial may need, such as {"memory_gb": 40, "hours": 2}.
    """

    name: str
    question: str
    space: Space
    base: str = "digits"  # name of a baseline, unless --baseline says otherwise
    metric: str | tuple[str, ...] = schema.KNN20
    budget: int = 24
    sampler: str = "tpe"
    pruner: str = "median"
    sampler_options: Mapping[str, bool | int | float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,) if isinstance(self.metric, str) else self.metric


@dataclass(frozen=True)
class Planned:
    """A search over a base config, checked."""

    search: Search
    label: str
    base_name: str
    base: Config
    proposal: str | None = None  # what the baseline proposes for the user's images, in words
    of_before: Mapping[str, str] = field(default_factory=dict)  # labels of before -> what `--set` must say for them

    def record(self, command: str, *, seed: int, storage: str) -> SearchRecord:
        """The record of the search before its first trial."""
        search = self.search
        record = SearchRecord(
            store_version=schema.STORE_VERSION,
            name=search.name,
            label=self.label,
            study=self.label,
            storage=storage,
            question=search.question,
            base=self.base_name,
            base_config=config_to_plain(self.base),
            space=to_plain(search.space),
            metrics=list(search.metrics),
            directions=[DIRECTIONS[metric] for metric in search.metrics],
            limits=dict(search.limits),
            sampler=search.sampler,
            pruner=search.pruner,
            seed=seed,
            budget=search.budget,
            command=command,
            trials=[],
            ranking=[],
            front=[],
            importances={},
            failure=None,
            updated=now(),
        )
        if search.sampler_options:
            record["sampler_options"] = dict(search.sampler_options)
        return record


def plan(search: Search, base_name: str, assignments: Sequence[str], *, gpu: bool = False) -> Planned:
    """Check a search. `gpu`: whether its runs will have one, for a baseline that looks at the images first.

    Raises ValueError in one line: what is wrong with its space, its metric, its sampler or its pruner.
    """
    begun = start(base_name, assignments, gpu=gpu)
    base = replace(begun.base, data=resolve(begun.base.data))
    try:
        _check_choices(search)
        _check_pruner(search, base)
        _check_space(search.space, base)
    except ValueError as error:
        raise ValueError(f"search {search.name}: {error}") from None
    label = label_of(search.name, base_name, base, begun.preset)
    return Planned(search, label, base_name, base, begun.line, _of_before(search, base_name, begun, base))


def _of_before(search: Search, base_name: str, begun: Start, base: Config) -> dict[str, str]:
    """Labels that the same command gave before a folder's contents were compared, or before its images were looked at, and
    what `--set` must say for each."""
    if base.data.name != FOLDER or known_by(base.data.fingerprint) == "names":
        return {}
    try:
        before = known_by_names(base.data)
    except ValueError:  # a class has no file that was listed then
        return {}
    found = {}
    for config in filter(None, (begun.base, begun.fixed)):
        to_set = [each for each in settings(config, begun.base) if not each.startswith("data.root=")]
        known = replace(config, data=replace(config.data, root=before.root, fingerprint=before.fingerprint))
        label = label_of(search.name, base_name, known, begun.preset)
        found[label] = " ".join([*to_set, f"data.fingerprint={before.fingerprint}"])
    return found


def _check_choices(search: Search) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_]+", search.name):
        raise ValueError("a name has letters, digits and _ only")
    for metric in search.metrics:
        if metric not in DIRECTIONS:
            raise ValueError(
                f"metric = {metric}: a search is judged by readouts of the validation images, never by the loss or the test "
                f"split; choose among {', '.join(DIRECTIONS)}"
            )
    if search.metrics[0] == HOURS or len(set(search.metrics)) != len(search.metrics):
        raise ValueError(f"metric = {', '.join(search.metrics)}: name a readout first, and each objective once")
    for chosen, known, name in ((search.sampler, SAMPLERS, "sampler"), (search.pruner, PRUNERS, "pruner")):
        if chosen not in known:
            raise ValueError(f"{name} = {chosen}: must be one of {', '.join(known)}")
    for limit, allowed in search.limits.items():
        if limit not in LIMITS or allowed <= 0:
            raise ValueError(
                f"limits {limit} = {allowed}: must be above 0, of {', '.join(LIMITS)}; other "
                "constraints do not exist: bound the space instead"
            )
    if search.budget < 1:
        raise ValueError(f"budget = {search.budget}: must be at least 1 trial")


def _check_pruner(search: Search, base: Config) -> None:
    if search.pruner == "none":
        return
    if len(search.metrics) > 1:
        raise ValueError(
            f"pruner = {search.pruner}: with {len(search.metrics)} objectives nothing is pruned; take none"
        )
    if search.metrics[0] != DURING_TRAINING:
        raise ValueError(
            f"pruner = {search.pruner}: only {DURING_TRAINING} is measured during training, not {search.metrics[0]}; take none"
        )
    if not base.evaluation.knn_every:
        raise ValueError(
            f"pruner = {search.pruner} and evaluation.knn_every = 0: there is nothing to prune by; "
            "--set evaluation.knn_every=10, or take the pruner none"
        )
    for name in PACE:
        if name in search.space:
            raise ValueError(
                f"pruner = {search.pruner} and {name} in the space: trials would be compared at the same epoch of different "
                f"schedules; fix it with --set {name}=N, or take the pruner none"
            )
    if search.pruner == "wilcoxon":
        _check_pairs(base)


def _check_pairs(base: Config) -> None:
    """Raises ValueError where a trial ends before a signed-rank test of its evaluations can be significant."""
    epochs, every = base.train.epochs, base.evaluation.knn_every
    pairs = max(0, epochs - 1) // every  # the evaluation at the end comes too late
    if pairs >= WILCOXON_PAIRS:
        return
    often = (epochs - 1) // WILCOXON_PAIRS
    remedy = f"--set evaluation.knn_every={often}" if often else "train for more epochs"
    raise ValueError(
        f"pruner = wilcoxon: {pairs} evaluations before the end of {epochs} epochs cannot reach p < 0.1, it takes "
        f"{WILCOXON_PAIRS}; {remedy}, or take another pruner"
    )


def _check_space(space: Space, base: Config) -> None:
    if not space:
        raise ValueError("the space is empty: name a config field and where its values come from")
    seen: list[str] = []
    for name, entry in space.items():
        _check_field(name, base)
        for before, dimension in _dimensions(name, entry, space, seen):
            _check_bounds(name, dimension)
            for text in _ends(dimension):
                _try(base, {**before, name: text})
        seen.append(name)


def _check_field(name: str, base: Config) -> None:
    plain = {**flatten(base, cosmetic=False), "train.seed": None}
    if name == "train.seed":
        raise ValueError("train.seed: a search trains at one seed, and confirms with others; leave it out")
    if name not in plain and name in flatten(base):
        raise ValueError(f"{name}: does not change the result, so there is nothing to search")


def _dimensions(
    name: str, entry: Dimension | Given, space: Space, seen: list[str]
) -> Iterator[tuple[dict[str, str], Dimension]]:
    """Each dimension that the field may be drawn from, with the setting of the other field that selects it."""
    if not isinstance(entry, Given):
        yield {}, entry
        return
    other = space.get(entry.field)
    if entry.field in seen and other is not None and not isinstance(other, Choice):
        raise ValueError(
            f"{name}: Given({entry.field!r}, ...): {entry.field} is a range, {type(other).__name__}; a condition is on "
            "one of a few values: make it a Choice, such as Choice(128, 512), or search each part of the range apart"
        )
    if entry.field not in seen or not isinstance(other, Choice):
        raise ValueError(
            f"{name}: Given({entry.field!r}, ...): that must be a field of the space before it, with a Choice"
        )
    for value, dimension in entry.cases.items():
        if as_text(value) not in other.texts:
            raise ValueError(f"{name}: Given({entry.field!r}): {as_text(value)} is not among {', '.join(other.texts)}")
        yield {entry.field: as_text(value)}, dimension


def _check_bounds(name: str, dimension: Dimension) -> None:
    if isinstance(dimension, Choice):
        if len(set(dimension.texts)) < 2:
            raise ValueError(f"{name}: {dimension}: a choice has two options or more, all different")
        return
    kind, low, high = type(dimension).__name__, dimension.low, dimension.high
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
            raise ValueError(
                f"{name}: {kind}({low!r}, {high!r}): bounds are numbers; for a range that depends on another field make "
                "that field a Choice and this one Given(field, {value: range})"
            )
    if low > high:
        raise ValueError(f"{name}: {kind}({low}, {high}): the bounds are reversed; write {kind}({high}, {low})")
    if low == high:
        raise ValueError(f"{name}: {kind}({low}, {high}): nothing lies between; --set {name}={low} instead")
    if isinstance(dimension, Powers) and any(end < 1 or end & (end - 1) for end in (int(low), int(high))):
        raise ValueError(f"{name}: {kind}({low}, {high}): both bounds must be powers of two")
    if isinstance(dimension, Log) and low <= 0:
        raise ValueError(f"{name}: {kind}({low}, {high}): a logarithm needs bounds above 0")
    if isinstance(dimension, Complement) and not 0 <= low < high < 1:
        raise ValueError(f"{name}: {kind}({low}, {high}): the bounds must lie from 0 to below 1")


def _ends(dimension: Dimension) -> list[str]:
    if isinstance(dimension, Choice):
        return list(dimension.texts)
    return [repr(dimension.low), repr(dimension.high)]


def _try(base: Config, texts: dict[str, str]) -> None:
    """Raises ValueError if the base config cannot have these values.

    Fields that fit only in some combinations are no error here: during the search such points are skipped.
    """
    try:
        config = configured(base, texts)
    except ValueError as error:
        raise ValueError(str(error)) from None
    sweep.check_sizes(", ".join(f"{name}={text}" for name, text in texts.items()), config)


def changes(old: SearchRecord, new: SearchRecord) -> list[str]:
    """Why the trials of `old` are no evidence for `new`, a line each; empty where they are."""
    lines = []
    for name in dict.fromkeys([*old["space"], *new["space"]]):
        before, after = old["space"].get(name), new["space"].get(name)
        if before != after:
            was, now_is = (describe(entry) if entry else "not in the space" for entry in (before, after))
            lines.append(f"{name}: {was}; now {now_is}")
    if old["metrics"] != new["metrics"]:
        lines.append(f"metric: {', '.join(old['metrics'])}; now {', '.join(new['metrics'])}")
    if old["limits"] != new["limits"]:
        lines.append(f"limits: {_limits(old['limits'])}; now {_limits(new['limits'])}")
    return lines + _base_changes(old["base_config"], new["base_config"])


def _limits(limits: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in limits.items()) or "none"


def _base_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A named baseline that has changed since, field by field."""
    ours, theirs = _flat(new), _flat(old)
    names = [n for n in dict.fromkeys([*theirs, *ours]) if ours.get(n) != theirs.get(n) and n not in _cosmetic(new)]
    return [f"the base's {name}: {as_text(theirs.get(name))}; now {as_text(ours.get(name))}" for name in names]


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _cosmetic(plain: Mapping[str, Any]) -> set[str]:
    from moco.config.plain import from_plain

    config = from_plain(Config, dict(plain))
    return set(flatten(config)) - set(flatten(config, cosmetic=False))
