"""`--calibrate`: times twenty steps of each kind of planned run, on the machine or cluster where the runs will go.

    $MOCO_RUNS/calibration/<key>/    config.json; pace.json once it has been timed

Gives a plan an estimate before any run has finished. Finished runs, which include the readouts, have priority.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from experiments.launch.estimate import calibrations, kind_of
from experiments.launch.launch_plan import LaunchPlan
from experiments.launch.process import Starter, Work, last_line
from experiments.plan.configs import config_of
from experiments.plan.sweep import Cell
from experiments.run.cluster import ENDED, Cluster, Profile, Submission, cluster_named, new_folder, this_user
from experiments.run.machine import hardware
from experiments.store.files import now, read_json, replace_json
from experiments.store.run import RunDirectory
from experiments.store.schema import CALIBRATION_FOLDER, CONFIG, PACE, SLURM_FOLDER
from moco.config import Config
from moco.config.plain import to_plain

STEPS, LAP = 20, 5  # steps; the first lap is a warm-up and not counted
POLL_SECONDS = 0.5


def work(path: str) -> None:
    """Time the config in `path`; called on the node. Raises ValueError for a run that is too short."""
    folder = Path(path)
    config = config_of(RunDirectory(folder))
    laps = list(_laps(config))
    if len(laps) < 2:
        raise ValueError(f"{len(laps)} laps of {LAP} steps: too short a run to be timed; raise train.epochs")
    seconds = config.train.batch_size / median(laps[1:])
    pace = {"seconds_per_step": seconds, "hardware": hardware(config.train.device), "time": now()}
    replace_json(folder / PACE, {**(read_json(folder / "where.json") or {}), **pace}, sync=True)


def _laps(config: Config) -> Iterator[float]:
    """Images per second of each lap. A record waits for the device, so the rates are right on a GPU, too."""
    from moco.train import Record, train

    asked = 0

    def enough() -> bool:
        nonlocal asked
        asked += 1
        return asked >= STEPS

    train_like = replace(config.train, log_every=LAP)
    timed = replace(config, train=train_like, evaluation=replace(config.evaluation, knn_every=0))
    with TemporaryDirectory() as nowhere:
        for item in train(timed, Path(nowhere), enough):
            if isinstance(item, Record) and "speed/images_per_s" in item.values:
                yield item.values["speed/images_per_s"]
            if asked >= STEPS:
                return


def calibrate(launch_plan: LaunchPlan) -> int:
    """One timed run of each kind that is planned; returns the exit code. Raises ValueError for what cannot be timed."""
    profile = launch_plan.options.profile
    if profile is not None and profile.tasks * profile.nodes > 1:
        raise ValueError(f"--calibrate: profile {profile.name} spreads a run over processes; only one can be timed")
    kinds = {kind_of(cell.config): cell for cell in launch_plan.cells if cell.config.train.epochs}
    folders = [_prepared(launch_plan.root, cell, profile) for cell in kinds.values()]
    print(f"timing {STEPS} steps of {', '.join(cell.arm for cell in kinds.values())}", flush=True)
    failures = _time_here(folders) if profile is None else _time_on_cluster(launch_plan.root, folders, profile)
    for failure in failures:
        print(f"  not timed: {failure}")
    for past in calibrations(launch_plan.root):
        if past.path in folders:
            print(f"  {past.pace:.3g} s a step on {past.hardware}")
    return 1 if failures else 0


def _prepared(root: Path, cell: Cell, profile: Profile | None) -> Path:
    """The folder of a kind of run, with its config and without an earlier pace."""
    name = profile.name if profile else "local"
    key = hashlib.sha256(f"{name} {kind_of(cell.config)}".encode()).hexdigest()[:16]
    folder = root / CALIBRATION_FOLDER / key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PACE).unlink(missing_ok=True)
    replace_json(folder / CONFIG, to_plain(cell.config))
    replace_json(folder / "where.json", {"cluster": name, "gpus": profile.gpus_per_node if profile else 1})
    return folder


def _time_here(folders: Sequence[Path]) -> list[str]:
    """In processes of their own, so that the launcher does not import torch. Returns the failures, a line each."""
    starter, failures = Starter(Work(work, preload=("moco.train",))), []
    with TemporaryDirectory() as logs:
        for folder in folders:
            log = Path(logs) / folder.name
            child = starter.start((str(folder),), {}, log, wanted=lambda: True)
            assert child is not None
            try:
                code = child.wait()
            except BaseException:
                child.kill()
                raise
            if code != 0:
                failures.append(last_line(log))
    return failures


def _time_on_cluster(root: Path, folders: Sequence[Path], profile: Profile) -> list[str]:
    """In jobs. Returns the failures, a line each."""
    from experiments.launch.cluster import environment_on_node
    from experiments.launch.snapshot import Snapshot

    code, cluster = Snapshot.of_this_code().write(root), cluster_named(profile.cluster)
    submission = Submission(
        profile, new_folder(root / SLURM_FOLDER), "calibration", environment=environment_on_node(profile, code)
    )
    jobs = dict(zip(cluster.submit(submission, work, folders), folders, strict=False))
    print(f"job {', '.join(jobs)} on {profile.name}", flush=True)
    try:
        _wait_for(cluster, jobs)
    except KeyboardInterrupt:
        cluster.cancel(list(jobs))
        raise
    failures = [_failure(cluster, root, job) for job, folder in jobs.items() if not (folder / PACE).exists()]
    if left := len(folders) - len(jobs):
        failures.append(
            f"{left} more, which did not fit into the site's limit of jobs; the same command again, when others have ended"
        )
    return failures


def _wait_for(cluster: Cluster, jobs: dict[str, Path]) -> None:
    """Wait until each job has written its pace or has left the queue."""
    while True:
        phases = cluster.phases(this_user())
        open_ = [job for job, folder in jobs.items() if not (folder / PACE).exists()]
        if phases is not None and all(job not in phases or phases[job][0] == ENDED for job in open_):
            return
        time.sleep(POLL_SECONDS)


def _failure(cluster: Cluster, root: Path, job: str) -> str:
    log = cluster.log(root / SLURM_FOLDER, job)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log else []
    return f"job {job}: {lines[-1].strip()}" if lines else f"job {job} left no log"
