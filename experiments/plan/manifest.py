"""Writes plans as manifests, and merges plans of the same label. `experiments.store.manifests` reads them.

    write_manifest      record a plan, merged with the earlier ones of its label
    merged              the same without writing it, for a look ahead
    check_file          two files with one name= do not share a plan
    add_seeds           add seeds to some of its arms
    change              write a plan that `experiments.plan.arms` has changed

An arm is its config: one that comes with another name is the same arm, renamed. What a new plan leaves no place for (an arm
whose config has changed, arms of another baseline) moves to `past` with the reason, and can be brought back.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.plan.sweep import Cell, Plan, difference, make_cell
from experiments.plan.typed import typed
from experiments.store import schema
from experiments.store.files import Damaged, exclusive, move_aside, now, replace_text, warn_once, with_checksum
from experiments.store.manifests import BROUGHT_BACK, LEFT_OUT, RENAMED, manifest_path, read_manifest
from experiments.store.schema import Manifest, PastArm, PlanEvent
from moco.config import Config
from moco.config.plain import flatten, from_plain, run_id, to_plain

SHOWN_FIELDS = 3  # that an arm's config changed in, in a reason


def write_manifest(root: Path, plan: Plan, command: str, file: str | None = None) -> Manifest:
    """Record the plan, together with the seeds and arms that earlier plans of the same label had. `file`: of the sweep.

    A damaged file is kept beside the new one, and it is said that what it alone had planned is not in it.
    """
    with _locked(root, plan.label):
        manifest = _with_joined(root, merged(root, plan, command, file), _earlier(root, plan.label))
        if _is_damaged(root, plan.label):
            move_aside(manifest_path(root, plan.label))
        _write(manifest_path(root, plan.label), manifest)
    return manifest


def merged(root: Path, plan: Plan, command: str, file: str | None = None) -> Manifest:
    """What `write_manifest` would write."""
    new = describe(plan, command)
    if file is not None:
        new["file"] = file
    old = _earlier(root, plan.label)
    return _with_joined(root, merge(new, old), old)


def check_file(root: Path, plan: Plan, file: Path) -> None:
    """Raises ValueError if the plan of that label is of another file, which has the same name= and is still there.

    Not for a file that was moved, or for the same question in another checkout.
    """
    old = _earlier(root, plan.label)
    if old is None:
        return
    script = next((word for word in _words(old["command"]) if word.endswith(".py")), None)
    other = Path(old["file"]) if "file" in old else file.parent / Path(script).name if script else file
    if not other.is_file() or other.samefile(file):
        return
    if other.name == file.name and old["question"] == plan.sweep.question:
        return
    if old["name"] in other.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(
            f"sweep {old['name']}: {other} has this name too, and its plan {plan.label} is in this store; give one of the two "
            "files another name="
        )


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return []


def events_of(manifest: Manifest) -> list[str]:
    """What the last writing of this plan did to its arms, a line each."""
    last = [event for event in manifest.get("history", []) if event.get("time") == manifest["updated"]]
    return [in_words(event) for event in last]


def in_words(event: PlanEvent) -> str:
    arm = event.get("arm", "")
    match event.get("event"):
        case "renamed":
            return f"arm {event.get('was')} is now {arm}: the same config, and its runs count"
        case "brought back":
            return f"arm {arm} is planned again, with its runs"
    return f"arm {arm} left out: {event.get('why', '')}"


def _locked(root: Path, label: str) -> Any:
    path = manifest_path(root, label)
    path.parent.mkdir(parents=True, exist_ok=True)
    return exclusive(path.with_name(f".{label}.lock"))


def change(root: Path, label: str, changed: Callable[[Manifest], Manifest]) -> Manifest:
    """Read a plan, change it, and write it. Raises ValueError if it is not there, or what `changed` raises."""
    with _locked(root, label):
        old = read_manifest(root, label)
        if old is None:
            raise ValueError(f"{manifest_path(root, label)}: gone; start the sweep again")
        manifest = changed(old)
        _write(manifest_path(root, label), manifest)
    return manifest


def _earlier(root: Path, label: str) -> Manifest | None:
    """None, with a warning, for a damaged plan."""
    try:
        return read_manifest(root, label)
    except Damaged as error:
        warn_once(
            f"{error}; written anew from this plan: give --seeds and arms that it alone had again, no run is harmed"
        )
        return None


def _is_damaged(root: Path, label: str) -> bool:
    try:
        read_manifest(root, label)
    except Damaged:
        return True
    return False


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
    return _on_axis(plan.sweep.axis, {a: config for a, config in plan.arms.items() if a != schema.RANDOM_INIT})


def axis_of(axis: str | None, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Arm -> its value on the axis. A config that was written before the field existed has the value it meant then."""
    return _on_axis(axis, {arm: from_plain(Config, plain) for arm, plain in configs.items()})


