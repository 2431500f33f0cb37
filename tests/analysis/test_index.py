"""What is kept of runs at rest. Oracle: the same store read without it, run by run."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from analysis import frame as index
from analysis.frame import FOLDER, load, load_sweep, read_run, read_runs
from experiments.store import schema
from tests.support.analysis_runs import START, manifest, readouts, run_id, write_manifest, write_run

LABEL = "queue_size@digits"
OLD = time.time() - 3600


def aged(path: Path) -> Path:
    """As if it had been written an hour ago: what is changed just now is not kept."""
    for file in path.iterdir():
        os.utime(file, (OLD, OLD))
    return path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(index, "WORTH_IT", 1)
    write_manifest(tmp_path, manifest({"K=64": list(range(6))}))
    for seed in range(3):
        aged(write_run(tmp_path, "K=64", seed, readouts(90.0 + seed, 1, 2, 3)))
    aged(write_run(tmp_path, "K=64", 3, state=schema.FAILED, diverged=True, reason="the loss is nan"))
    write_run(tmp_path, "K=64", 4, state=schema.RUNNING, step=7)
    return tmp_path


def runs(root: Path) -> dict[str, Any]:
    return read_runs(root, LABEL, [run_id("K=64", seed) for seed in range(6)])


def kept(root: Path) -> dict[str, Any]:
    return load(root / FOLDER / f"{LABEL}.json")


def test_what_is_kept_is_what_is_read(root: Path) -> None:
    plain = {name: read_run(root / name) for name in runs(root)}
    assert runs(root).keys() == plain.keys()
    assert sorted(kept(root)) == [run_id("K=64", seed) for seed in range(4)]  # neither the running nor the missing one
    frame = load_sweep(root, "queue_size").cells
    (root / FOLDER / f"{LABEL}.json").unlink()
    assert frame.equals(load_sweep(root, "queue_size").cells)


def test_a_kept_run_opens_no_file(root: Path) -> None:
    runs(root)
    path = root / run_id("K=64", 0) / schema.RESULTS
    before = path.stat()
    other = json.dumps({"test": readouts(11, 1, 2, 3), "validation": {}, "seconds": 60.0})
    path.write_text(other.ljust(before.st_size))  # same inode, size and time: whoever opened it would see 11
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert read_run(path.parent).readouts[schema.LINEAR] == 11
    assert runs(root)[run_id("K=64", 0)].readouts[schema.LINEAR] == 90.0


@pytest.mark.parametrize("how", ["in place", "replaced", "attempt", "gone"])
def test_a_run_that_has_changed_is_read_again(root: Path, how: str) -> None:
    runs(root)
    name = run_id("K=64", 0)
    path = root / name / schema.RESULTS
    new = json.dumps({"test": readouts(77, 1, 2, 3), "validation": {}, "seconds": 60.0})
    if how == "in place":
        path.write_text(new)
    elif how == "replaced":  # atomically, with the old time: another inode tells
        (root / "new").write_text(new)
        os.utime(root / "new", (OLD, OLD))
        os.replace(root / "new", path)
    elif how == "attempt":
        with (root / name / schema.ATTEMPTS).open("a") as file:
            file.write(json.dumps(START | {"commit": "fedcba987654"}) + "\n")
    else:
        path.unlink()
    assert runs(root)[name] == read_run(root / name)
    assert runs(root)[name] != runs(root)[run_id("K=64", 1)]


def test_what_was_changed_a_moment_ago_is_not_kept(root: Path) -> None:
    write_run(root, "K=64", 5, readouts(95, 1, 2, 3))
    runs(root)
    assert run_id("K=64", 5) not in kept(root)


@pytest.mark.parametrize("damage", ["torn", "empty", "a bit", "other code", "a folder"])
def test_a_damaged_index_is_made_again(root: Path, damage: str) -> None:
    runs(root)
    path, sound = root / FOLDER / f"{LABEL}.json", kept(root)
    content = path.read_bytes()
    if damage == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "a bit":
        path.write_bytes(content.replace(b"90.0", b"91.0"))
    elif damage == "other code":
        path.write_bytes(b"0" * 16 + content[16:])
    else:
        path.unlink()
        path.mkdir()
    assert kept(root) == {}
    assert runs(root)[run_id("K=64", 0)].readouts[schema.LINEAR] == 90.0
    if damage != "a folder":
        assert kept(root) == sound
    assert [p.name for p in (root / FOLDER).iterdir()] == [path.name]


def _read_often(root: str, times: int) -> None:
    index.WORTH_IT = 1  # type: ignore[misc]
    for _ in range(times):
        (Path(root) / FOLDER / f"{LABEL}.json").unlink(missing_ok=True)
        found = runs(Path(root))
        assert found[run_id("K=64", 1)].readouts[schema.LINEAR] == 91.0


def test_many_at_a_time_neither_fail_nor_leave_litter(root: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_read_often, args=(str(root), 60)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    runs(root)
    assert len(kept(root)) == 4
    assert [p.name for p in (root / FOLDER).iterdir()] == [f"{LABEL}.json"]


def test_a_small_store_is_left_as_it_is(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest({"K=64": [0]}))
    aged(write_run(tmp_path, "K=64", 0, readouts(1, 2, 3, 4)))
    load_sweep(tmp_path, "queue_size")
    assert not (tmp_path / FOLDER).exists()
