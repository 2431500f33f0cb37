"""Writes plans as manifests, and merges plans of the same label. `experiments.store.manifests` reads them.

write_manifest      record a plan, merged with the earlier ones of its label
add_seeds           add seeds to some of its arms
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.plan.sweep import Cell, Plan, make_cell
from experiments.store import schema
from experiments.store.files import Damaged, exclusive, move_aside, now, replace_text, warn_once, with_checksum
from experiments.store.manifests import manifest_path, read_manifest
from experiments.store.schema import Manifest
from moco.config import Config
from moco.config.plain import flatten, from_plain, run_id, to_plain


def write_manifest(root: Path, plan: Plan, command: str) -> Manifest:
    """Record the plan, together with the seeds and arms that earlier plans of the same label had.

    A damaged file is kept beside the new one, and it is said that what it alone had planned is not in it.
    """
    path = manifest_path(root, plan.label)
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.with_name(f".{plan.label}.lock")):
        manifest = merge(describe(plan, command), _earlier(root, plan.label))
        _write(path, manifest)
    return manifest


def _earlier(root: Path, label: str) -> Manifest | None:
    try:
        return read_manifest(root, label)
    except Damaged as error:
        warn_once(
            f"{error}; written anew from this plan: give --seeds and arms that it alone had again, no run is harmed"
        )
        move_aside(manifest_path(root, label))
        return None


def _write(path: Path, manifest: Manifest) -> None:
    """As JSON with one value a line, and one cell a line: half the size and a fifth of the time for ten thousand cells."""
    cells = ",\n".join(f"  {json.dumps(cell, separators=(',', ':'))}" for cell in manifest["cells"])
    text = json.dumps({**manifest, "cells": None}, indent=1)
    replace_text(path, with_checksum(text.replace('"cells": null', f'"cells": [\n{cells}\n ]', 1)), sync=True)


def describe(plan: Plan, command: str) -> Manifest:
    """The manifest of a plan, cells arm by arm."""
    sweep, cells = plan.sweep, {(cell.arm, cell.seed): cell for cell in plan.cells()}
    return Manifest(
        store_version=schema.STORE_VERSION,
        name=sweep.name,
        label=plan.label,
        question=sweep.question,
        claim=sweep.claim_in_words,
        metric=sweep.metric,
        varies=list(sweep.varies),
        axis=sweep.axis,
        axis_values=_axis_values(plan),
        baseline=plan.baseline,
        baseline_config=plan.base_name,
        arms=list(plan.arms),
        seeds=list(plan.seeds),
        cells=[_record(cells[arm, seed]) for arm in plan.arms for seed in plan.seeds],
        published={arm: value for arm, value in sweep.published.items() if arm in plan.arms},
        published_source=sweep.published_source,
        command=command,
        updated=now(),
        shape=list(sweep.shape),
        factors=plan.factors,
    )


def _record(cell: Cell) -> schema.Cell:
    return schema.Cell(arm=cell.arm, seed=cell.seed, run_id=cell.run_id, config=to_plain(cell.config))


def _axis_values(plan: Plan) -> dict[str, float]:
    if plan.sweep.axis is None:
        return {}
    values = {
        arm: flatten(config).get(plan.sweep.axis) for arm, config in plan.arms.items() if arm != schema.RANDOM_INIT
    }
    return {arm: float(v) for arm, v in values.items() if v is not None}


def merge(new: Manifest, old: Manifest | None) -> Manifest:
    """The new plan with the seeds of the old one, and with the arms that only the old one has.

    An arm that both have is taken from the new plan, at every seed. If the baseline arm has changed, the old arms are
    dropped, because they would be compared with a baseline that they were not made from.
    """
    if old is None:
        return new
    arms = {cell["arm"]: cell["config"] for cell in new["cells"]}
    kept: dict[str, Any] = {}
    axis_values, factors = dict(new["axis_values"]), dict(new.get("factors", {}))
    if _baseline_id(new) == _baseline_id(old):
        kept = {cell["arm"]: cell["config"] for cell in old["cells"] if cell["arm"] not in arms and _readable(cell)}
        axis_values |= {arm: old["axis_values"][arm] for arm in kept if arm in old["axis_values"]}
        factors |= {arm: levels for arm, levels in old.get("factors", {}).items() if arm in kept}
    order = [*(a for a in arms if a != schema.RANDOM_INIT), *kept, schema.RANDOM_INIT]
    seeds = _seeds_by_arm(new, old)
    cells = [
        _record(make_cell(arm, seed, from_plain(Config, (arms | kept)[arm]))) for arm in order for seed in seeds(arm)
    ]
    merged = Manifest(
        **{
            **new,
            "arms": order,
            "seeds": sorted({*new["seeds"], *old["seeds"]}),
            "cells": cells,
            "axis_values": axis_values,
            "factors": factors,
        }
    )
    if "max_seeds" in old:
        merged["max_seeds"] = old["max_seeds"]
    return merged


def _seeds_by_arm(new: Manifest, old: Manifest) -> Callable[[str], list[int]]:
    """Arm -> its seeds: those of the new plan, old ones that all arms had, and old ones of this arm alone."""
    had: dict[str, set[int]] = {}
    for cell in old["cells"]:
        had.setdefault(cell["arm"], set()).add(cell["seed"])
    common = {*new["seeds"], *(set.intersection(*had.values()) if had else set())}
    return lambda arm: sorted(common | had.get(arm, set()))


def add_seeds(root: Path, plan: Plan, cells: Sequence[Cell], max_seeds: int) -> Manifest:
    """Add these cells (further seeds of some arms) to the manifest. Raises ValueError if the plan was never written."""
    with exclusive(manifest_path(root, plan.label).with_name(f".{plan.label}.lock")):
        old = read_manifest(root, plan.label)
        if old is None:
            raise ValueError(f"{manifest_path(root, plan.label)}: gone; start the sweep again")
        known = {(cell["arm"], cell["seed"]) for cell in old["cells"]}
        more = [_record(make_cell(c.arm, c.seed, c.config)) for c in cells if (c.arm, c.seed) not in known]
        ordered = sorted([*old["cells"], *more], key=lambda cell: (old["arms"].index(cell["arm"]), cell["seed"]))
        seeds = sorted({cell["seed"] for cell in ordered})
        grown = Manifest(**{**old, "cells": ordered, "seeds": seeds, "max_seeds": max_seeds, "updated": now()})
        _write(manifest_path(root, plan.label), grown)
    return grown


def _readable(cell: schema.Cell) -> bool:
    """Whether this version can read the cell's config. Without that its runs cannot be started."""
    try:
        from_plain(Config, cell["config"])
    except (ValueError, TypeError):
        return False
    return True


def _baseline_id(manifest: Manifest) -> str | None:
    """Identity of the baseline arm without its seed."""
    for cell in manifest["cells"]:
        if cell["arm"] == manifest["baseline"] and _readable(cell):
            config: Config = from_plain(Config, cell["config"])
            return run_id(replace(config, train=replace(config.train, seed=0)))
    return None
