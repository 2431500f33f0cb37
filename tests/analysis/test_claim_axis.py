"""A claim speaks of the ends of its axis, wherever its arms stand in the manifest. Oracle: the ends, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from analysis.claims import evaluate_claim
from experiments.plan import expectation as shape
from experiments.plan.baselines import digits
from experiments.plan.manifest import write_manifest
from experiments.plan.sweep import Plan, Sweep, plan
from experiments.store.schema import Manifest
from moco.config import Queue

SEEDS = 5


def queues(*sizes: int) -> Plan:
    """K = 256 is the arm that every plan has, and what the others are compared with."""
    sweep = Sweep(
        name="s",
        question="?",
        claim="rises, then saturates",
        varies=("negatives.size",),
        axis="negatives.size",
        baseline="K=256",
        shape=(shape.rises(), shape.saturates(within=0.5), shape.best_inside()),
        seeds=SEEDS,
        arms=lambda base: {f"K={k}": replace(base, negatives=Queue(k)) for k in sizes},
    )
    return plan(sweep, digits(), base_name="digits")


def grown(root: Path) -> Manifest:
    """Planned with the ends of the axis first, and again with other arms: the older ones now stand behind the newer."""
    write_manifest(root, queues(64, 256, 1024), "first")
    return write_manifest(root, queues(512, 256, 128), "second")


def test_older_arms_stand_behind_newer_ones_in_the_manifest_with_their_places_on_the_axis(tmp_path: Path) -> None:
    manifest = grown(tmp_path)
    assert manifest["arms"] == ["K=512", "K=256", "K=128", "K=64", "K=1024", "random init"]
    assert list(manifest["axis_values"].items()) == [
        ("K=512", 512.0),
        ("K=256", 256.0),
        ("K=128", 128.0),
        ("K=64", 64.0),
        ("K=1024", 1024.0),
    ]


def test_a_claim_compares_the_ends_of_the_axis_and_not_of_the_manifest(tmp_path: Path) -> None:
    """The means rise from 90 at K = 64 to 94 at K = 1,024; seeds differ by the same in all arms but for a little."""
    means = {"K=64": 90.0, "K=128": 91.0, "K=256": 92.0, "K=512": 93.9, "K=1024": 94.0}
    values = {
        arm: {seed: mean + seed / 10 + (seed + place) % 3 / 100 for seed in range(SEEDS)}
        for place, (arm, mean) in enumerate(means.items())
    }
    claim = evaluate_claim(grown(tmp_path), values)
    assert claim is not None
    assert [(part.says, part.verdict) for part in claim.parts] == [
        ("rises: K=1024 is above K=64, and no arm is lower than an earlier one by over 25 % of that", "holds"),
        (
            "saturates: from K=512 to K=1024 it changes less than 18.8 % of the whole rise and less than 0.5 points",
            "holds",
        ),
        ("the best arm is inside, neither K=64 nor K=1024", "does not hold"),
    ]
