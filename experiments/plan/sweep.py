"""A question as data: the arms of an ablation, with the check that they differ only in the declared fields.

`plan` computes the difference of each arm to the baseline arm and refuses one that `varies` does not cover. That is the
definition of an ablation. Imports no torch.

    Sweep, Plan, Cell       a question; the same over a base config, checked; one planned run
    plan                    expands and checks a sweep
    total_steps             of a run
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from experiments.plan import expectation
from experiments.plan.factors import Levels, check_levels
from experiments.plan.typed import typed
from experiments.store import schema
from moco.config import Config, Head, Momentum
from moco.config.plain import flatten, run_id
from moco.data.catalog import check_labels, resolve, training_images

# Sources of published numbers.
PAPER_V1 = "MoCo v1 (arXiv:1911.05722), linear top-1, ImageNet, ResNet-50, 200 epochs"
PAPER_V2 = "MoCo v2 (arXiv:2003.04297), linear top-1, ImageNet, ResNet-50, 200 epochs"
SUPCON = "SupCon (arXiv:2004.11362), linear top-1, CIFAR-10, ResNet-50, 1,000 epochs"
NOTEBOOK = "the authors' CIFAR-10 notebook (facebookresearch/moco), ResNet-18"

ARM_NAME = re.compile(r"[A-Za-z0-9.=+_-]+")
LARGE_SHARE = 0.1  # of the training images: a longer queue holds many keys of the query's own image


@dataclass(frozen=True)
class Sweep:
    """One question. `arms` gives every arm from the base config; `varies` names the fields or groups they may change.

    `axis` is the numeric field on the x axis of the figure. `published` are the paper's numbers, in percent. `shape` is the
    claim in clauses that results can be tested against (`experiments.plan.expectation`). `factors` reads the levels of an
    arm from its name.
    """

    name: str
    question: str
    arms: Callable[[Config], Mapping[str, Config]]
    varies: tuple[str, ...]
    baseline: str | Callable[[Config], str]  # name of the arm that the others are compared with
    claim: str = ""  # in words, if they say more than `shape`
    base: str = "digits"  # name of a baseline, unless --baseline says otherwise
    seeds: int = 3
    first_seed: int = 0  # above 0 if earlier seeds were used to choose what is tested
    metric: str = schema.LINEAR
    axis: str | None = None
    published: Mapping[str, float] = field(default_factory=dict)
    published_source: str = ""
    shape: tuple[schema.Clause, ...] = ()
    factors: Callable[[Iterable[str]], Levels] | None = None

    def __post_init__(self) -> None:
        if self.metric not in schema.AT_END:
            later = "; `evaluate` adds that one, --readout compares it" if self.metric in schema.ADDED else ""
            choices = ", ".join(schema.AT_END)
            raise ValueError(f"sweep {self.name}: metric = {self.metric}: must be one of {choices}{later}")
        if not self.claim and not self.shape:
            raise ValueError(f"sweep {self.name}: expects nothing; say what with shape= or, in words, with claim=")
        if self.seeds < 1:
            raise ValueError(f"sweep {self.name}: seeds = {self.seeds}: must be at least 1")

    @property
    def claim_in_words(self) -> str:
        return self.claim or expectation.in_words(self.shape, self.axis)

    def baseline_arm(self, base: Config) -> str:
        return self.baseline if isinstance(self.baseline, str) else self.baseline(base)


@dataclass(frozen=True)
class Cell:
    """One planned run."""

    arm: str
    seed: int
    config: Config  # its train.seed is `seed`
    run_id: str

    @property
    def name(self) -> str:
        return f"{self.arm} seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A sweep over a base config, checked. `arms` are in order, the random initialisation last."""

    sweep: Sweep
    label: str
    base_name: str
    arms: Mapping[str, Config]
    seeds: tuple[int, ...]
    baseline: str
    warnings: tuple[str, ...]
    factors: Levels = field(default_factory=dict)

    def cells(self) -> Iterator[Cell]:
        """All planned runs, seed by seed, so that every arm has a first result early."""
        yield from self._cells

    @cached_property
    def _cells(self) -> list[Cell]:
        """Computed once, because run ids are hashes of whole configs."""
        return [make_cell(arm, seed, config) for seed in self.seeds for arm, config in self.arms.items()]

    def choose(self, only: Sequence[str] | None) -> list[Cell]:
        """The cells of the named arms, or all without names. Raises ValueError for an unknown arm."""
        names = [self.arm_named(name) for name in only] if only else list(self.arms)
        return [cell for cell in self.cells() if cell.arm in names]

    def arm_named(self, name: str) -> str:
        """The arm of that name; `random-init` stands for the name with a space. Raises ValueError for an unknown arm."""
        plain = name.replace("-", " ") if name.replace("-", " ") == schema.RANDOM_INIT else name
        if plain not in self.arms:
            near = get_close_matches(name, self.arms, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"--only {name}: no such arm; {meant}The arms are {', '.join(self.arms)}")
        return plain


