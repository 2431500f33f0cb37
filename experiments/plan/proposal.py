"""Where a baseline looks at the images first: the config that it proposes for them, in one line, and what it was before.

    @proposes(folder)
    def for_images(look: Look, gpu: bool) -> Config: ...

`start` is what a sweep, a search or `pretrain` begins with; `evaluate` only takes data from a baseline, and looks at nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.plan.overrides import apply
from experiments.plan.registry import Baseline, baseline_config
from experiments.store import schema
from moco.config import Config
from moco.config.plain import flatten
from moco.data.catalog import FOLDER, Look, known_by, known_by_names, look_at

Propose = Callable[[Look, bool], Config]  # the images; whether there is a GPU

_PROPOSALS: dict[str, Propose] = {}


def proposes(baseline: Baseline) -> Callable[[Propose], Propose]:
    """Register what a baseline proposes for images of the user's own."""

    def register(function: Propose) -> Propose:
        _PROPOSALS[baseline.__name__] = function
        return function

    return register


@dataclass(frozen=True)
class Start:
    """`base`: with the user's settings; `preset`: the named baseline as it is without images, from which a label counts
    changes, so that two proposals never share one. `line`: what was proposed, in words; None where nothing was.

    `fixed`: what the same settings gave before the baseline looked at the images.
    """

    base: Config
    preset: Config
    line: str | None = None
    fixed: Config | None = None


def start(name: str, assignments: Sequence[str], *, gpu: bool) -> Start:
    """The named baseline with the user's settings. `gpu`: whether one is there, unless the settings say `train.device=cpu`.

    Raises ValueError for wrong settings, and for a folder that cannot be looked at.
    """
    preset = baseline_config(name)
    data = apply(preset, [a for a in assignments if a.partition("=")[0].strip().startswith("data.")]).data
    if name not in _PROPOSALS or data.name != FOLDER or data.root is None:
        return Start(apply(preset, assignments), preset)
    device = apply(preset, [a for a in assignments if a.partition("=")[0].strip() == "train.device"]).train.device
    gpu, seen = gpu and device != "cpu", look_at(data)
    proposed = _PROPOSALS[name](seen, gpu)
    base, fixed = apply(proposed, assignments), _applied(preset, assignments)
    chosen = {field.partition("=")[0].strip() for field in assignments}
    shown = " ".join(s for s in settings(proposed, preset) if s.partition("=")[0] not in chosen)
    line = (
        f"{name}: proposed for {seen.images:,} training images of {seen.side} pixels on {'a GPU' if gpu else 'a CPU'}: "
        f"{shown or 'nothing that --set does not say'}; --set changes any of it"
    )
    return Start(base, preset, line, fixed)


def _applied(preset: Config, assignments: Sequence[str]) -> Config | None:
    """None for settings that go with the proposal only."""
    try:
        return apply(preset, assignments)
    except ValueError:
        return None


def settings(config: Config, other: Config) -> list[str]:
    """What `--set` must say to make `config` of `other`, if both have groups of the same kinds; the seed aside."""
    ours, theirs = flatten(config), flatten(other)
    return [f"{field}={_typed(value)}" for field, value in ours.items() if value != theirs.get(field)]


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value).lower()


def of_fixed(begun: Start, fingerprint: str, runs_of: Callable[[Config], Iterable[str]], root: Path) -> str | None:
    """What is said of finished runs of the baseline as it was before it looked at the images; None where there are none.

    `fingerprint`: of the folder, as it was resolved. `runs_of`: the run ids that a base config stands for.
    """
    if begun.fixed is None or begun.fixed == begun.base:
        return None
    data = replace(begun.fixed.data, fingerprint=fingerprint)
    try:
        candidates = [data] if known_by(fingerprint) == "names" else [known_by_names(data), data]
        bases = [replace(begun.fixed, data=each) for each in candidates]
        found = [(base, count) for base in bases if (count := _finished(root, runs_of(base)))]
    except ValueError:  # the fixed config does not go with these images or this sweep: it has no runs
        return None
    if not found:
        return None
    base, count = found[0]
    to_set = [each for each in settings(begun.fixed, begun.base) if not each.startswith("data.root=")]
    if base.data.fingerprint != fingerprint:
        to_set.append(f"data.fingerprint={base.data.fingerprint}")
    runs, do, were = (
        ("1 finished run", "does", "it was") if count == 1 else (f"{count} finished runs", "do", "they were")
    )
    return (
        f"{runs} of this baseline as it was before it looked at the images {do} not count here; "
        f"--set {' '.join(to_set)} is what {were} made with"
    )


def _finished(root: Path, run_ids: Iterable[str]) -> int:
    return sum((root / name / schema.RESULTS).exists() for name in run_ids)
