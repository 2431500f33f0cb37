"""The local pool with real worker processes. Oracles: the runs' own journals and states, and the process table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from experiments.launch.local import Runs
from experiments.plan.sweep import Cell
from experiments.run.machine import Slot, cores, make_slots
from experiments.state.state import RunState, state_of
from experiments.store import schema
from experiments.store.run import RunDirectory
from tests.support.stand_in import COUNTING
from tests.support.stand_in_runs import (
    cell,
    environment,
    holding,
    holds,
    let_go,
    prepared,
    start_worker,
    steps,
    wait_until,
)


class Notes:
    """A view that writes everything down."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.last: dict[str, RunState] = {}

    def started(self, cell: Cell) -> None:
        self.order.append(cell.run_id)

    def progress(self, cell: Cell, state: RunState) -> None:
        pass

    def ended(self, cell: Cell, state: RunState) -> None:
        self.last[cell.run_id] = state


def pool(root: Path, slots: int) -> Runs:
    return Runs(root, [Slot(n, {"OMP_NUM_THREADS": "1"}) for n in range(slots)], Notes(), COUNTING)


@pytest.fixture(autouse=True)
def _packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(STAND_IN_STEP="0.005").items():
        monkeypatch.setenv(name, value)


def cells(root: Path, count: int, epochs: int = 1) -> list[Cell]:
    made = [cell(seed=seed, epochs=epochs) for seed in range(count)]
    for one in made:
        prepared(root, one)
    return made


def spans(root: Path, made: Sequence[Cell]) -> Iterator[tuple[str, str]]:
    for one in made:
        begin, end = RunDirectory(root / one.run_id).attempts()
        yield begin["time"], end["time"]


def test_runs_start_in_order_and_never_more_at_a_time_than_slots(tmp_path: Path) -> None:
    made = cells(tmp_path, 6)
    filled = pool(tmp_path, 2)
    assert filled.run(made)
    notes = filled.view
    assert isinstance(notes, Notes)
    assert notes.order == [one.run_id for one in made]
    assert {state.state for state in notes.last.values()} == {schema.DONE}
    lives = list(spans(tmp_path, made))
    for moment, _ in lives:
        assert sum(begin <= moment < end for begin, end in lives) <= 2


