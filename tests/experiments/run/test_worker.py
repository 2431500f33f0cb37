"""One attempt, as a real process with a trainer that counts steps. Oracle: the uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from experiments.run.worker import DONE, FAILED, STOPPED, TAKEN
from experiments.state.state import state_of
from experiments.store import causes, schema
from experiments.store.files import replace_json
from experiments.store.run import RunDirectory
from tests.support.stand_in_runs import cell, holding, holds, let_go, prepared, start_worker, steps, wait_until


def story(run: RunDirectory) -> list[tuple[int, dict[str, Any]]]:
    return [(record["step"], record["values"]) for record in run.records()]


def journal_lines(run: RunDirectory) -> int:
    journal = run.path / schema.JOURNAL
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def has_lines(run: RunDirectory, count: int) -> bool:
    return journal_lines(run) >= count


def has_begun(run: RunDirectory, attempt: int) -> bool:
    return any((line["event"], line["attempt"]) == ("start", attempt) for line in run.attempts())


def finished(root: Path, epochs: int = 1) -> RunDirectory:
    run = prepared(root, cell(epochs=epochs))
    assert start_worker(run).wait(60) == DONE
    return run


def test_a_finished_run_has_results_and_both_ends_of_its_attempt(tmp_path: Path) -> None:
    run = finished(tmp_path)
    results, status = run.results(), run.status()
    assert results is not None
    assert status is not None
    assert (results["test"], results["steps"]) == ({"linear_top1": 80.0, "knn20_top1": 80.0}, 10)
    assert results["validation"] == {"knn20_top1": 51.0}
    assert [step for step, _ in story(run)] == [*range(1, 11), 10]
    assert (status["state"], status["step"], status["total_steps"], status["knn"]) == (schema.DONE, 10, 10, 51.0)
    begin, end = run.attempts()
    assert (begin["event"], begin["attempt"], end["event"], end["state"], end["step"]) == (
        "start",
        1,
        "end",
        "done",
        10,
    )
    assert 0 < end["seconds"] <= results["seconds"] + 0.1


def test_killed_at_a_random_moment_it_goes_on_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    whole = story(finished(tmp_path / "whole", epochs=40))  # far longer than until the last kill
    run = prepared(tmp_path / "killed", cell(epochs=40))
    draw = random.Random(5)
    for attempt in (1, 2, 3):
        worker = start_worker(run, STAND_IN_STEP="0.01")
        wait_until(partial(has_begun, run, attempt))
        wait_until(partial(has_lines, run, journal_lines(run) + draw.randrange(1, 8)))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        assert state_of(run.path).state == schema.LOST
    assert start_worker(run).wait(60) == DONE
    assert story(run) == whole
    assert [a.get("state") for a in run.attempts() if a["event"] == "end"] == [schema.LOST] * 3 + [schema.DONE]


def test_a_torn_journal_line_of_a_killed_attempt_does_not_hurt(tmp_path: Path) -> None:
    whole = story(finished(tmp_path / "whole", epochs=2))
    run = prepared(tmp_path / "torn", cell(epochs=2))
    worker = start_worker(run, **holding(tmp_path / "hold"))
    wait_until(lambda: holds(run) and (run.path / schema.CHECKPOINT).exists())
    worker.kill()
    worker.wait()
    with (run.path / schema.JOURNAL).open("a") as journal:
        journal.write('{"step":99,"val')
    assert start_worker(run).wait(60) == DONE
    assert story(run) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_stops_it_at_the_next_step_with_everything_saved(tmp_path: Path, number: signal.Signals) -> None:
    run = prepared(tmp_path, cell(epochs=1000))
    worker = start_worker(run, STAND_IN_STEP="0.005")
    wait_until(lambda: steps(run) > 0)
    worker.send_signal(number)
    assert worker.wait(60) == STOPPED
    state = state_of(run.path)
    assert (state.state, state.reason) == (schema.PREEMPTED, f"stopped by {number.name}")
    assert json.loads((run.path / schema.CHECKPOINT).read_text()) == state.step == story(run)[-1][0]


def test_a_cancel_request_stops_it_and_keeps_it_stopped(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell(epochs=1000))
    worker = start_worker(run, STAND_IN_STEP="0.005")
    wait_until(lambda: steps(run) > 0)
    run.request_cancel()
    assert worker.wait(60) == STOPPED
    assert state_of(run.path).state == schema.CANCELLED
    before = len(run.records())
    assert start_worker(run).wait(60) == STOPPED
    assert len(run.records()) == before


def test_a_second_process_is_told_and_leaves(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell(epochs=1000))
    first = start_worker(run, STAND_IN_STEP="0.005")
    wait_until(lambda: steps(run) > 0)
    assert start_worker(run).wait(60) == TAKEN
    assert f"{run.path}: process {first.pid} on" in (run.path / schema.LOG).read_text()
    assert len(run.attempts()) == 1
    first.terminate()
    assert first.wait(60) == STOPPED


def test_of_many_started_at_once_one_runs(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell(epochs=20))
    hold = holding(tmp_path / "hold")
    workers = [start_worker(run, **hold) for _ in range(4)]
    wait_until(lambda: sum(worker.poll() is not None for worker in workers) == 3)  # the fourth holds the run
    let_go(tmp_path / "hold", 128)
    assert sorted(worker.wait(60) for worker in workers) == [DONE, TAKEN, TAKEN, TAKEN]
    assert [step for step, _ in story(run)] == [*range(1, 201), 200]


def test_an_error_of_the_run_is_one_line_in_the_status_and_whole_in_the_log(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell(size=256))
    assert start_worker(run, STAND_IN_FAIL="256").wait(60) == FAILED
    state = state_of(run.path)
    assert (state.state, state.reason, state.diverged) == (schema.FAILED, "RuntimeError: out of luck", False)
    log = (run.path / schema.LOG).read_text()
    assert "Traceback (most recent call last)" in log
    assert log.rstrip().endswith("RuntimeError: out of luck\nand more")
    assert start_worker(run).wait(60) == DONE


def test_a_diverged_run_says_so(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell(size=256))
    assert start_worker(run, STAND_IN_DIVERGE="256").wait(60) == FAILED
    state = state_of(run.path)
    reason = "diverged: the loss is nan at step 3; lower optim.lr or raise loss.temperature"
    assert (state.diverged, state.cause, state.reason) == (True, causes.DIVERGED, reason)


def test_killed_between_the_last_record_and_the_results_it_only_writes_the_results(tmp_path: Path) -> None:
    run = finished(tmp_path)
    before = run.results()
    (run.path / schema.RESULTS).unlink()
    run.write_status({**(run.status() or {}), "state": schema.RUNNING})
    journal = (run.path / schema.JOURNAL).read_bytes()
    assert start_worker(run).wait(60) == DONE
    assert (run.path / schema.JOURNAL).read_bytes() == journal
    after = run.results()
    assert before is not None
    assert after is not None
    assert {**after, "seconds": 0} == {**before, "seconds": 0}


def test_a_done_run_is_left_as_it_is(tmp_path: Path) -> None:
    run = finished(tmp_path)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    assert start_worker(run).wait(60) == DONE
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert start_worker(RunDirectory(tmp_path / "x")).wait(60) == 2
    assert (tmp_path / "x/log.txt").read_text() == f"error: {tmp_path}/x: not a run directory, it has no config.json\n"


def test_killed_before_its_first_checkpoint_it_starts_again_and_no_record_is_doubled(tmp_path: Path) -> None:
    whole = story(finished(tmp_path / "whole", epochs=2))
    run = prepared(tmp_path / "killed", cell(epochs=2))
    worker = start_worker(run, **holding(tmp_path / "hold"))
    wait_until(lambda: holds(run))
    worker.kill()
    worker.wait()
    (run.path / schema.CHECKPOINT).unlink(missing_ok=True)
    assert start_worker(run).wait(60) == DONE
    assert story(run) == whole


def killed_on_friday(root: Path, heartbeat: str) -> RunDirectory:
    """A run whose worker was killed 3 s after its start, two days ago; the clock of the disk says so of its heartbeat."""
    run = prepared(root, cell(epochs=1))
    friday = datetime.now(UTC) - timedelta(days=2)
    start = schema.Attempt(event="start", attempt=1, time=friday.isoformat(timespec="milliseconds"), ranks=1)
    run.append_attempt(start)
    (run.path / schema.HEARTBEAT).write_text(heartbeat)
    os.utime(run.path / schema.HEARTBEAT, (friday.timestamp() + 3, friday.timestamp() + 3))
    return run


@pytest.mark.parametrize(
    ("heartbeat", "lived"),
    [
        ("", 3.0),  # of an older version: by the times of day of the start and of the last heartbeat
        (f"{1:>9} {4.25:>15.3f}\n", 4.25),  # by the clock of the process, whatever the time of day was set to
    ],
)
def test_of_a_killed_attempt_only_its_life_is_billed(tmp_path: Path, heartbeat: str, lived: float) -> None:
    run = killed_on_friday(tmp_path, heartbeat)
    assert start_worker(run).wait(60) == DONE
    _, lost, _, end = run.attempts()
    assert (lost["state"], lost["seconds"]) == (schema.LOST, pytest.approx(lived, abs=0.002))
    assert (run.results() or {})["seconds"] == pytest.approx(lived + end["seconds"], abs=0.5)


def test_a_heartbeat_in_the_future_is_no_life(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell())
    run.write_status({"state": schema.RUNNING})
    status = json.loads((run.path / schema.STATUS).read_text())
    replace_json(run.path / schema.STATUS, {**status, "host": "elsewhere"})
    run.beat(1, 2.0)
    assert state_of(run.path).state == schema.RUNNING
    soon = time.time() + schema.STALE_SECONDS / 2
    os.utime(run.path / schema.HEARTBEAT, (soon, soon))  # clocks of two machines
    assert state_of(run.path).state == schema.RUNNING
    later = time.time() + 30 * 86400
    os.utime(run.path / schema.HEARTBEAT, (later, later))
    state = state_of(run.path)
    assert (state.state, "a clock is wrong" in (state.reason or "")) == (schema.LOST, True)


def test_a_damaged_line_of_the_journal_does_not_stop_the_run(tmp_path: Path) -> None:
    whole = story(finished(tmp_path / "whole", epochs=2))
    run = prepared(tmp_path / "hit", cell(epochs=2))
    worker = start_worker(run, **holding(tmp_path / "hold"))
    wait_until(lambda: holds(run) and (run.path / schema.CHECKPOINT).exists())
    worker.kill()
    worker.wait()
    journal = (run.path / schema.JOURNAL).read_bytes()
    (run.path / schema.JOURNAL).write_bytes(journal.replace(b'"train/loss":0.5', b'"train/loss":0.7'))
    assert start_worker(run).wait(60) == DONE
    assert story(run) == [record for record in whole if record[0] != 2]  # missing, not wrong
    assert "journal.jsonl, line 2: damaged, left out; the rest is used" in (run.path / schema.LOG).read_text()


def test_what_killed_writers_left_and_loops_of_links_are_out_of_the_way_of_the_next_attempt(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell(epochs=1))
    for name in (f".{schema.STATUS}.0123456789ab", f".{schema.CHECKPOINT}.4711"):
        (run.path / name).write_text("half")
    for name in (schema.LOCK, schema.HEARTBEAT, schema.ATTEMPTS, schema.JOURNAL, schema.STATUS):
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).symlink_to(name)
    assert start_worker(run).wait(60) == DONE
    names = os.listdir(run.path)
    assert not [name for name in names if name.startswith(".")]
    assert len([name for name in names if ".damaged-" in name]) == 5
    assert state_of(run.path).state == schema.DONE
