"""Files that survive a crash, and locks that die with their holder. Oracle: what was written before the damage."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import zlib
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from experiments.plan.configs import config_of, create
from experiments.store.files import Appender, read_json, read_lines, replace_json
from experiments.store.run import Busy, RunDirectory
from moco.config.plain import run_id
from tests.support.stand_in_runs import cell, prepared, wait_until

SPAWN = multiprocessing.get_context("spawn")


def record(step: int, **values: float) -> dict[str, object]:
    return {"step": step, "epoch": 0.0, "time": 0.0, "values": values}


def test_a_torn_last_line_is_ignored_and_then_cut(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Appender(path) as journal:
        journal.append({"a": 1})
        journal.append({"a": 2})
    whole = path.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:length])
        assert read_lines(path) == [{"a": 1}]
        with Appender(path) as journal:
            journal.append({"b": 3})
        assert path.read_text() == '{"a":1,"crc32":"a702fc6e"}\n{"b":3,"crc32":"5bb932ac"}\n'


def test_a_damaged_line_before_the_last_is_named_and_the_others_are_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"a":1}\n{"a"\n{"a":3}\n')
    assert read_lines(path) == [{"a": 1}, {"a": 3}]
    assert capsys.readouterr().err == f"warning: {path}, line 2: damaged, left out; the other lines are used\n"


def test_a_resume_makes_later_records_void_and_keeps_the_others_in_order(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell())
    with run.journal() as journal:
        for line in [
            record(1, x=1),
            record(5, x=5),
            record(7, x=7),
            {"resumed_at": 5},
            record(6, x=60),
            record(8, x=80),
        ]:
            journal.append(line)
        journal.append({"resumed_at": 6})
        journal.append(record(7, x=70))
    assert [(r["step"], r["values"]["x"]) for r in run.records()] == [(1, 1), (5, 5), (6, 60), (7, 70)]


def test_a_replacement_is_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    replace_json(path, {"a": 1})
    with pytest.raises(TypeError):
        replace_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1, "crc32": f"{zlib.crc32(path.read_bytes()[:9]):08x}"}
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_directory_holds_its_config_and_a_second_creation_changes_nothing(tmp_path: Path) -> None:
    one = cell(seed=3)
    run = prepared(tmp_path, one)
    assert config_of(run) == one.config
    assert run_id(config_of(run)) == run.run_id
    create(run, cell(seed=4).config)
    assert config_of(run) == one.config
    assert os.listdir(tmp_path) == [one.run_id]
    with pytest.raises(ValueError, match=r"not a run directory, it has no config\.json"):
        config_of(RunDirectory(tmp_path / "elsewhere"))


def _hold(path: str, held: Event, release: Event) -> None:
    with RunDirectory(Path(path)).locked():
        held.set()
        release.wait()


def test_a_lock_has_one_holder_and_dies_with_it(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell())
    held, release = SPAWN.Event(), SPAWN.Event()
    holder = SPAWN.Process(target=_hold, args=(str(run.path), held, release))
    holder.start()
    assert held.wait(60)
    assert run.is_locked()
    with pytest.raises(Busy, match="works on it"), run.locked(patience=0.05):
        pass
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert not run.is_locked()
    with run.locked(patience=0.0):
        assert run.is_locked()
    assert not run.is_locked()


def _hold_and_fork(path: str, child: multiprocessing.Queue[int]) -> None:
    with RunDirectory(Path(path)).locked():
        pid = os.fork()
        if pid == 0:
            signal.pause()
        child.put(pid)
        signal.pause()


def test_a_child_that_outlives_its_killed_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell())
    answers = SPAWN.Queue()
    holder = SPAWN.Process(target=_hold_and_fork, args=(str(run.path), answers))
    holder.start()
    child = answers.get(timeout=60)
    try:
        assert run.is_locked()
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
        os.kill(child, 0)  # it lives
        wait_until(lambda: not run.is_locked())
    finally:
        os.kill(child, signal.SIGKILL)
        answers.close()


def test_a_directory_set_aside_is_moved_whole_and_not_while_it_is_worked_on(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell())
    (run.path / "encoder.pt").write_text("weights")
    with run.locked(), pytest.raises(Busy):
        RunDirectory(run.path).set_aside()
    target = run.set_aside()
    assert not run.path.exists()
    assert target.parent == tmp_path / "set-aside"
    assert (target / "encoder.pt").read_text() == "weights"
