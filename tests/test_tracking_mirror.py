"""What MLflow is to hold of a run: which records, which statuses, which values. Nothing here needs mlflow."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from experiments import schema
from experiments.tracking_mirror import POINTS_PER_KEY, Mirror, Point, Sent, mirror_of, points
from experiments.tracking_notes import MAX_NOTE, sweep_note
from tests import tracking_runs as runs


def record(step: int, **values: float) -> dict[str, Any]:
    named = {key.replace("__", "/"): value for key, value in values.items()}
    return {"step": step, "epoch": step / 10, "time": 1000.0 + step, "values": named}


def mirror(root: Path, manifest: schema.Manifest, which: int = 0) -> Mirror:
    made = mirror_of(root, manifest, manifest["cells"][which])
    assert made is not None
    return made


def test_only_finite_values_of_documented_metrics_become_points() -> None:
    records = [
        record(1, train__loss=2.0, train__secret=1.0),
        record(2, train__loss=math.nan, train__lr=math.inf),
        record(3, train__loss=-math.inf, train__lr=0.5),
    ]
    assert points(records, 3) == (Point("train/loss", 2.0, 1_001_000, 1), Point("train/lr", 0.5, 1_003_000, 3))


def test_a_key_repeated_at_one_step_replaces_the_earlier_one() -> None:
    records = [record(5, test__linear_top1=90.0), {**record(5, test__linear_top1=91.0), "time": 2000.0}]
    assert points(records, 5) == (Point("test/linear_top1", 91.0, 2_000_000, 5),)


@pytest.mark.parametrize("total", [17, 1_999, 2_000, 2_001, 31_337])
def test_thinning_keeps_few_evenly_with_both_ends_and_never_takes_a_point_back(total: int) -> None:
    records = [record(step, train__loss=float(step)) for step in range(1, total + 1)]
    kept = points(records, total)
    steps = [p.step for p in kept]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (1, total)
    assert len(steps) == total if total <= POINTS_PER_KEY else len(steps) <= POINTS_PER_KEY + 1
    assert max(b - a for a, b in pairwise(steps)) <= 2 * math.ceil(total / POINTS_PER_KEY)
    for cut in random.Random(total).sample(range(total), 5):
        early = points(records[:cut], total)
        assert kept[: len(early)] == early


def test_while_a_run_goes_on_only_records_up_to_its_checkpoint_are_shown(tmp_path: Path) -> None:
    manifest = runs.planned(tmp_path)
    run = runs.start(tmp_path, manifest["cells"][0])
    runs.log(run, 0, range(10, 101, 10))
    with run.locked():
        runs.say(run, schema.RUNNING, step=100)
        assert mirror(tmp_path, manifest).points == ()
        runs.checkpoint(run, 70)
        assert [p.step for p in mirror(tmp_path, manifest).points if p.key == "train/loss"] == [
            10,
            20,
            30,
            40,
            50,
            60,
            70,
        ]


def test_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    manifest = runs.planned(tmp_path)
    run = runs.start(tmp_path, manifest["cells"][0])
    runs.log(run, 0, range(10, 101, 10))
    with run.journal() as journal:
        journal.append({"resumed_at": 70})
    runs.start(tmp_path, manifest["cells"][0], at=500, attempt=2)
    runs.log(run, 0, range(80, 201, 10), late=500)
    runs.end(run, schema.FAILED, 700, reason="the disk is full")
    loss = [p for p in mirror(tmp_path, manifest).points if p.key == "train/loss"]
    late = {step: 500 if step > 70 else 0 for step in range(10, 201, 10)}
    assert loss == [Point("train/loss", runs.loss(s, 0), runs.at_ms(s + late[s]), s) for s in range(10, 201, 10)]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (schema.FAILED, "FAILED"),
        (schema.CANCELLED, "KILLED"),
        (schema.PREEMPTED, "KILLED"),
        (schema.RUNNING, "FAILED"),  # it says so, but nobody holds its lock: it is lost
    ],
)
def test_status_and_end_follow_the_true_state(tmp_path: Path, state: str, status: str) -> None:
    manifest = runs.planned(tmp_path)
    run = runs.start(tmp_path, manifest["cells"][0])
    runs.end(run, state, 40, reason="why", diverged=state == schema.FAILED)
    made = mirror(tmp_path, manifest)
    assert (made.status, made.start_ms, made.end_ms) == (status, runs.at_ms(0), runs.at_ms(40))
    assert made.tags.get("moco.diverged") == ("1" if state == schema.FAILED else None)
    assert "moco.reason" in made.tags


def test_a_killed_attempt_lived_until_its_last_heartbeat(tmp_path: Path) -> None:
    manifest = runs.planned(tmp_path)
    run = runs.start(tmp_path, manifest["cells"][0])
    runs.say(run, schema.RUNNING, step=10)
    run.beat()
    beat = (run.path / schema.HEARTBEAT).stat().st_mtime
    assert mirror(tmp_path, manifest).end_ms == round(beat * 1000)


def test_a_run_that_never_started_is_not_shown(tmp_path: Path) -> None:
    manifest = runs.planned(tmp_path)
    assert mirror_of(tmp_path, manifest, manifest["cells"][0]) is None


def test_params_are_what_defines_the_run(tmp_path: Path) -> None:
    manifest = runs.planned(tmp_path)
    runs.finish(tmp_path, manifest["cells"][1])
    params = mirror(tmp_path, manifest, 1).params
    assert (params["arm"], params["seed"], params["negatives.size"]) == ("K=256", "1", "256")
    assert params["augment.crop_scale"] == "(0.55, 1.0)"
    assert not {"train.seed", "train.device", "data.workers", "data.root"} & set(params)


def test_what_was_sent_must_begin_the_journal() -> None:
    first = points([record(s, train__loss=1.0) for s in range(1, 6)], 5)
    again = points([*(record(s, train__loss=1.0) for s in range(1, 4)), {**record(4, train__loss=1.0), "time": 9e3}], 5)
    sent = Sent.parse(str(Sent.up_to(first, 4)))
    assert sent.begins(first)
    assert not sent.begins(first[:3])
    assert not sent.begins(again)
    assert Sent.parse(None).begins(())


def test_a_note_is_never_too_long_and_keeps_the_command(tmp_path: Path) -> None:
    arms = [f"K={size}" for size in range(1, 801)]
    cell = runs.planned(tmp_path)["cells"][0]
    manifest: schema.Manifest = {
        **runs.planned(tmp_path),
        "arms": arms,
        "baseline": "K=1",
        "cells": [{**cell, "arm": arm} for arm in arms],
    }
    note = sweep_note(manifest, ["K=1"])
    listed = note.count("| K=")
    assert len(note) <= MAX_NOTE
    assert runs.COMMAND in note
    assert "| K=1 (baseline) | 1/1 |" in note
    assert f"and {len(manifest['arms']) - listed} more arms" in note