def _on_axis(axis: str | None, arms: Mapping[str, Config]) -> dict[str, float]:
    values = {arm: flatten(config).get(axis) for arm, config in arms.items()} if axis else {}
    return {arm: float(v) for arm, v in values.items() if v is not None}


def merge(new: Manifest, old: Manifest | None) -> Manifest:
    """The new plan with the seeds of the old one, and with the arms that only the old one has.

    An arm that both have is taken from the new plan, at every seed; its name is that of the new plan. If the baseline arm's
    config has changed, the old arms move to `past`, because they would be compared with a baseline that they were not made
    from; so do arms whose name now stands for another config.
    """
    if old is None:
        return new
    configs = {cell["arm"]: cell["config"] for cell in new["cells"]}
    before = {cell["arm"]: cell["config"] for cell in old["cells"]}
    by_id = {arm_id(config): arm for arm, config in configs.items() if arm != schema.RANDOM_INIT}
    names: dict[str, str] = {}  # arm of the old plan -> its name now, if it is planned
    events: list[PlanEvent] = []
    past = list(old.get("past", []))
    why_all = _other_baseline(new, old)
    for arm, config in before.items():
        known = by_id.get(arm_id(config))
        if arm == schema.RANDOM_INIT:  # it is never another arm under another name
            known = arm if arm_id(config) == arm_id(configs[arm]) else None
        if known is not None:
            names[arm] = known
            if known != arm:
                events.append(PlanEvent(time=new["updated"], event=RENAMED, arm=known, was=arm))
            continue
        why = _unreadable(config) or (_changed(config, configs[arm]) if arm in configs else why_all)
        if why is None:
            names[arm] = arm
            continue
        past = with_past(past, left_out(old, arm, why, new["updated"]))
        events.append(PlanEvent(time=new["updated"], event=LEFT_OUT, arm=arm, why=why))
    kept = {arm: before[arm] for arm in names if arm not in configs and names[arm] == arm}
    again = [one for one in past if arm_id(one.get("config", {})) in by_id]
    events += [PlanEvent(time=new["updated"], event=BROUGHT_BACK, arm=by_id[arm_id(one["config"])]) for one in again]
    order = [*(a for a in configs if a != schema.RANDOM_INIT), *kept, schema.RANDOM_INIT]
    seeds = _seeds_by_arm(new, old, names, again, by_id)
    cells = [
        _record(make_cell(arm, seed, from_plain(Config, (configs | kept)[arm]))) for arm in order for seed in seeds(arm)
    ]
    made = Manifest(
        **{
            **new,
            "arms": order,
            "seeds": sorted({cell["seed"] for cell in cells} | {*new["seeds"], *old["seeds"]}),
            "cells": cells,
            "axis_values": new["axis_values"] | axis_of(new["axis"], kept),
            "factors": new.get("factors", {}) | _of(old.get("factors", {}), kept),
            "published": new["published"] | _of(old["published"], kept),
        }
    )
    if past := [one for one in past if one not in again]:
        made["past"] = past
    if history := [*old.get("history", []), *events]:
        made["history"] = history
    if "max_seeds" in old:
        made["max_seeds"] = old["max_seeds"]
    if "looks" in old:
        made["looks"] = old["looks"]
    if "joined" in old:
        made["joined"] = old["joined"]
    if "file" in old:
        made["file"] = new.get("file", old["file"])
    return made


