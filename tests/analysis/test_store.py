from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from analysis.frame import cell_types, curves, find_sweep, load_sweep, read_run
from experiments.store import schema
from tests.support.analysis_runs import (
    manifest,
    readouts,
    run_id,
    unfinished_store,
    write_journal,
    write_manifest,
    write_run,
)


def by_cell(root: Path) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["arm"], row["seed"]): row for row in load_sweep(root, "queue_size").cells.iter_rows(named=True)}


def test_every_planned_cell_is_a_row_in_the_state_it_is_in(tmp_path: Path) -> None:
    planned = unfinished_store(tmp_path)
    read, cells = load_sweep(tmp_path, "queue_size")
    assert read == planned
    assert cells.schema == cell_types()
    assert cells.select("arm", "seed").rows() == [(c["arm"], c["seed"]) for c in planned["cells"]]
    rows = by_cell(tmp_path)
    assert [rows["K=256", s]["state"] for s in range(5)] == ["done", "failed", "running", "failed", "missing"]
    assert [rows["K=256", s]["diverged"] for s in range(5)] == [False, False, False, True, False]
    assert {rows["K=128", s]["state"] for s in range(5)} == {"missing"}
    assert rows["K=256", 0]["few_label_top1"] is None  # a readout that was not made is not 0
    assert rows["K=512", 4]["commits"] == ["fedcba9+77aa88b"]
    assert rows["K=512", 4]["hardware"] == ["another GPU"]


def test_a_run_that_is_not_done_shows_no_readouts(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0]}))
    path = write_run(tmp_path, "K=64", 0, readouts(1, 2, 3, 4), state=schema.FAILED, reason="killed while testing")
    run = read_run(path)
    assert (run.state, dict(run.readouts), run.seconds) == (schema.FAILED, {}, None)


def test_results_make_a_run_done_whatever_its_status_says(tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path, "K=64", 0, readouts(1, 2, 3, 4), state=schema.RUNNING)).state == schema.DONE
    assert read_run(write_run(tmp_path, "K=64", 1, state=schema.DONE)).state == schema.LOST  # results are gone


def test_running_elsewhere_is_lost_when_the_heartbeat_stops_and_nobody_holds_the_lock(tmp_path: Path) -> None:
    path = write_run(tmp_path, "K=64", 0, state=schema.RUNNING)
    assert read_run(path).state == schema.RUNNING
    old = time.time() - schema.STALE_SECONDS - 60
    os.utime(path / schema.HEARTBEAT, (old, old))
    lost = read_run(path)
    assert (lost.state, lost.reason) == (schema.LOST, "no heartbeat from elsewhere for 240 s")
    with (path / schema.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_run(path).state == schema.RUNNING
    assert read_run(path).state == schema.LOST


def test_running_here_without_a_lock_is_lost_at_once(tmp_path: Path) -> None:
    assert (
        read_run(write_run(tmp_path, "K=64", 0, state=schema.RUNNING, host=socket.gethostname())).state == schema.LOST
    )


def test_a_queue_dies_with_its_launcher(tmp_path: Path) -> None:
    here: dict[str, Any] = {"state": schema.QUEUED, "host": socket.gethostname()}
    launcher = subprocess.Popen(["true"])
    launcher.wait()
    gone = launcher.pid
    assert read_run(write_run(tmp_path, "K=64", 0, **here, pid=os.getpid())).state == schema.QUEUED
    assert read_run(write_run(tmp_path, "K=64", 1, **{**here, "pid": gone, "step": 0})).state == schema.MISSING
    assert read_run(write_run(tmp_path, "K=64", 2, **{**here, "pid": gone, "step": 7})).state == schema.PREEMPTED


def test_damaged_files_are_named_in_one_line_and_the_rest_is_used(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0, 1]}))
    whole = write_run(tmp_path, "K=64", 0, readouts(97, 96, 95, 94))
    broken = write_run(tmp_path, "K=64", 1, readouts(97, 96, 95, 94))
    (broken / schema.RESULTS).write_text('{"test":\n {"linear_top1": 9')
    with (whole / schema.ATTEMPTS).open("a") as attempts:
        attempts.write('{"event": "en\n')
    said: list[str] = []
    cells = load_sweep(tmp_path, "queue_size", said.append).cells
    assert cells["state"].to_list() == [schema.DONE, schema.LOST]
    assert cells["linear_top1"].to_list() == [97.0, None]
    assert len(said) == 2
    assert said[0].startswith(f"{whole / schema.ATTEMPTS}:2: damaged line")
    assert said[1].startswith(f"{broken / schema.RESULTS}:2: damaged")


def journal(path: Path, *lines: dict[str, Any] | str, end: str = "\n") -> None:
    (path / schema.JOURNAL).write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + end)


def record(step: int, loss: float) -> dict[str, Any]:
    return {"step": step, "epoch": step / 10, "time": 1.0, "values": {"train/loss": loss, "train/lr": 0.1}}