def make_cell(arm: str, seed: int, config: Config) -> Cell:
    seeded = replace(config, train=replace(config.train, seed=seed))
    return Cell(arm, seed, seeded, run_id(seeded))


def plan(sweep: Sweep, base: Config, *, base_name: str, preset: Config | None = None, seeds: int | None = None) -> Plan:
    """Expand and check a sweep over `base`. `preset`: the named baseline before any `--set`.

    Raises ValueError, in one line, for arms that change undeclared fields or nothing, equal arms, sizes that do not fit.
    """
    count = sweep.seeds if seeds is None else seeds
    if count < 1:
        raise ValueError(f"--seeds {count}: must be at least 1")
    base = _resolved(base)
    arms, baseline = {arm: _resolved_like(base, c) for arm, c in sweep.arms(base).items()}, sweep.baseline_arm(base)
    _check_names(sweep, arms, baseline)
    _check_differences(sweep, arms, baseline)
    factors = sweep.factors(arms) if sweep.factors else {}
    check_levels(sweep.name, factors, arms)
    expectation.check(sweep.name, sweep.shape, sweep.axis, factors, list(arms))
    arms[schema.RANDOM_INIT] = random_init(replace(base, evaluation=arms[baseline].evaluation))
    for arm, config in arms.items():
        check_sizes(arm, config)
    return Plan(
        sweep=sweep,
        label=label_of(sweep.name, base_name, base, preset or base),
        base_name=base_name,
        arms=arms,
        seeds=tuple(range(sweep.first_seed, sweep.first_seed + count)),
        baseline=baseline,
        warnings=tuple(warnings(arms)),
        factors=factors,
    )


def _resolved(config: Config) -> Config:
    check_labels(config)
    return replace(config, data=resolve(config.data))


def _resolved_like(base: Config, config: Config) -> Config:
    """An arm has the data of the resolved base, unless it changes them."""
    if config.data == base.data:
        check_labels(config)
        return config
    if (config.data.name, config.data.root) != (base.data.name, base.data.root):
        config = replace(config, data=replace(config.data, fingerprint=""))
    return _resolved(config)


def random_init(base: Config) -> Config:
    """The arm that every table has: the same encoder and readouts, untrained.

    Fields that only training uses have their defaults, so that all sweeps over one base share these runs. The head is kept
    for readouts of the projection, the augmentation for its pixel statistics.
    """
    return Config(
        data=base.data,
        augment=base.augment,
        encoder=base.encoder,
        head=base.head if isinstance(base.head, Head) else Head(),
        key_encoder=Momentum(shuffle=False),
        train=replace(base.train, epochs=0),
        evaluation=base.evaluation,
    )


def difference(config: Config, baseline: Config) -> dict[str, tuple[Any, Any]]:
    """field -> (value, value in the baseline), for fields that change the result; None if a kind lacks the field."""
    ours, theirs = flatten(config, cosmetic=False), flatten(baseline, cosmetic=False)
    names = dict.fromkeys([*ours, *theirs])
    return {n: (ours.get(n), theirs.get(n)) for n in names if ours.get(n) != theirs.get(n)}


def covers(declared: str, name: str) -> bool:
    """`negatives` covers `negatives.size`, and itself."""
    return name == declared or name.startswith(f"{declared}.")