def _with_joined(root: Path, manifest: Manifest, old: Manifest | None) -> Manifest:
    """The manifest with a record of the seeds that join now, if differences between arms could already be read.

    Seeds that are added once results are known are optional stopping, which a table must allow for. It is told from the
    plans and the results that exist now: two trained arms with a result at one seed are a difference that can be seen, also
    where another sweep made the runs. A plan of an older program, which does not say what joined before, stays without.
    """
    known = [] if old is None else old.get("joined")
    if old is None:
        seen = _seeds_with_differences(root, manifest)
        new = sorted({*manifest["seeds"]} - seen)
    else:
        # By run, since an arm may have got another name, or come back after it was left out.
        had = {cell["run_id"] for cell in old["cells"]}
        had.update(run for one in old.get("past", []) for run in one.get("runs", {}).values())
        trained = [cell for cell in manifest["cells"] if cell["arm"] != schema.RANDOM_INIT]
        grown = {cell["arm"] for cell in trained if cell["run_id"] in had}
        new = sorted({cell["seed"] for cell in trained if cell["arm"] in grown and cell["run_id"] not in had})
        seen = _seeds_with_differences(root, manifest) if new else set()
    joins = [schema.Joined(seeds=new, seen=len(seen), time=now())] if new and seen else []
    if known is None and not joins:
        return manifest
    return Manifest(**{**manifest, "joined": [*(known or []), *joins]})


def _seeds_with_differences(root: Path, manifest: Manifest) -> set[int]:
    """The seeds at which two trained arms have a result."""
    trained = (cell for cell in manifest["cells"] if cell["arm"] != schema.RANDOM_INIT)
    finished = Counter(cell["seed"] for cell in trained if (root / cell["run_id"] / schema.RESULTS).exists())
    return {seed for seed, arms in finished.items() if arms > 1}


def _of(values: Mapping[str, Any], arms: Iterable[str]) -> dict[str, Any]:
    return {arm: values[arm] for arm in arms if arm in values}


def arm_id(plain: Mapping[str, Any]) -> str | None:
    """What tells arms apart: the config without its seed, 1 and 1.0 alike. None if this version cannot read it."""
    try:
        config: Config = from_plain(Config, plain)
    except (ValueError, TypeError):
        return None
    return run_id(typed(replace(config, train=replace(config.train, seed=0))))


def _unreadable(plain: Mapping[str, Any]) -> str | None:
    """Why this version cannot read a config. Without that its runs cannot be started."""
    try:
        from_plain(Config, plain)
    except (ValueError, TypeError) as error:
        return f"its config cannot be read: {error}"
    return None


def _other_baseline(new: Manifest, old: Manifest) -> str | None:
    """Why no arm of the old plan can stay beside those of the new one; None if the baseline arm is the same."""
    ours, theirs = _baseline_config(new), _baseline_config(old)
    if theirs is None or _unreadable(theirs):
        return f"its baseline {old['baseline']} cannot be read by this version"
    if ours is None or arm_id(ours) == arm_id(theirs):
        return None
    return f"the config of the baseline changed: {changes_of(theirs, ours)}"


def _baseline_config(manifest: Manifest) -> Mapping[str, Any] | None:
    return next((cell["config"] for cell in manifest["cells"] if cell["arm"] == manifest["baseline"]), None)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return f"its config changed: {changes_of(old, new)}"


def changes_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """`optim.lr 0.24 -> 0.5`: the fields, seeds apart, in which two readable configs differ."""
    after, before = from_plain(Config, new), from_plain(Config, old)
    fields = {k: v for k, v in difference(after, before).items() if k != "train.seed"}
    shown = [f"{name} {was} -> {now_is}" for name, (now_is, was) in list(fields.items())[:SHOWN_FIELDS]]
    return ", ".join(shown) + (f" and {len(fields) - SHOWN_FIELDS} more" if len(fields) > SHOWN_FIELDS else "")


