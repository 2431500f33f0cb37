"""Changes the arms of a plan by hand: drop, rename, bring back. Runs stay where they are; only the plan changes.

The sweep's file stays the plan: its next start brings back an arm that it names, and gives arms the names it has for them.
"""

from __future__ import annotations

from pathlib import Path

from experiments.plan import expectation
from experiments.plan.manifest import arm_id, axis_of, change, left_out, with_past
from experiments.plan.sweep import ARM_NAME, make_cell
from experiments.store import schema
from experiments.store.files import now
from experiments.store.manifests import BROUGHT_BACK, BY_HAND, LEFT_OUT, RENAMED
from experiments.store.schema import Manifest, PlanEvent
from moco.config import Config
from moco.config.plain import from_plain, to_plain


def drop(root: Path, label: str, arm: str) -> Manifest:
    """Take an arm out of the table. Raises ValueError for the baseline, the untrained encoder and an unknown arm."""

    def changed(old: Manifest) -> Manifest:
        _known(old, arm)
        if arm == old["baseline"]:
            raise ValueError(f"--drop {arm}: all arms are compared with it; name another baseline in the sweep's file")
        if arm == schema.RANDOM_INIT:
            raise ValueError(f"--drop {arm}: every table has the untrained encoder")
        time = now()
        event = PlanEvent(time=time, event=LEFT_OUT, arm=arm, why=BY_HAND)
        return Manifest(
            **{
                **old,
                "arms": [a for a in old["arms"] if a != arm],
                "cells": [cell for cell in old["cells"] if cell["arm"] != arm],
                "axis_values": {a: v for a, v in old["axis_values"].items() if a != arm},
                "published": {a: v for a, v in old["published"].items() if a != arm},
                "factors": {a: v for a, v in old.get("factors", {}).items() if a != arm},
                "past": with_past(old.get("past", []), left_out(old, arm, BY_HAND, time)),
                "history": [*old.get("history", []), event],
                "updated": time,
            }
        )

    return change(root, label, changed)


def rename(root: Path, label: str, arm: str, to: str) -> Manifest:
    """Give an arm another name. Raises ValueError for an unknown arm, and for a name that is taken or cannot be typed."""

    def changed(old: Manifest) -> Manifest:
        _known(old, arm)
        if arm == schema.RANDOM_INIT:
            raise ValueError(f"--rename {arm}={to}: every table has this arm, under this name")
        if not ARM_NAME.fullmatch(to):
            raise ValueError(f"--rename {arm}={to}: a name has letters, digits and . = + - _ only")
        if to in old["arms"]:
            raise ValueError(f"--rename {arm}={to}: {to} is another arm; the arms are {', '.join(old['arms'])}")

        def name(one: str) -> str:
            return to if one == arm else one

        time = now()
        clauses = []
        for clause in old.get("shape", []):
            one = schema.Clause(**clause)
            if "arm" in one:
                one["arm"] = name(one["arm"])
            if "arms" in one:
                one["arms"] = list(map(name, one["arms"]))
            clauses.append(one)
        in_words = expectation.in_words
        own_words = old["claim"] != in_words(old.get("shape", []), old["axis"])
        return Manifest(
            **{
                **old,
                "claim": old["claim"] if own_words else in_words(clauses, old["axis"]),
                "arms": list(map(name, old["arms"])),
                "baseline": name(old["baseline"]),
                "cells": [schema.Cell(**{**cell, "arm": name(cell["arm"])}) for cell in old["cells"]],
                "axis_values": {name(a): v for a, v in old["axis_values"].items()},
                "published": {name(a): v for a, v in old["published"].items()},
                "factors": {name(a): v for a, v in old.get("factors", {}).items()},
                "shape": clauses,
                "history": [*old.get("history", []), PlanEvent(time=time, event=RENAMED, arm=to, was=arm)],
                "updated": time,
            }
        )

    return change(root, label, changed)


def restore(root: Path, label: str, arm: str) -> Manifest:
    """Plan an arm of the past again, at the seeds that it had. Raises ValueError if it cannot stand beside the others."""

    def changed(old: Manifest) -> Manifest:
        past = [one for one in old.get("past", []) if one["arm"] == arm]
        if not past:
            there = ", ".join(dict.fromkeys(one["arm"] for one in old.get("past", []))) or "none"
            raise ValueError(f"--restore {arm}: no such arm in the past of {label}; there are {there}")
        one = past[-1]
        if arm in old["arms"]:
            raise ValueError(f"--restore {arm}: another config has that name now; first --rename {arm}=OTHER")
        if one["why"] != BY_HAND:
            raise ValueError(
                f"--restore {arm}: {one['why']}; give the sweep's file an arm with that config, or go back to that version"
            )
        config: Config = from_plain(Config, one["config"])
        taken = next((c["arm"] for c in old["cells"] if arm_id(c["config"]) == arm_id(one["config"])), None)
        if taken is not None:
            raise ValueError(f"--restore {arm}: its config is planned as {taken}")
        time, seeds = now(), sorted(map(int, one["runs"]))
        made = [make_cell(arm, seed, config) for seed in seeds]
        cells = [schema.Cell(arm=arm, seed=c.seed, run_id=c.run_id, config=to_plain(c.config)) for c in made]
        order = [a for a in old["arms"] if a != schema.RANDOM_INIT]
        untrained = [a for a in old["arms"] if a == schema.RANDOM_INIT]
        return Manifest(
            **{
                **old,
                "arms": [*order, arm, *untrained],
                "seeds": sorted({*old["seeds"], *seeds}),
                "cells": [
                    *(c for c in old["cells"] if c["arm"] != schema.RANDOM_INIT),
                    *cells,
                    *(c for c in old["cells"] if c["arm"] == schema.RANDOM_INIT),
                ],
                "axis_values": old["axis_values"] | axis_of(old["axis"], {arm: one["config"]}),
                "published": old["published"] | ({arm: one["published"]} if "published" in one else {}),
                "factors": old.get("factors", {}) | ({arm: one["levels"]} if "levels" in one else {}),
                "past": [p for p in old.get("past", []) if p is not one],
                "history": [*old.get("history", []), PlanEvent(time=time, event=BROUGHT_BACK, arm=arm)],
                "updated": time,
            }
        )

    return change(root, label, changed)


def _known(manifest: Manifest, arm: str) -> None:
    if arm not in manifest["arms"]:
        past = ", ".join(dict.fromkeys(one["arm"] for one in manifest.get("past", [])))
        raise ValueError(
            f"{arm}: no such arm in {manifest['label']}; its arms are {', '.join(manifest['arms'])}"
            + (f"; in its past: {past}" if past else "")
        )
