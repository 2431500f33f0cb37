"""What a job gets is what its profile says, whatever the calling shell has set. Oracles: Slurm's own word about the job, the
environment of its process, and every file and title that may hold a secret.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.state.state import state_of
from experiments.store import schema
from tests.support.slurm_cluster import STAND_IN, VERBS, cluster, job_of, queue, run, runs, seen_before, slurm
from tests.support.slurm_cluster import until_the_queue_is_empty as until_empty
from tests.support.stand_in_runs import environment, holding, holds, let_go, wait_until

__all__ = ["cluster"]

pytestmark = pytest.mark.usefixtures("cluster")

ONE = ("--only", "K=128", "--seeds", "1", "--set", "train.epochs=1")
NOISE = {  # each of them changes what sbatch, srun or squeue does
    "SBATCH_EXPORT": "NONE",
    "SBATCH_PARTITION": "nowhere",
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_CONSTRAINT": "nowhere",
    "SBATCH_ARRAY_INX": "0-3",
    "SBATCH_NO_REQUEUE": "1",
    "SBATCH_SIGNAL": "KILL@10",
    "SLURM_EXPORT_ENV": "NONE",
    "SLURM_NTASKS": "7",
    "SLURM_CPU_BIND": "map_cpu:99",
    "SLURM_MEM_PER_CPU": "1",
    "SLURM_JOB_ID": "4711",
    "SLURM_ARRAY_TASK_ID": "5",
    "SRUN_EXPORT_ENV": "NONE",
    "SQUEUE_PARTITION": "nowhere",
    "SQUEUE_STATES": "FAILED",
    "SCANCEL_STATE": "COMPLETED",
}
OF_THE_PROFILE = ("Partition", "TimeLimit", "MinMemoryNode", "NumTasks", "NumCPUs", "CPUs/Task", "Requeue", "Comment")


def facts(job: str) -> dict[str, str]:
    """What Slurm knows of it, of the fields that a profile settles."""
    shown = dict(
        word.split("=", 1) for word in slurm("scontrol", "--oneliner", "show", "job", job).split() if "=" in word
    )
    return {name: shown.get(name, "") for name in (*OF_THE_PROFILE, "Features")}


def profile(folder: Path, **texts: str) -> dict[str, str]:
    home = folder / "moco/profiles"
    home.mkdir(parents=True)
    for name, text in texts.items():
        (home / f"{name}.toml").write_text(text)
    return {"XDG_CONFIG_HOME": str(folder)}


def test_nothing_of_the_calling_shell_changes_a_job(tmp_path: Path) -> None:
    quiet, noisy = tmp_path / "quiet", tmp_path / "noisy"
    found = {}
    for root, env in ((quiet, {}), (noisy, NOISE)):
        hold = holding(tmp_path / f"hold-{root.name}")
        run(STAND_IN, root, "--cluster", "dev", *ONE, env=env | hold)
        (one,) = runs(root).values()
        wait_until(lambda one=one: holds(one))  # type: ignore[misc]
        found[root] = facts(job_of(one))
        assert run(VERBS, root, "status", "stand_in", env=env).stdout.count("running") >= 1
        let_go(tmp_path / f"hold-{root.name}", 128)
    until_empty()
    assert found[quiet] == found[noisy]
    assert {state_of(one.path).state for root in found for one in runs(root).values()} == {schema.DONE}


def test_doctor_blames_nothing_where_a_site_exports_nothing(tmp_path: Path) -> None:
    said = run(VERBS, tmp_path / "runs", "doctor", "--cluster", "dev", env=NOISE).stdout
    assert "ok       shared disk" in said
    assert "problem" not in said.replace("problem  requeue", "")


def test_a_profile_says_what_the_site_needs(tmp_path: Path) -> None:
    """exclude, a comment, a prefix, another python, words of srun, an heir, and --cluster-set above all of them."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexport WRAPPED=yes\nexec "$@"\n')
    wrapper.chmod(0o755)
    python = tmp_path / "a python"
    python.write_text(f'#!/bin/sh\nexport OTHER_PYTHON=yes\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    site = (
        'inherits = "dev"\nprefix = "$WHERE/wrapper"\nsetup = ["export WHERE=' + f"'{tmp_path}'" + '"]\n'
        f'python = "{python}"\nsrun = ["--job-name=step of $WHERE"]\n'
        '[sbatch]\nexclude = "n0"\ncomment = "it\'s ours"\nmail-type = "NONE"\nno-requeue = true\nnice = 7\n'
    )
    env = profile(tmp_path, dev='inherits = "dev"\nmemory = "1G"\n', site=site)
    root = tmp_path / "runs"
    hold = holding(tmp_path / "hold")
    flags = ("--cluster", "site", "--cluster-set", "time=0:07:00", "memory=512M", "sbatch.nice=9", *ONE)
    run(STAND_IN, root, *flags, env=env | hold)
    (one,) = runs(root).values()
    wait_until(lambda: holds(one))
    job = job_of(one)
    shown = slurm("scontrol", "--oneliner", "show", "job", job)
    wanted = (
        "NodeList=n1",
        "ExcNodeList=n0",
        "Comment=it's ours",
        "Nice=9",
        "TimeLimit=00:07:00",
        "MinMemoryNode=512M",
    )
    assert [word for word in wanted if word not in shown] == []
    assert "Requeue=0" in shown
    assert (
        slurm("squeue", "--steps", "--noheader", f"--job={job}", "--format=%j").splitlines()[0] == f"step of {tmp_path}"
    )
    raw = Path(f"/proc/{(one.status() or {})['pid']}/environ").read_text()
    assert {"WRAPPED=yes", "OTHER_PYTHON=yes"} <= set(raw.split("\0"))
    slurm("scancel", job)
    wait_until(lambda: not one.is_locked())
    until_empty()
    retried = run(VERBS, root, "retry", "stand_in", "--yes", env=env | hold).stdout  # with the same --cluster-set
    assert "submitted 1 run to site" in retried
    assert "TimeLimit=00:07:00" in slurm("scontrol", "--oneliner", "show", "job", job_of(one))
    slurm("scancel", job_of(one))
    until_empty()