def test_a_killed_run_is_lost_with_the_reason_and_its_siblings_finish(tmp_path: Path) -> None:
    made = cells(tmp_path, 3, epochs=40)
    victim = RunDirectory(tmp_path / made[1].run_id)

    def kill() -> None:
        wait_until(lambda: steps(victim) > 0)
        os.kill((victim.status() or {})["pid"], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert pool(tmp_path, 2).run(made)
    killer.join()
    assert [state_of(tmp_path / one.run_id).state for one in made] == [schema.DONE, schema.LOST, schema.DONE]
    assert state_of(victim.path).reason == "killed by SIGKILL (out of memory?)"
    assert victim.attempts()[-1]["state"] == schema.LOST
    assert pool(tmp_path, 2).run(made)
    assert state_of(victim.path).state == schema.DONE


def test_what_another_process_runs_is_waited_for_and_what_it_leaves_is_taken_over(tmp_path: Path) -> None:
    finishing, leaving = (RunDirectory(tmp_path / one.run_id) for one in cells(tmp_path, 2, epochs=40))
    made = [cell(seed=seed, epochs=40) for seed in (0, 1)]
    others = [start_worker(finishing), start_worker(leaving)]
    wait_until(lambda: steps(finishing) > 0 and steps(leaving) > 0)
    mine = pool(tmp_path, 2)
    leaver = threading.Timer(0.3, others[1].terminate)
    leaver.start()
    assert mine.run(made)
    assert [other.wait() for other in others] == [0, 75]
    assert isinstance(mine.view, Notes)
    assert mine.view.order == [leaving.run_id]
    assert [len(run.attempts()) for run in (finishing, leaving)] == [2, 4]


def test_a_worker_that_cannot_begin_fails_with_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_DIES", "1")
    (one,) = cells(tmp_path, 1)
    assert pool(tmp_path, 1).run([one])
    state = state_of(tmp_path / one.run_id)
    assert state.state == schema.FAILED
    assert state.reason == "ended with exit code 1 before it began: ImportError: no module named torch"


def test_finished_and_cancelled_runs_are_not_started(tmp_path: Path) -> None:
    made = cells(tmp_path, 2)
    assert start_worker(RunDirectory(tmp_path / made[0].run_id)).wait(60) == 0
    RunDirectory(tmp_path / made[1].run_id).write_status({"state": schema.CANCELLED})
    mine = pool(tmp_path, 2)
    assert mine.run(made)
    assert isinstance(mine.view, Notes)
    assert (mine.view.order, set(mine.view.last)) == ([], {one.run_id for one in made})


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from pathlib import Path
from tests.experiments.launch.test_local import pool, cells
root = Path(sys.argv[1])
sys.exit(0 if pool(root, 2).run(cells(root, 4, epochs=1000)) else 130)
"""


def launcher(root: Path, **more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(root)],
        env=environment(STAND_IN_STEP="0.005", **more),
        start_new_session=True,
    )


def running(root: Path) -> list[RunDirectory]:
    return [run for path in root.iterdir() if state_of((run := RunDirectory(path)).path).state == schema.RUNNING]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_to_stop_once_all_runs_are_saved_and_none_is_started(tmp_path: Path, number: signal.Signals) -> None:
    process = launcher(tmp_path)
    wait_until(lambda: sum(steps(run) > 0 for run in running(tmp_path)) == 2)
    os.killpg(process.pid, number)
    assert process.wait(60) == 130
    states = sorted(state_of(path).state for path in tmp_path.iterdir())
    assert states == [schema.MISSING, schema.MISSING, schema.PREEMPTED, schema.PREEMPTED]


def test_under_nohup_it_goes_on_when_the_terminal_closes(tmp_path: Path) -> None:
    ignoring = SCRIPT.replace("signal.SIGHUP, signal.SIG_DFL", "signal.SIGHUP, signal.SIG_IGN").replace("1000", "20")
    root, hold = tmp_path / "runs", tmp_path / "hold"
    root.mkdir()
    process = subprocess.Popen([sys.executable, "-c", ignoring, str(root)], env=environment(**holding(hold)))
    wait_until(lambda: sum(map(holds, running(root))) == 2)
    process.send_signal(signal.SIGHUP)
    let_go(hold, 128)
    assert process.wait(60) == 0
    assert {state_of(path).state for path in root.iterdir()} == {schema.DONE}


def test_told_twice_even_a_run_that_does_not_listen_is_gone(tmp_path: Path) -> None:
    process = launcher(tmp_path, STAND_IN_STUBBORN="1")
    wait_until(lambda: sum(steps(run) > 0 for run in running(tmp_path)) == 2)
    runs = running(tmp_path)
    os.kill(process.pid, signal.SIGINT)
    before = [steps(run) for run in runs]
    wait_until(lambda: all(steps(run) > step for run, step in zip(runs, before, strict=True)))
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert {state_of(run.path).state for run in runs} == {schema.LOST}


def test_a_killed_launcher_leaves_its_runs_alive(tmp_path: Path) -> None:
    process = launcher(tmp_path)
    wait_until(lambda: sum(steps(run) > 0 for run in running(tmp_path)) == 2)
    process.kill()
    process.wait()
    runs = running(tmp_path)
    assert len(runs) == 2
    before = [steps(run) for run in runs]
    wait_until(lambda: all(steps(run) > step for run, step in zip(runs, before, strict=True)))
    for run in runs:
        os.kill((run.status() or {})["pid"], signal.SIGTERM)
    wait_until(lambda: all(state_of(run.path).state == schema.PREEMPTED for run in runs))


def test_slots_share_the_cores_and_name_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    gpus = make_slots(3, runs=9)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in gpus] == ["4", "GPU-7", "4"]
    assert len(make_slots(None, runs=9)) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert len(make_slots(None, runs=1000)) == cores()
    assert len(make_slots(8, runs=3)) == 3
    (alone,) = make_slots(1, runs=5)
    assert alone.environment == {
        "OMP_NUM_THREADS": str(cores()),
        "MKL_NUM_THREADS": str(cores()),
        "OPENBLAS_NUM_THREADS": "1",
    }
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert make_slots(1, runs=5)[0].environment["OMP_NUM_THREADS"] == "1"


def test_cores_are_those_this_process_may_use() -> None:
    one = next(iter(os.sched_getaffinity(0)))
    code = f"import os; os.sched_setaffinity(0, [{one}]); from experiments.run.machine import cores; print(cores())"
    result = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1"