def losses(root: Path, said: list[str]) -> list[tuple[int, float | None]]:
    frame = curves(root, load_sweep(root, "queue_size").cells, ["train/loss"], said.append)
    return frame.select("step", "value").rows()


def test_curves_drop_what_a_resume_made_void_and_ignore_a_torn_end(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0, 1]}))
    path = write_run(tmp_path, "K=64", 0, state=schema.RUNNING)
    said: list[str] = []
    journal(
        path,
        record(10, 5.0),
        record(20, 4.0),
        record(30, 3.0),
        {"resumed_at": 20},
        record(30, 3.5),
        record(40, 3.0),
        {"resumed_at": 0},
        record(10, 5.5),
        '{"step": 20, "epoch": 2.0, "val',
        end="",
    )
    assert losses(tmp_path, said) == [(10, 5.5)]
    journal(path, record(10, 5.0), record(20, 4.0), record(30, 3.0), {"resumed_at": 20}, record(30, 3.5))
    assert losses(tmp_path, said) == [(10, 5.0), (20, 4.0), (30, 3.5)]
    assert said == []


def test_a_damaged_journal_line_is_named_and_the_rest_is_used(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0]}))
    path = write_run(tmp_path, "K=64", 0, state=schema.RUNNING)
    journal(path, record(10, 5.0), "\x00\x00garbage", record(30, float("nan")), record(40, 2.0))
    said: list[str] = []
    assert losses(tmp_path, said) == [(10, 5.0), (30, None), (40, 2.0)]
    assert said == [f"{path / schema.JOURNAL}:2: damaged line; left out, the rest is used"]


def test_of_several_variants_the_last_updated_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0]}, updated="2026-11-02T00:00:00+00:00"))
    newer = "queue_size@digits,train.epochs=5"
    write_manifest(tmp_path, manifest({"K=64": [0]}, label=newer, updated="2026-11-03T00:00:00+00:00"))
    said: list[str] = []
    assert find_sweep(tmp_path, "queue_size", said.append)["label"] == newer
    assert said == [f"queue_size: reading {newer}; also there: queue_size@digits"]
    assert find_sweep(tmp_path, "queue_size@digits", said.append)["label"] == "queue_size@digits"
    assert len(said) == 1


def message(root: Path, name: str) -> str:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        find_sweep(root, name, lambda line: None)
    return str(caught.value)


def test_mistakes_are_answered_in_one_line(tmp_path: Path) -> None:
    assert "python sweeps/queue_size.py" in message(tmp_path, "queue_size")
    write_manifest(tmp_path, manifest({"K=64": [0]}))
    unknown = message(tmp_path, "quue_size")
    assert "did you mean queue_size?" in unknown
    assert "there are queue_size@digits" in unknown
    write_manifest(tmp_path, manifest({"K=64": [0]}, store_version=schema.STORE_VERSION + 1))
    assert f"up to {schema.STORE_VERSION}: update it" in message(tmp_path, "queue_size")


def test_a_damaged_manifest_does_not_hide_the_others(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0]}))
    folder = tmp_path / schema.SWEEPS_FOLDER
    (folder / "torn.json").write_text('{"name": "mom')
    (folder / "other.json").write_text('{"name": "momentum"}')
    said: list[str] = []
    assert find_sweep(tmp_path, "queue_size", said.append)["name"] == "queue_size"
    assert [line.split(": ")[0] for line in said] == [str(folder / "other.json"), str(folder / "torn.json")]


def test_journals_of_all_runs_stand_in_one_frame(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0, 1], "K=128": [0]}))
    for seed in (0, 1):
        path = write_run(tmp_path, "K=64", seed, readouts(1, 2, 3, 4))
        write_journal(
            path, [(10, 1.0, {"train/loss": 3.0 + seed, "train/lr": 0.1}), (20, 2.0, {"train/loss": 2.0 + seed})]
        )
    frame = curves(tmp_path, load_sweep(tmp_path, "queue_size").cells, ["train/loss", "train/lr"])
    assert frame.filter(key="train/loss").select("arm", "seed", "run_id", "step", "value").rows() == [
        ("K=64", seed, run_id("K=64", seed), step, value + seed)
        for seed in (0, 1)
        for step, value in ((10, 3.0), (20, 2.0))
    ]
    assert frame.filter(key="train/lr").height == 2


def test_waiting_in_slurm_is_queued_though_the_process_that_submitted_it_has_ended(tmp_path: Path) -> None:
    path = write_run(tmp_path, "K=64", 0, state=schema.QUEUED)
    ended = subprocess.Popen(["true"])
    ended.wait()
    status = json.loads((path / schema.STATUS).read_text()) | {
        "host": socket.gethostname(),
        "pid": ended.pid,
        "step": None,
    }
    (path / schema.STATUS).write_text(json.dumps(status))
    assert read_run(path).state == schema.MISSING
    (path / schema.STATUS).write_text(json.dumps(status | {"job": "7_1"}))
    run = read_run(path)
    assert (run.state, run.reason) == (schema.QUEUED, "job 7_1")
