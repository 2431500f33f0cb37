"""Run directories written by hand, so that the tests of `analysis` know every number in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.store import schema
from experiments.store.schema import Manifest

START = {"event": "start", "commit": "0123456789ab", "uncommitted": None, "hardware": "test CPU, 2 threads"}


def manifest(arms: dict[str, list[int]], **changes: Any) -> Manifest:
    """A queue-size sweep on the digits; `arms` gives each arm's seeds, the first is the baseline."""
    made: Manifest = {
        "store_version": schema.STORE_VERSION,
        "name": "queue_size",
        "label": "queue_size@digits",
        "question": "How does linear top-1 grow with the number of negatives K?",
        "claim": "rises",
        "metric": schema.LINEAR,
        "varies": ["negatives.size"],
        "axis": "negatives.size",
        "axis_values": {arm: float(arm[2:]) for arm in arms if arm.startswith("K=")},
        "baseline": next(iter(arms)),
        "baseline_config": "digits",
        "arms": list(arms),
        "seeds": sorted({seed for seeds in arms.values() for seed in seeds}),
        "cells": [
            {"arm": arm, "seed": seed, "run_id": run_id(arm, seed), "config": {"negatives": {"size": 1}}}
            for arm, seeds in arms.items()
            for seed in seeds
        ],
        "published": {},
        "published_source": "",
        "command": "python sweeps/queue_size.py --seeds 5",
        "updated": "2026-11-01T12:00:00.000+00:00",
    }
    return {**made, **changes}  # type: ignore[typeddict-item]


def run_id(arm: str, seed: int) -> str:
    return f"{arm.replace(' ', '-').replace('=', '')}-{seed}"


def write_manifest(root: Path, planned: Manifest) -> Path:
    path = root / schema.SWEEPS_FOLDER / f"{planned['label']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(planned))
    return path


def write_run(
    root: Path,
    arm: str,
    seed: int,
    test: dict[str, float] | None = None,
    seconds: float = 60.0,
    attempts: list[dict[str, Any]] | None = None,
    **status: Any,
) -> Path:
    """A finished run if it has readouts, else what `status` says."""
    path = root / run_id(arm, seed)
    path.mkdir(parents=True)
    (path / schema.CONFIG).write_text("{}")
    status = {"state": schema.DONE, "host": "elsewhere", "pid": 1, "step": 100, "total_steps": 100, **status}
    (path / schema.STATUS).write_text(json.dumps(status))
    (path / schema.ATTEMPTS).write_text("".join(json.dumps(a) + "\n" for a in attempts or [START]))
    (path / schema.HEARTBEAT).touch()
    if test is not None:
        (path / schema.RESULTS).write_text(json.dumps({"test": test, "validation": {}, "seconds": seconds}))
    return path


def write_journal(path: Path, curve: list[tuple[int, float, dict[str, float]]]) -> None:
    lines = [json.dumps({"step": s, "epoch": e, "time": 1793534400.0, "values": v}) for s, e, v in curve]
    (path / schema.JOURNAL).write_text("".join(line + "\n" for line in lines))


def readouts(linear: float, knn20: float, knn200: float, few_label: float) -> dict[str, float]:
    return dict(zip(schema.READOUTS[:4], (linear, knn20, knn200, few_label), strict=True))


def unfinished_store(root: Path) -> Manifest:
    """Two whole arms, one arm with a run of each unfinished kind, one arm that has not begun, the untrained encoder."""
    seeds = list(range(5))
    planned = manifest(
        {"K=1024": seeds, "K=512": seeds, "K=256": seeds, "K=128": seeds, schema.RANDOM_INIT: seeds},
        published={"K=1024": 57.5, "K=512": 56.4},
        published_source="He et al. 2020 (arXiv:1911.05722), Fig. 3, ImageNet, ResNet-50",
    )
    write_manifest(root, planned)
    changed = {**START, "commit": "fedcba987654", "uncommitted": "77aa88bb", "hardware": "another GPU"}
    for seed, (base, other) in enumerate(zip(BASELINE_LINEAR, OTHER_LINEAR, strict=True)):
        write_run(root, "K=1024", seed, readouts(base, 95.0, 92.0 + seed, 85.0), seconds=60.0 + seed)
        write_run(
            root,
            "K=512",
            seed,
            readouts(other, 96.0 + seed / 10, 93.0, 86.0),
            attempts=[changed if seed == 4 else START],
        )
        write_run(root, schema.RANDOM_INIT, seed, readouts(86.0 + seed / 10, 84.0, 81.0, 75.0), seconds=0.8)
    write_run(root, "K=256", 0, {schema.LINEAR: 97.0, schema.KNN20: 94.5})
    write_run(root, "K=256", 1, state=schema.FAILED, reason="OutOfMemoryError: 2 GiB & <no> more | than_that")
    write_run(root, "K=256", 2, state=schema.RUNNING, step=40)
    write_run(root, "K=256", 3, state=schema.FAILED, diverged=True, reason="the loss is not finite at step 12", step=12)
    return planned


BASELINE_LINEAR = (97.2, 97.9, 97.5, 98.1, 97.8)
OTHER_LINEAR = (98.3, 98.8, 98.7, 99.0, 99.1)