SECRET = "p4ss-of-test"


def holders_of(secret: str, root: Path) -> list[str]:
    """Files under the root, scripts that Slurm keeps, and titles of processes that hold it."""
    files = [str(p) for p in root.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]
    jobs = {line.split()[0].partition("_")[0] for line in queue()}
    scripts = [j for j in jobs if secret in slurm("scontrol", "write", "batch_script", j, "-")]
    shown = [j for j in jobs if secret in slurm("scontrol", "show", "job", "--details", j)]
    titles = [str(p) for p in Path("/proc").glob("[0-9]*/cmdline") if secret.encode() in _read(p)]
    return files + scripts + shown + titles


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_secret_reaches_the_job_and_stands_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    address = f"http://ada:{SECRET}@127.0.0.1:1/"
    env = {
        "MLFLOW_TRACKING_URI": address,
        **profile(tmp_path, mine='inherits = "dev"\n[environment]\nWANDB_API_KEY = "K"\n'),
    }
    (tmp_path / "moco/profiles/mine.toml").write_text(f'inherits = "dev"\n[environment]\nWANDB_API_KEY = "{SECRET}"\n')
    hold = holding(tmp_path / "hold")
    shown = run(STAND_IN, root, "--cluster", "mine", *ONE, "--dry-run", env=env)
    assert SECRET not in shown.stdout + shown.stderr
    seen_before(root)
    said = run(STAND_IN, root, "--cluster", "mine", *ONE, env=env | hold)
    (one,) = runs(root).values()
    wait_until(lambda: holds(one))
    raw = dict(
        word.partition("=")[::2]
        for word in Path(f"/proc/{(one.status() or {})['pid']}/environ").read_text().split("\0")
    )
    assert (raw["MLFLOW_TRACKING_URI"], raw["WANDB_API_KEY"]) == (address, SECRET)
    assert holders_of(SECRET, root) == []
    let_go(tmp_path / "hold", 128)
    until_empty()
    status = run(VERBS, root, "status", "stand_in", env=env)
    assert SECRET not in said.stdout + said.stderr + status.stdout + status.stderr
    assert holders_of(SECRET, root) == []
    assert state_of(one.path).state == schema.DONE


def test_printed_commands_work_as_printed(tmp_path: Path) -> None:
    """Of a root that the profile names, with a variable, and that no variable of the shell does."""
    env = profile(tmp_path, mine='inherits = "dev"\nruns_root = "$SCRATCH/my runs"\n') | {"SCRATCH": str(tmp_path)}
    bare = environment(**env)
    bare.pop("MOCO_RUNS", None)
    (tmp_path / "here").mkdir()
    command = [*STAND_IN, "--cluster", "mine", *ONE]
    said = subprocess.run(command, env=bare, cwd=tmp_path / "here", capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    follow = re.findall(r"^.*python -m experiments status .*$", said.stdout, re.MULTILINE)[0]
    follow = follow.replace("python -m", f"{sys.executable} -m")
    del bare["SCRATCH"]
    shown = subprocess.run(
        follow, shell=True, env=bare, cwd=tmp_path / "here", capture_output=True, text=True, check=False
    )
    assert shown.stdout.startswith("stand_in@digits,train.epochs=1: "), shown.stderr
    until_empty()
    command += ["--dry-run"]
    unset = subprocess.run(command, env=bare, cwd=tmp_path / "here", capture_output=True, text=True, check=False)
    assert (unset.returncode, unset.stderr) == (
        2,
        "error: profile mine: runs_root = '$SCRATCH/my runs': $SCRATCH is not set on this machine\n",
    )
