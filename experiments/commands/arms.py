"""`arms`: the arms of a sweep with their history, and the runs that count in no table; drops, renames and brings back arms."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.launch.grid import counts, paragraph
from experiments.plan import arms as plans
from experiments.plan.manifest import events_of, in_words
from experiments.plan.orphans import ALONE, Orphan, orphans
from experiments.plan.parser import AddVerb
from experiments.state.find import sweeps_named
from experiments.state.state import states_of
from experiments.store import schema
from experiments.store.manifests import all_manifests
from experiments.store.named import names, nearest
from experiments.store.run import runs_root
from experiments.store.schema import Manifest

LISTED = 10  # runs in words; the rest is counted
DESCRIPTION = """Lists the arms of a sweep, the arms it once had, and finished runs that count in no table, with the reason;
without a sweep, those of the whole store. The sweep's file stays the plan: its next start gives arms the names it has."""


def register(add: AddVerb) -> None:
    verb = add(
        "arms",
        help="arms of a sweep and their history: drop, rename, bring back; runs that count in no table",
        allow_abbrev=False,
        description=DESCRIPTION,
    )
    verb.add_argument("target", nargs="?", metavar="SWEEP", help="name or label; without: runs that count in no table")
    one = verb.add_mutually_exclusive_group()
    one.add_argument("--drop", metavar="ARM", help="take it out of the table; its runs stay")
    one.add_argument("--rename", metavar="ARM=NAME", help="another name for the same config")
    one.add_argument("--restore", metavar="ARM", help="bring back an arm that was dropped")
    verb.set_defaults(run=arms)


def arms(options: argparse.Namespace, command: str) -> int:
    root = runs_root()
    if options.target is None:
        if options.drop or options.rename or options.restore:
            raise ValueError("arms: name the sweep whose arm is meant: python -m experiments arms SWEEP --drop ARM")
        left = orphans(root)
        print("\n".join(reasons(root, left, most=None) or [f"every run in {root} counts in a table"]))
        return 0
    manifest = _sweep(root, options.target)
    if options.drop is None and options.rename is None and options.restore is None:
        print("\n".join(_listing(root, manifest)))
        return 0
    label = manifest["label"]
    if options.drop is not None:
        changed = plans.drop(root, label, _typed(manifest, options.drop))
    elif options.restore is not None:
        changed = plans.restore(root, label, options.restore)
    else:
        changed = plans.rename(root, label, *_old_and_new(manifest, options.rename))
    print("\n".join([*events_of(changed), f"table: python -m analysis table {label}"]))
    return 0


def _sweep(root: Path, target: str) -> Manifest:
    """Raises ValueError for an unknown sweep, and for a search, whose trials are no arms of a plan."""
    found = sweeps_named(root, target)
    if not found:
        known = names(all_manifests(root))
        near = nearest(target, known)
        there = f"did you mean {near}?" if near else f"there are {', '.join(known) or 'none'}"
        raise ValueError(f"{target}: no such sweep in {root}; {there}")
    if "study" in found[0]:
        raise ValueError(f"{target}: a search; its trials stay as they were drawn")
    if len(found) > 1:
        print(f"{target}: {found[0]['label']}; also there: {', '.join(m['label'] for m in found[1:])}")
    return found[0]


def _typed(manifest: Manifest, arm: str) -> str:
    """`random-init` stands for the name with a space."""
    return next((known for known in manifest["arms"] if arm in (known, known.replace(" ", "-"))), arm)


def _old_and_new(manifest: Manifest, text: str) -> tuple[str, str]:
    """`K=64=small`: names of arms may hold `=`, so the old name is one that the sweep has.

    Raises ValueError where none of them begins the text.
    """
    fitting = [arm for arm in manifest["arms"] if text.startswith(f"{arm}=")]
    if not fitting:
        raise ValueError(
            f"--rename {text}: write ARM=NAME with an arm of {manifest['label']}; they are {', '.join(manifest['arms'])}"
        )
    arm = max(fitting, key=len)
    return arm, text.removeprefix(f"{arm}=")


def _listing(root: Path, manifest: Manifest) -> Iterator[str]:
    states = states_of(root, [cell["run_id"] for cell in manifest["cells"]])
    yield manifest["label"]
    width = max(map(len, manifest["arms"]))
    for arm in manifest["arms"]:
        cells = [cell for cell in manifest["cells"] if cell["arm"] == arm]
        mark = "  (baseline)" if arm == manifest["baseline"] else ""
        yield f"  {arm:<{width}}  {counts(states[cell['run_id']] for cell in cells)}{mark}"
    if history := manifest.get("history"):
        yield "history:"
        yield from (line for event in history for line in paragraph(f"{event['time'][:16]} {in_words(event)}", "  "))
    if past := manifest.get("past"):
        yield "arms of the past:"
        for one in past:
            runs = Counter(state.state for state in states_of(root, one["runs"].values()).values())
            yield from paragraph(f"{one['arm']}  {runs[schema.DONE]} done  {one['why']}", "  ")
    yield from reasons(root, [one for one in orphans(root) if one.label == manifest["label"]])


def reasons(root: Path, left: Sequence[Orphan], most: int | None = LISTED) -> list[str]:
    """How many runs count in no table, and why: runs with one reason in one line. Empty without any."""
    if not left:
        return []
    states = states_of(root, [one.run_id for one in left])
    head = f"{len(left)} run{'s' if len(left) > 1 else ''} in no table ({counts(states.values())}):"
    groups: dict[tuple[str | None, str | None, str], list[Orphan]] = {}
    for one in left:
        groups.setdefault((one.label, one.arm, one.why), []).append(one)
    lines: list[str] = []
    shown = list(groups.items())[:most]
    for (label, arm, why), runs in shown:
        seeds = ", ".join(str(one.seed) for one in runs if one.seed is not None)
        who = " ".join(filter(None, [arm, f"seed {seeds}" if arm else f"{len(runs)} runs" if len(runs) > 1 else ""]))
        where = f" ({', '.join(one.run_id for one in runs[:3])}{', ...' if len(runs) > 3 else ''})"
        lines += paragraph("  ".join(filter(None, [label, who, why])) + where, "  ")
    if len(groups) > len(shown):
        lines.append(f"  and {len(groups) - len(shown)} more reasons: python -m experiments arms")
    return [head, *lines]


def in_short(left: Sequence[Orphan]) -> list[str]:
    """For `status` of all sweeps: one line, or none where every run counts or was trained by itself."""
    lost = [one for one in left if one.why != ALONE]
    if not lost:
        return []
    return [f"{len(lost)} run{'s' if len(lost) > 1 else ''} in no table; why: python -m experiments arms"]