def left_out(manifest: Manifest, arm: str, why: str, time: str) -> PastArm:
    """An arm of a plan, as `past` keeps it."""
    cells = [cell for cell in manifest["cells"] if cell["arm"] == arm]
    runs = {str(cell["seed"]): cell["run_id"] for cell in cells}
    one = PastArm(arm=arm, why=why, time=time, config=cells[0]["config"], runs=runs)
    if arm in manifest["axis_values"]:
        one["axis_value"] = manifest["axis_values"][arm]
    if arm in manifest.get("factors", {}):
        one["levels"] = manifest["factors"][arm]
    if arm in manifest["published"]:
        one["published"] = manifest["published"][arm]
    return one


def with_past(past: Sequence[PastArm], one: PastArm) -> list[PastArm]:
    """`past` with one more; an earlier entry of the same runs goes, and its other seeds are taken over."""
    same = [p for p in past if set(p.get("runs", {}).values()) & set(one["runs"].values())]
    runs = {seed: run for p in same for seed, run in p.get("runs", {}).items()} | one["runs"]
    return [*(p for p in past if p not in same), PastArm(**{**one, "runs": runs})]


def _seeds_by_arm(
    new: Manifest, old: Manifest, names: Mapping[str, str], again: Sequence[PastArm], by_id: Mapping[str | None, str]
) -> Callable[[str], list[int]]:
    """Arm -> its seeds: those of the new plan, old ones that all arms had, and old ones of this arm alone."""
    had: dict[str, set[int]] = {}
    for cell in old["cells"]:
        had.setdefault(cell["arm"], set()).add(cell["seed"])
    common = {*new["seeds"], *(set.intersection(*had.values()) if had else set())}
    own: dict[str, set[int]] = {}
    for arm, seeds in had.items():
        own.setdefault(names.get(arm, arm), set()).update(seeds)
    for one in again:
        own.setdefault(by_id[arm_id(one["config"])], set()).update(map(int, one["runs"]))
    return lambda arm: sorted(common | own.get(arm, set()))


def check_looks(root: Path, plan: Plan, looks: schema.Looks) -> None:
    """Raises ValueError, in one line, if the looks cannot be planned any more: a difference can be read, or others are."""
    old = _earlier(root, plan.label)
    planned = old.get("looks") if old else None
    if planned == looks:
        return
    if planned is not None:
        raise ValueError(
            f"--looks {looks['kind']} at {_listed(looks)} seeds: this sweep was planned with {planned['kind']} at "
            f"{_listed(planned)}; give that again, with --max-seeds {planned['at'][-1]}"
        )
    seen = _seeds_with_differences(root, old or describe(plan, ""))
    if seen:
        raise ValueError(
            f"--looks {looks['kind']}: looks are planned before any result, and differences can be read at "
            f"{len(seen)} seeds; leave --looks out, --until-significant alone allows for that"
        )
    if old and len(old["seeds"]) > looks["at"][0]:
        raise ValueError(
            f"--looks {looks['kind']}: the first look is at {looks['at'][0]} seeds, and {len(old['seeds'])} are planned "
            "already; leave --looks out"
        )


def _listed(looks: schema.Looks) -> str:
    return ", ".join(map(str, looks["at"]))


def add_seeds(
    root: Path, plan: Plan, cells: Sequence[Cell], max_seeds: int, looks: schema.Looks | None = None
) -> Manifest:
    """Add these cells (further seeds of some arms) to the manifest. Raises ValueError if the plan was never written."""

    def grown(old: Manifest) -> Manifest:
        known = {(cell["arm"], cell["seed"]) for cell in old["cells"]}
        more = [_record(make_cell(c.arm, c.seed, c.config)) for c in cells if (c.arm, c.seed) not in known]
        ordered = sorted([*old["cells"], *more], key=lambda cell: (old["arms"].index(cell["arm"]), cell["seed"]))
        seeds = sorted({cell["seed"] for cell in ordered})
        made = Manifest(**{**old, "cells": ordered, "seeds": seeds, "max_seeds": max_seeds, "updated": now()})
        if looks is not None:
            made["looks"] = looks
        return made

    return change(root, plan.label, grown)
