"""What MLflow is to hold of a run: which records, which statuses, which values. Nothing here needs mlflow."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from experiments.store import schema
from experiments.tracking.mirror import POINTS_PER_KEY, Mirror, MirrorCache, Point, Sent, curves_csv, mirror_of, points
from experiments.tracking.notes import MAX_NOTE, Row, command_for, rows, sweep_note
from experiments.tracking.sync import pause
from tests.support import tracking_runs as runs


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
    manifest: schema.Manifest = {**runs.planned(tmp_path), "arms": arms, "baseline": "K=1"}
    note = sweep_note(manifest, [Row(arm, 1, {0: 90.0}, 0, 0) for arm in arms], [])
    listed = note.count("| K=")
    assert len(note) <= MAX_NOTE
    assert runs.COMMAND in note
    assert "| K=1 (baseline) | 1/1 | 90.00 |  |" in note
    assert f"and {len(manifest['arms']) - listed} more arms" in note


def test_a_note_has_the_sweeps_table_with_what_is_missing_failed_and_diverged(tmp_path: Path) -> None:
    manifest = runs.planned(tmp_path, sizes=(256, 512, 1024), seeds=3)
    mirrors = {}
    for cell in manifest["cells"]:
        match cell["arm"], cell["seed"]:
            case ("K=512", 2) | ("K=1024", 0):
                runs.end(runs.start(tmp_path, cell), schema.FAILED, 10, reason="!", diverged=cell["arm"] == "K=1024")
            case ("K=1024", 1) | ("random init", _):
                continue
            case arm, seed:
                runs.finish(tmp_path, cell, top1={"K=256": 90.0, "K=512": 91.5, "K=1024": 80.0}[arm] + seed)
        mirrors[cell["run_id"], cell["arm"]] = mirror(tmp_path, manifest, manifest["cells"].index(cell))
    table = [line for line in sweep_note(manifest, rows(manifest, mirrors), ["c0ffee"]).splitlines() if line[:1] == "|"]
    assert table == [
        "| arm | runs done | linear_top1, % | against K=256, same seeds |",
        "|---|---|---|---|",
        "| K=256 (baseline) | 3/3 | 91.00 ± 1.00 |  |",
        "| K=512 | 2/3, 1 failed | 92.00 ± 0.71 | +1.50 (n=2) |",
        "| K=1024 | 1/3, 1 diverged | 82.00 | -10.00 (n=1) |",
        "| random init | 0/3 | - |  |",
    ]


def test_the_command_of_an_arm_leaves_out_what_is_about_one_launch() -> None:
    typed = "python sweeps/queue_size.py --only K=256 K=512 --set train.epochs=5 --force --seeds 2 --only=K=1 --yes"
    kept = "python sweeps/queue_size.py --set train.epochs=5 --seeds 2"
    assert command_for(typed) == kept
    assert command_for(typed, "random init") == f"{kept} --only 'random init'"


def test_curves_have_every_record_and_every_key_and_are_thinned_only_to_fit() -> None:
    records = [record(step, train__loss=step / 3, **({"test__x": 1.0} if step == 9 else {})) for step in range(1, 10)]
    records[4]["system"] = {"system/cpu_percent": 99.0}
    whole = curves_csv(records, 10_000)
    assert [line.split(",") for line in whole.splitlines()] == [
        ["step", "epoch", "time", "train/loss", "system/cpu_percent", "test/x"],
        *(
            [str(s), str(s / 10), str(1000.0 + s), str(s / 3), "99.0" if s == 5 else "", "1.0" if s == 9 else ""]
            for s in range(1, 10)
        ),
    ]
    short = curves_csv(records, len(whole) - 1)
    assert len(short) < len(whole)
    assert [line.split(",")[0] for line in short.splitlines()[1:]] == ["1", "3", "5", "7", "9"]


def test_what_the_machine_did_lies_on_the_runs_own_steps() -> None:
    records: list[dict[str, Any]] = [record(7, train__loss=1.0), record(8, train__loss=1.0)]
    records[1]["system"] = {"system/memory_mb": 512.0, "system/unknown": 1.0}
    assert points(records, 9)[2:] == (Point("system/memory_mb", 512.0, 1_008_000, 8),)


def test_a_directory_is_read_again_only_when_what_is_shown_can_have_changed(tmp_path: Path) -> None:
    manifest, cache = runs.planned(tmp_path), MirrorCache()
    cell = manifest["cells"][0]
    run = runs.start(tmp_path, cell)
    with run.locked():
        runs.say(run, schema.RUNNING, step=10)
        first = cache.get(tmp_path, manifest, cell)
        runs.log(run, 0, range(10, 101, 10))  # no checkpoint yet: nothing of it counts
        assert cache.get(tmp_path, manifest, cell) is first
        runs.checkpoint(run, 70)
        second = cache.get(tmp_path, manifest, cell)
        assert second.mirror == mirror_of(tmp_path, manifest, cell) != first.mirror
    runs.finish_started(run, cell)
    ended = cache.get(tmp_path, manifest, cell)
    assert (ended.state, ended.signature == second.signature) == (schema.DONE, False)
    assert cache.get(tmp_path, manifest, cell) is ended


def test_who_follows_looks_less_often_when_a_look_is_dear() -> None:
    """At most two seconds of a processor in a hundred, but a look every two minutes."""
    assert [pause(cost) for cost in (0.0, 0.3, 0.5, 1.0, 60.0, -math.inf)] == [15.0, 15.0, 25.0, 50.0, 120.0, 15.0]
