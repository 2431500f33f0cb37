"""Runs that count in no table, and why: nothing that was trained is lost from sight.

A run counts if a plan or a search holds its identity. One that none holds was planned once and left out, was planned with a
config that has changed since, was written by another version, or was never planned (`pretrain`).
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.plan.sweep import covers, difference
from experiments.store import schema
from experiments.store.manifests import all_manifests
from experiments.store.schema import Manifest
from moco.config import Config
from moco.config.plain import from_plain, run_id

RUN_ID = re.compile(r"[0-9a-f]{16}")
NEAR = 3  # fields; a run that differs in more is like no arm
ALONE = "trained by itself with pretrain; no sweep plans it"


@dataclass(frozen=True)
class Orphan:
    """A run directory that no plan holds. `label`, `arm`: the sweep and the arm it was planned for, if that is known."""

    run_id: str
    why: str
    label: str | None = None
    arm: str | None = None
    seed: int | None = None

    @property
    def name(self) -> str:
        return self.run_id if self.arm is None else f"{self.arm} seed {self.seed}"


def orphans(root: Path, planned: Sequence[Manifest] | None = None) -> list[Orphan]:
    """All runs of a store that count in no table. `planned`: the plans to hold them against, by default those on disk."""
    manifests = all_manifests(root) if planned is None else planned
    held = {cell["run_id"] for manifest in manifests for cell in manifest["cells"]}
    left = sorted(name for name in _folders(root) if name not in held and (root / name / schema.CONFIG).exists())
    if not left:
        return []
    past = {
        run: (manifest["label"], one.get("arm", "an arm"), int(seed), one.get("why", "left out of the plan"))
        for manifest in reversed(manifests)
        for one in manifest.get("past", [])
        for seed, run in one.get("runs", {}).items()
    }
    return [_orphan(root, name, past.get(name), manifests) for name in left]


def _folders(root: Path) -> Iterator[str]:
    with suppress(FileNotFoundError), os.scandir(root) as entries:
        yield from (entry.name for entry in entries if RUN_ID.fullmatch(entry.name))


def _orphan(root: Path, name: str, past: tuple[str, str, int, str] | None, manifests: Sequence[Manifest]) -> Orphan:
    if past is not None:
        planned_in, arm, seed, why = past
        return Orphan(name, why, planned_in, arm, seed)
    command = _command(root / name)
    sweep = sweep_of(command)
    own = [manifest for manifest in manifests if manifest["name"] == sweep]
    label = own[0]["label"] if own else None
    try:
        plain = json.loads((root / name / schema.CONFIG).read_text(encoding="utf-8"))
        config: Config = from_plain(Config, plain)
    except (OSError, ValueError, TypeError) as error:
        return Orphan(name, f"its config cannot be read: {error}", label)
    now = run_id(config)
    if now != name:
        return Orphan(name, f"its config has the identity {now} in this version", label)
    if "pretrain" in command:
        return Orphan(name, ALONE, seed=config.train.seed)
    if own and "study" in own[0]:
        return Orphan(name, f"a trial of an earlier study of {sweep}", label, seed=config.train.seed)
    near = _nearest(config, own or manifests)
    if near is not None:
        fields = ", ".join(f"{field} {was} -> {now_is}" for field, (was, now_is) in near.outside.items())
        if fields:
            return Orphan(name, f"planned with another config now: {fields}", near.label, near.arm, config.train.seed)
        own_values = ", ".join(f"{field} = {was}" for field, (was, _) in near.inside.items())
        why = f"no arm has {own_values} now" if own_values else f"{near.arm} is planned without this seed"
        return Orphan(name, why, near.label, None, config.train.seed)
    if sweep and not own:
        return Orphan(name, f"no plan of {sweep} is in this store any more", seed=config.train.seed)
    return Orphan(name, "no plan in this store holds a config like it", label, seed=config.train.seed)


def _command(run: Path) -> list[str]:
    """The words of the command that started it; empty if that is not known."""
    try:
        return shlex.split(json.loads((run / schema.ENVIRONMENT).read_text(encoding="utf-8"))["command"])
    except (OSError, ValueError, TypeError, KeyError):
        return []


def sweep_of(command: Iterable[str]) -> str | None:
    """`queue_size` of `python sweeps/queue_size.py --seeds 5`."""
    return next((Path(word).stem for word in command if word.endswith(".py")), None)


@dataclass(frozen=True)
class Near:
    """An arm that is like a run: the fields that differ, (the run's value, the plan's), declared by the sweep and others."""

    label: str
    arm: str
    inside: Mapping[str, tuple[Any, Any]]
    outside: Mapping[str, tuple[Any, Any]]


def _nearest(config: Config, manifests: Sequence[Manifest]) -> Near | None:
    """The arm that differs least in what its sweep varies, then in other fields; None where all differ in many."""
    found: list[Near] = []
    for manifest in manifests:
        for cell in {cell["arm"]: cell for cell in manifest["cells"]}.values():
            try:
                other: Config = from_plain(Config, cell["config"])
            except (ValueError, TypeError):
                continue
            changed = {k: v for k, v in difference(config, other).items() if k != "train.seed"}
            inside = {k: v for k, v in changed.items() if any(covers(group, k) for group in manifest["varies"])}
            if len(changed) <= NEAR:
                outside = {k: v for k, v in changed.items() if k not in inside}
                found.append(Near(manifest["label"], cell["arm"], inside, outside))
    return min(found, key=lambda near: (len(near.inside), len(near.outside)), default=None)
