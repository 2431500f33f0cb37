"""What a submission sends, and what it runs. Oracles: a real Slurm, the script that was really sent, git's own commit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.launch.cluster import SEEN_FOLDER, _forget
from experiments.launch.snapshot import PACKAGES, Snapshot, forget_unused
from experiments.launch.submissions import difference, record, submissions
from experiments.run import provenance
from experiments.run.provenance import Code
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.run import RunDirectory
from tests.support.slurm_cluster import (
    STAND_IN,
    cluster,
    job_of,
    nothing_starts,
    queue,
    run,
    runs,
    seen_before,
    slurm,
    until_the_queue_is_empty,
)
from tests.support.stand_in_runs import ROOT, cell, prepared, wait_until

__all__ = ["cluster"]

ONE = ("--cluster", "dev", "--only", "K=128", "--seeds", "1", "--set", "train.epochs=1")
STAMP = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}|(?<=\.)[0-9a-f]{6}$|(?<=code/)[0-9a-f]{16}", re.MULTILINE)


def git(folder: Path, *arguments: str) -> str:
    named = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.check_output(["git", "-C", str(folder), *named, *arguments], text=True).strip()


def checkout(folder: Path) -> Path:
    """Our packages as a checkout of their own, with one commit and one change that is not committed."""
    folder.mkdir()
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    with (folder / "experiments/launch/job.py").open("a") as file:
        file.write("# a change that is not committed\n")
    return folder


@pytest.mark.usefixtures("cluster")
def test_a_waiting_job_runs_the_code_it_was_submitted_with(tmp_path: Path) -> None:
    source, root = checkout(tmp_path / "source"), tmp_path / "runs"
    env = {"PYTHONPATH": f"{source}:{ROOT}"}
    commit, changes = git(source, "rev-parse", "HEAD"), subprocess.check_output(["git", "-C", source, "diff", "HEAD"])
    with nothing_starts():
        run(STAND_IN, root, *ONE, env=env)
        with (source / "experiments/run/worker.py").open("a") as file:
            file.write("\nraise RuntimeError('edited since')\n")
        git(source, "commit", "--quiet", "--all", "--message", "two")
        assert not runs(root)["K=128 0"].attempts()
    until_the_queue_is_empty()
    one = runs(root)["K=128 0"]
    assert state_of(one.path).state == schema.DONE
    start = one.attempts()[0]
    assert start["commit"] == commit
    assert start["uncommitted"] == Code(commit, changes.decode()).uncommitted
    assert (one.path / schema.DIFF).read_text() == changes.decode()
    (copy,) = (root / schema.CODE_FOLDER).iterdir()
    assert "edited since" not in (copy / "experiments/run/worker.py").read_text()


def test_a_snapshot_is_the_code_byte_for_byte_and_is_made_once(tmp_path: Path) -> None:
    snapshot = Snapshot.of_this_code()
    path = snapshot.write(tmp_path)
    assert Snapshot.of_this_code().write(tmp_path) == path
    for name in ("moco/trainer.py", "slurm/profiles/dev.toml", "experiments/launch/job.py"):
        assert (path / name).read_bytes() == (ROOT / name).read_bytes()
    copied = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert copied == {*snapshot.files, provenance.SNAPSHOT}
    assert list((tmp_path / schema.CODE_FOLDER).iterdir()) == [path]
    other = replace(snapshot, hash="other", files={"moco/__init__.py": b"x"})
    assert other.write(tmp_path) != path


def test_a_snapshot_stays_while_a_run_may_need_it(tmp_path: Path) -> None:
    waiting, ended = prepared(tmp_path, cell(128)), prepared(tmp_path, cell(256))
    waiting.write_status(schema.Status(state=schema.PREEMPTED, job="7_0"))
    ended.write_status(schema.Status(state=schema.DONE, job="8"))
    for name, one, job in (("kept", waiting, "7_0"), ("gone", ended, "8"), ("young", ended, "9")):
        made = Snapshot(name, {"moco/__init__.py": b""}).write(tmp_path)
        (tmp_path / schema.SLURM_FOLDER).mkdir(exist_ok=True)
        jobs = {one.run_id: job}
        record(tmp_path, "s", profile="dev", cluster="slurm", code=name, command="c", planned=jobs, jobs=jobs)
        if name != "young":
            os.utime(made, (0, 0))
    assert forget_unused(tmp_path) == ["gone"]
    assert sorted(path.name for path in (tmp_path / schema.CODE_FOLDER).iterdir()) == ["kept", "young"]
    waiting.write_status(schema.Status(state=schema.QUEUED, job="10"))  # by a later submission, with later code
    assert forget_unused(tmp_path) == ["kept"]


@pytest.mark.usefixtures("cluster")
def test_a_dry_run_shows_the_very_script_that_is_sent(tmp_path: Path) -> None:
    root, flags = tmp_path / "runs", ("--cluster", "dev", "--seeds", "1", "--max-parallel", "2")
    result = run(STAND_IN, root, *flags, "--dry-run").stdout
    assert not root.exists()
    shown = result.partition("sbatch would get:\n")[2]
    assert "4 to submit with --partition=dev --mem=2G --time=00:30:00 --nodes=1 --ntasks-per-node=1" in result
    assert re.search(
        r"the first of them: Job \d+ to start at \S+ using 1 processors on nodes n0 in partition dev", result
    )
    assert "no submission of this sweep yet" in result
    seen_before(root)
    with nothing_starts():
        run(STAND_IN, root, *flags)
        (sent,) = (root / "slurm").glob("*/*_submission.sh")
        plain = "\n".join(f"    {line}".rstrip() for line in sent.read_text().strip().splitlines())
        assert STAMP.sub("X", shown.strip("\n")) == STAMP.sub("X", plain)
        later = run(STAND_IN, root, "--cluster", "dev", "--seeds", "2", "--dry-run").stdout
        assert re.search(r"since the last submission \(.* UTC, dev\): \+4 cells, 4 kept, 0 no longer referenced", later)
        run((*STAND_IN[:1], "-m", "experiments"), root, "cancel", "stand_in")
    until_the_queue_is_empty()


def test_the_difference_to_the_last_submission(tmp_path: Path) -> None:
    (tmp_path / schema.SLURM_FOLDER).mkdir()
    before = {"a": "K=1 seed 0", "b": "K=2 seed 0", "c": "K=3 seed 0", "d": "K=4 seed 0"}
    record(tmp_path, "s", profile="a100", cluster="slurm", code="x", command="c", planned=before, jobs={})
    now = {"a": "K=1 seed 0", "b": "K=2 seed 0", "c": "K=3 seed 0", "e": "K=5 seed 0", "f": "K=6 seed 0"}
    first, *names = difference(now, submissions(tmp_path, "s")[-1])
    assert first.endswith(" UTC, a100): +2 cells, 3 kept, 1 no longer referenced")
    assert names == ["  + K=5 seed 0, K=6 seed 0", "  - K=4 seed 0"]


def on_a_small_disk(tmp_path: Path, options: str) -> subprocess.CompletedProcess[str]:
    """Submit with MOCO_RUNS on a file system of its own."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(small)], check=True)
    try:
        result = run(STAND_IN, small / "runs", "--cluster", "dev", code=2)
        assert queue() == []
        assert list(small.glob("runs/[0-9a-f]*/config.json")) == []  # no run was begun
        assert [path.name for path in small.glob("runs/slurm/*")] in ([], [SEEN_FOLDER])
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
    return result


