"""The identity of every run that this suite plans, as it was first written. Oracle: tests/fixtures/identities.json.

Stores of others hold runs under these names: an identity that moves makes finished runs look untrained. If one has to move
(the same config means another computation: raise SCHEMA_VERSION), rewrite the file on purpose and say why in CHANGELOG.md:

    python -m tests.experiments.plan.test_golden_identities
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import sweeps
from experiments.plan.baselines import digits
from experiments.plan.registry import baseline_config, baselines
from experiments.plan.sweep import Sweep, plan
from moco.config import SGD, Config
from moco.config.plain import canonical_json, run_id

GOLDEN = Path(__file__).parents[2] / "fixtures" / "identities.json"
REWRITE = "python -m tests.experiments.plan.test_golden_identities"


def with_rates(lr: float = 0.03, weight_decay: float = 1e-3) -> Config:
    return replace(digits(), optim=replace(digits().part(SGD), lr=lr, weight_decay=weight_decay))


# Numbers whose text is easily changed: an identity is a hash of text.
NUMBERS: dict[str, Config] = {
    "lr = 0.1 + 0.2, seventeen digits": with_rates(lr=0.1 + 0.2),
    "lr = 0.3": with_rates(lr=0.3),
    "lr = 2/3, sixteen digits": with_rates(lr=2 / 3),
    "lr = 1, a whole number": with_rates(lr=1),
    "lr = 1.0": with_rates(lr=1.0),
    "lr = 1e-07": with_rates(lr=1e-07),
    "lr = 1e+16": with_rates(lr=1e16),
    "weight_decay = 0.0": with_rates(weight_decay=0.0),
    "weight_decay = -0.0": with_rates(weight_decay=-0.0),
}


def shipped() -> dict[str, Sweep]:
    """Searches plan their runs as they go, and are not among these."""
    found = {m.name: import_module(f"{sweeps.__name__}.{m.name}") for m in pkgutil.iter_modules(sweeps.__path__)}
    return {name: module.SWEEP for name, module in found.items() if hasattr(module, "SWEEP")}


def identities() -> dict[str, Any]:
    """As the file has it."""
    planned = {
        name: plan(sweep, baseline_config(sweep.base), base_name=sweep.base) for name, sweep in shipped().items()
    }
    return {
        "baselines": {name: run_id(make()) for name, make in baselines().items()},
        "numbers": {name: run_id(config) for name, config in NUMBERS.items()},
        "sweeps": {name: {cell.name: cell.run_id for cell in made.cells()} for name, made in planned.items()},
        "digits in full": json.loads(canonical_json(digits())),
    }


def leaves(value: Any, path: str = "") -> dict[str, str]:
    """`sweeps > momentum > m=0 seed 1` -> its text."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, one in inner for k, v in leaves(one, f"{path} > {name}" if path else str(name)).items()}
    return {path: json.dumps(value)}


def moved(golden: Any, now: Any) -> list[str]:
    before, after = leaves(golden), leaves(now)
    names = [n for n in {**before, **after} if before.get(n) != after.get(n)]
    return [f"{n}: was {before.get(n, 'not there')}, is {after.get(n, 'not there')}" for n in names]


def test_no_identity_has_moved() -> None:
    changes = moved(json.loads(GOLDEN.read_text()), identities())
    fields_first = sorted(changes, key=lambda line: not line.startswith("digits in full"))
    assert not changes, "\n".join([f"{len(changes)} differ; if they must: {REWRITE}", *fields_first[:40]])


def other(value: Any) -> Any:
    """Another value of the same type; text for a path that was not set."""
    if isinstance(value, bool):
        return not value
    return "elsewhere" if value is None or isinstance(value, str) else value + 1


def with_other_cosmetics(config: Any) -> Any:
    changed = {f.name: other(getattr(config, f.name)) for f in fields(config) if f.metadata.get("cosmetic")}
    if "speed" in changed:
        changed["speed"] = "graphs"  # what the two older switches mean
    groups = {f.name: with_other_cosmetics(v) for f in fields(config) if is_dataclass(v := getattr(config, f.name))}
    return replace(config, **changed, **groups)


def cosmetic_names(cls: Any, prefix: str = "") -> Iterator[str]:
    for f in fields(cls):
        if f.metadata.get("cosmetic"):
            yield prefix + f.name
        if is_dataclass(f.default):
            yield from cosmetic_names(type(f.default), f"{prefix}{f.name}.")


def test_these_fields_and_no_others_leave_the_identity_alone() -> None:
    """Written out: who makes a field cosmetic lets two different runs share one directory."""
    assert list(cosmetic_names(Config)) == [
        "data.root",
        "data.download",
        "data.workers",
        "data.quick_crops",
        "train.channels_last",
        "train.compile",
        "train.cuda_graphs",
        "train.device",
        "train.log_every",
        "train.checkpoint_minutes",
        "train.speed",
        "train.deterministic",
    ]
    changed = with_other_cosmetics(digits())
    assert changed != digits()
    assert (changed.data.root, changed.train.device, changed.train.log_every) == ("elsewhere", "elsewhere", 11)
    assert run_id(changed) == run_id(digits())


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(identities(), indent=1) + "\n")
    print(f"wrote {GOLDEN.name}: {len(leaves(identities()))} entries")