def _check_names(sweep: Sweep, arms: Mapping[str, Config], baseline: str) -> None:
    for arm in arms:
        if not ARM_NAME.fullmatch(arm) or arm.replace("-", " ") == schema.RANDOM_INIT:
            raise ValueError(
                f"sweep {sweep.name}: arm {arm!r}: name arms as people type them, K=1024: letters, digits and . = + - _ only"
            )
    if baseline not in arms:
        raise ValueError(f"sweep {sweep.name}: the baseline arm {baseline} is not among its arms {', '.join(arms)}")


def _check_differences(sweep: Sweep, arms: Mapping[str, Config], baseline: str) -> None:
    _check_declared(sweep, arms[baseline])
    seen: dict[str, str] = {}
    for arm, config in arms.items():
        changed = difference(config, arms[baseline])
        for name, (ours, theirs) in changed.items():
            if not any(covers(declared, name) for declared in sweep.varies):
                raise ValueError(
                    f"sweep {sweep.name}: arm {arm} changes {name} to {ours} ({baseline} has {theirs}), but varies declares "
                    f"only {', '.join(sweep.varies)}; keep it fixed or add {name!r} to varies"
                )
        if not changed and arm != baseline:
            raise ValueError(
                f"sweep {sweep.name}: arm {arm} changes nothing: its config is that of the baseline arm {baseline}"
            )
        twin = seen.setdefault(run_id(typed(config)), arm)
        if twin != arm:
            raise ValueError(f"sweep {sweep.name}: arms {twin} and {arm} have the same config; drop one")


def _check_declared(sweep: Sweep, config: Config) -> None:
    fields = list(flatten(config))
    for declared in sweep.varies:
        if not any(covers(declared, name) for name in fields):
            near = get_close_matches(declared, fields, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"sweep {sweep.name}: varies names {declared}, which is no field or group{meant}")
        if covers(declared, "train.seed"):
            raise ValueError(
                f"sweep {sweep.name}: varies names {declared}, which holds the seed; declare its other fields singly"
            )


def total_steps(config: Config) -> int:
    """Optimiser steps of the whole run; the last, partial batch of an epoch is dropped."""
    return config.train.epochs * (training_images(config.data) // config.train.batch_size)


def check_sizes(arm: str, config: Config) -> None:
    """Raises ValueError, with the numbers, for a queue or batch that is larger than the data set."""
    images, batch, keys = training_images(config.data), config.train.batch_size, config.negatives.stored
    if batch > images:
        raise ValueError(
            f"{arm}: train.batch_size = {batch} is larger than the {images} training images of {config.data.name}; "
            f"choose at most {images}"
        )
    if config.train.epochs and keys > images:
        raise ValueError(
            f"{arm}: negatives.size = {keys} is larger than the {images} training images of {config.data.name}: every query "
            f"would meet its own image as a negative; choose at most {images}"
        )


def warnings(arms: Mapping[str, Config]) -> list[str]:
    """One line, with the sizes, if queues hold a large share of the data set. There may be too many arms to name."""
    trained = [config for config in arms.values() if config.train.epochs]
    shares = {size: size / training_images(c.data) for c in trained if (size := c.negatives.stored)}
    large = {size: share for size, share in sorted(shares.items()) if share > LARGE_SHARE}
    if not large:
        return []
    figures = ", ".join(f"negatives.size = {size}: {share:.0%}" for size, share in large.items())
    return [
        f"the queue holds more than {LARGE_SHARE:.0%} of the training images ({figures}), "
        "so some negatives are the query's own image; watch queue/own_image"
    ]


def label_of(name: str, base_name: str, base: Config, preset: Config) -> str:
    """`queue_size@digits,train.epochs=5`: sweep, baseline and the fields that `--set` changed. Also used as a file name."""
    changed = difference(base, preset)
    parts = [f"{name}@{base_name}", *(f"{k}={_short(v)}" for k, (v, _) in changed.items() if v is not None)]
    label = ",".join(parts)
    if len(label) <= 120:
        return label
    return f"{parts[0]},{len(changed)}-changes-{run_id(base)[:8]}"


def _short(value: Any) -> str:
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^A-Za-z0-9.+_-]", "-", text) or "none"