@pytest.mark.usefixtures("cluster")
def test_a_full_disk_at_submit_is_one_line_and_nothing_is_half_submitted(tmp_path: Path) -> None:
    result = on_a_small_disk(tmp_path, "size=300k").stderr
    sentence = (
        r"error: \S+: \d+ kB free, the submission of 8 runs alone writes [\d.]+ .B; free some space or set MOCO_RUNS .*"
    )
    assert re.fullmatch(sentence, result.strip())


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("left", [5, 20, 60])
def test_a_disk_that_fills_midway_is_rolled_back(tmp_path: Path, left: int) -> None:
    """Files run out while the code is copied, the runs are prepared, the jobs are written down."""
    files = Snapshot.of_this_code().files
    taken = len(files) + len({parent for name in files for parent in Path(name).parents})
    result = on_a_small_disk(tmp_path, f"size=200m,nr_inodes={taken + left}").stderr
    assert re.fullmatch(r"error: [^\n]*: No space left on device; free some space, or set MOCO_RUNS [^\n]*\n", result)


@pytest.mark.usefixtures("cluster")
def test_a_run_that_has_no_room_for_a_lock_is_forgotten_too(tmp_path: Path) -> None:
    """The cluster's tests may mount. Three inodes: the root of the disk, the run's folder, its config."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=3", "none", str(small)], check=True)
    try:
        one = RunDirectory(small / "run")
        one.path.mkdir()
        (one.path / schema.CONFIG).write_text("{}")
        with pytest.raises(OSError, match="No space left"), one.locked():
            pass
        _forget(one)
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.usefixtures("cluster")
def test_a_run_on_several_nodes_is_one_step_with_a_process_for_each_gpu(tmp_path: Path) -> None:
    folder = tmp_path / "moco/profiles"
    folder.mkdir(parents=True)
    (folder / "two.toml").write_text("nodes = 2\ngpus = 1\ncpus = 1\nmemory = '100M'\ntime = '00:05:00'\n")
    root, env = tmp_path / "runs", {"XDG_CONFIG_HOME": str(tmp_path)}
    flags = ("--cluster", "two", *ONE[2:])
    run(STAND_IN, root, *flags, env=env)
    one = runs(root)["K=128 0"]
    job = job_of(one)
    shown = slurm("scontrol", "show", "job", job)
    assert "NumNodes=2" in shown
    assert "NumTasks=2" in shown
    logs = [f"{job}_{task}_log.out" for task in (0, 1)]  # of each process of the step
    wait_until(lambda: all(list((root / "slurm").glob(f"*/{log}")) for log in logs))
    slurm("scancel", job)
    until_the_queue_is_empty()
