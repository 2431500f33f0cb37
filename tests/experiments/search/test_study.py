"""One study, its samplers and its workers. Oracles: Optuna's own answers, exact p, kills of real processes, a real server."""

from __future__ import annotations

import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from experiments.commands.search import run
from experiments.search.address import UNTIL, time_is_up
from experiments.search.address import environment as hours_from_now
from experiments.search.definition import PRUNERS, SAMPLERS
from experiments.search.launch import trial_line
from experiments.search.storage import quiet
from experiments.search.study import FAILURES_IN_A_ROW, Ended
from experiments.search.worker import SearchWorker, excess, reporting
from experiments.store import schema
from experiments.store.schema import SearchRecord
from experiments.store.search_record import finished
from tests.support.parts import require_part
from tests.support.search_toy import TOY, begun, known, opened, search, toy, value
from tests.support.stand_in_runs import ROOT, environment, wait_until

WORKER = (sys.executable, "-m", "tests.support.search_toy")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


def start(path: Path, **more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*WORKER, str(path)], env=environment(**more), cwd=ROOT, stdout=subprocess.DEVNULL)


def settings(record: SearchRecord) -> list[dict[str, str]]:
    return [trial["settings"] for trial in record["trials"]]


def best(record: SearchRecord) -> float:
    return max(values[0] for trial in record["trials"] if (values := trial.get("values")))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_runs_within_bounds_and_again_the_same(sampler: str, tmp_path: Path) -> None:
    records = [search(tmp_path / str(i), seed=seed, sampler=sampler, budget=13) for i, seed in enumerate((0, 0, 1))]
    assert settings(records[0]) == settings(records[1])
    assert settings(records[0]) != settings(records[2])
    for trial in records[0]["trials"]:
        chosen = trial["settings"]
        assert 1e-3 <= float(chosen["optim.lr"]) <= 10
        assert 0.02 <= float(chosen["loss.temperature"]) <= 2
        assert int(chosen["negatives.size"]) in (128, 256, 512, 1024)
        assert chosen["head.hidden"] in ("()", "(0)")
    assert len({str(s) for s in settings(records[0])}) > 8  # no sampler is stuck at one point
    assert records[0]["trials"][0]["source"] == "base"


def test_an_interrupted_search_asks_for_the_same_points(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", budget=14)
    path = begun(tmp_path / "parts", replace(TOY, budget=14))
    for _ in range(7):
        assert SearchWorker.on(path, toy, limit=2).work()
    assert settings(known(path)) == settings(whole)


def test_tpe_beats_random_over_twenty_seeds(tmp_path: Path) -> None:
    """Paired by seed, without the base as a start; one-sided sign test, exact: p = sum of C(n, k) / 2^n over k >= wins."""
    two = replace(TOY, budget=30, space={name: TOY.space[name] for name in ("optim.lr", "loss.temperature")})
    wins, losses = 0, 0
    for seed in range(20):
        found = {}
        for sampler in ("tpe", "random"):
            path = begun(tmp_path / f"{sampler}{seed}", replace(two, sampler=sampler), seed=seed, base=False)
            assert SearchWorker.on(path, toy).work()
            found[sampler] = best(known(path))
        wins, losses = wins + (found["tpe"] > found["random"]), losses + (found["tpe"] < found["random"])
    n = wins + losses
    p = sum(math.comb(n, k) for k in range(wins, n + 1)) / 2**n
    print(f"TPE better in {wins} of {n} seeds, exact p = {p:.2g}")
    assert p < 0.01


def curve(worker: SearchWorker, trial: Any, cell: Any) -> Ended:
    """Eight evaluations that approach the formula's value; the report decides, as in a run."""
    report = reporting(trial, worker.study.record)
    for epoch in range(1, 9):
        why = report(epoch * 5, value(cell.config) * (1 - 0.5**epoch))
        if why is not None:
            return Ended(schema.PRUNED, reason=why)
    return Ended(schema.DONE, (value(cell.config),))


@pytest.mark.parametrize("pruner", PRUNERS)
def test_each_pruner_runs(pruner: str, tmp_path: Path) -> None:
    settings = ["evaluation.knn_every=5"] if pruner == "wilcoxon" else []
    path = begun(tmp_path, replace(TOY, pruner=pruner, budget=20, sampler="random"), settings=settings)
    assert SearchWorker.on(path, curve).work()
    record = known(path)
    states = [trial["state"] for trial in record["trials"]]
    assert set(states) == ({schema.DONE} if pruner == "none" else {schema.DONE, schema.PRUNED})
    assert len(finished(record)) == 20
    assert best(record) == max(trial["reported"]["40"] / (1 - 0.5**8) for trial in record["trials"] if trial["values"])


def test_the_median_pruner_does_what_it_says(tmp_path: Path) -> None:
    """Slow version: after five done trials, one whose best so far is under the median of the others' values there ends."""
    path = begun(tmp_path, replace(TOY, pruner="median", budget=24, sampler="random"))
    assert SearchWorker.on(path, curve).work()
    trials = known(path)["trials"]
    for i, trial in enumerate(trials):
        done = [t for t in trials[:i] if t["state"] == schema.DONE]
        own = list(trial["reported"].items())
        worse = [
            len(done) >= 5 and max(v for _, v in own[: k + 1]) < statistics.median(t["reported"][epoch] for t in done)
            for k, (epoch, _) in enumerate(own)
        ]
        assert not any(worse[:-1])
        assert (trial["state"] == schema.PRUNED) == worse[-1]
        if trial["state"] == schema.PRUNED:
            assert (trial["reason"] or "").startswith(f"at epoch {own[-1][0]} by median, kNN ")


def test_several_objectives_have_optunas_own_front_and_limits_are_kept(tmp_path: Path) -> None:
    def measured(worker: SearchWorker, trial: Any, cell: Any) -> Ended:
        hours = cell.config.negatives.size / 1024
        limits = excess(worker.study.record["limits"], {"hours": hours, "memory_gb": None})
        return Ended(schema.DONE, (value(cell.config), hours), hours=hours, constraints=limits)

    path = begun(tmp_path, replace(TOY, metric=("knn20_top1", "gpu_hours"), budget=25, limits={"hours": 0.5}))
    assert SearchWorker.on(path, measured).work()
    record = known(path)
    assert record["front"] == sorted(
        (t.number for t in opened(path).study.best_trials), key=lambda n: -(record["trials"][n]["values"] or [0])[0]
    )
    over = [t for t in record["trials"] if int(t["settings"]["negatives.size"]) > 512]
    assert over
    assert {t["number"] for t in over}.isdisjoint(record["ranking"])
    assert len(record["importances"]) == 2


def test_the_ranking_begins_with_optunas_best(tmp_path: Path) -> None:
    record = search(tmp_path, budget=12, sampler="random")
    assert record["ranking"][0] == opened(tmp_path / "searches" / "toy@digits.json").study.best_trial.number
    values = [(record["trials"][n]["values"] or [0.0])[0] for n in record["ranking"]]
    assert all(a >= b for a, b in pairwise(values))


def test_eight_workers_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    """Beside it, the throughput of eight plain Optuna processes on a journal of their own, taken in the same test."""
    path = begun(tmp_path, replace(TOY, budget=200, sampler="random"))
    seconds = timed([start(path) for _ in range(8)])
    record = known(path)
    assert [t["number"] for t in record["trials"]] == list(range(200))
    assert {t["state"] for t in record["trials"]} == {schema.DONE}
    from experiments.search.space import configured

    study = opened(path)
    for trial in record["trials"]:
        assert trial["values"] == [value(configured(study.base, trial["settings"]))]
    assert len({str(s) for s in settings(record)}) == 200
    plain = timed(
        [
            subprocess.Popen(
                [sys.executable, "-m", "tests.oracles.plain_optuna", str(tmp_path / "plain.journal"), "25"], cwd=ROOT
            )
            for _ in range(8)
        ]
    )
    print(f"200 trials, 8 workers, with start: ours {200 / seconds:.0f} a second, plain Optuna {200 / plain:.0f}")


def timed(processes: list[subprocess.Popen[bytes]]) -> float:
    began = time.monotonic()
    assert [process.wait() for process in processes] == [0] * len(processes)
    return time.monotonic() - began


def test_the_point_of_a_killed_worker_is_asked_once_more_and_no_more(tmp_path: Path) -> None:
    path = begun(tmp_path, replace(TOY, budget=5))
    for number in (0, 1):
        victim = start(path, TOY_SECONDS="60")
        wait_until(lambda number=number: running(path) == [number])  # type: ignore[misc]
        victim.kill()
        victim.wait()
    assert SearchWorker.on(path, toy).work()
    trials = known(path)["trials"]
    assert [t["number"] for t in trials] == list(range(len(trials)))
    assert [t["state"] for t in trials[:2]] == [schema.FAILED, schema.FAILED]
    assert all("ended without a word" in (t["reason"] or "") for t in trials[:2])
    assert trials[1]["settings"] == trials[0]["settings"]
    assert trials[1]["again_of"] == 0
    assert len(finished(known(path))) == 5
    assert all(t["settings"] != trials[0]["settings"] for t in trials[2:])
    assert not [t for t in opened(path).trials() if not t.state.is_finished()]


def running(path: Path) -> list[int]:
    return [t["number"] for t in known(path)["trials"] if t["state"] == schema.RUNNING]


def test_a_stopped_worker_gives_its_point_back(tmp_path: Path) -> None:
    path = begun(tmp_path, replace(TOY, budget=3))
    stopped = start(path, TOY_SECONDS="60")
    wait_until(lambda: running(path) == [0])
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == 0
    assert [(t["state"], t["source"]) for t in known(path)["trials"]] == [("failed", "base"), ("queued", "again")]
    assert SearchWorker.on(path, toy).work()
    assert [t["state"] for t in known(path)["trials"]] == ["failed", "done", "done", "done"]


def test_a_search_whose_trials_all_fail_gives_up_and_says_why(tmp_path: Path) -> None:
    def broken(worker: SearchWorker, trial: Any, cell: Any) -> Ended:
        raise RuntimeError("out of luck")

    path = begun(tmp_path)
    assert not SearchWorker.on(path, broken).work()
    record = known(path)
    assert len(record["trials"]) == FAILURES_IN_A_ROW
    assert record["failure"] == "5 trials in a row failed, the last one: RuntimeError: out of luck"


def test_options_of_a_sampler_reach_it_and_unknown_ones_are_one_line(tmp_path: Path) -> None:
    """Until its startup trials are over, TPE draws as Optuna's random sampler does."""
    random = search(tmp_path / "random", budget=12, sampler="random")
    startup = search(tmp_path / "tpe", budget=12, sampler_options={"n_startup_trials": 12})
    default = search(tmp_path / "default", budget=12, sampler="tpe")
    assert settings(startup) == settings(random)
    assert settings(default)[-1] != settings(random)[-1]
    with pytest.raises(ValueError, match=r"^sampler_options n_start: TPESampler has .*n_startup_trials.*$"):
        begun(tmp_path / "wrong", replace(TOY, sampler_options={"n_start": 3}))


def test_no_trial_begins_when_the_time_is_up_and_the_running_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until_the_deadline(worker: SearchWorker, trial: Any, cell: Any) -> Ended:
        monkeypatch.setenv(UNTIL, repr(time.time()))
        return toy(worker, trial, cell)

    path = begun(tmp_path, replace(TOY, budget=5))
    monkeypatch.setenv(UNTIL, repr(time.time() + 3600))
    assert SearchWorker.on(path, until_the_deadline).work()
    assert [t["state"] for t in known(path)["trials"]] == [schema.DONE]
    assert SearchWorker.on(path, toy).work()
    assert len(known(path)["trials"]) == 1
    assert time_is_up(hours_from_now(None, -1e-9))
    assert not time_is_up(hours_from_now(None, 1.0))
    assert hours_from_now("postgresql://u@h/d", None) == {"MOCO_SEARCH_STORAGE": "postgresql://u@h/d"}
    monkeypatch.delenv(UNTIL)
    assert SearchWorker.on(path, toy).work()
    assert len(known(path)["trials"]) == 5


def test_a_diverged_run_is_a_bad_point_and_counts(tmp_path: Path) -> None:
    def diverging(worker: SearchWorker, trial: Any, cell: Any) -> Ended:
        return Ended(schema.FAILED, reason="diverged: the loss is nan at step 3", diverged=True)

    path = begun(tmp_path, replace(TOY, budget=12))
    assert SearchWorker.on(path, diverging).work()
    assert {t.state for t in opened(path).trials()} == {TrialState.PRUNED}
    record = known(path)
    assert trial_line(record, record["trials"][0], 1).startswith(
        "1/12    trial-0   diverged  (diverged: the loss is nan at step 3)"
    )


TORN = b'{"op_code":6,"worker_id":"dead","trial_id":2,"user_att'


def test_a_torn_line_is_cut_before_the_next_append_and_a_backup_kept(tmp_path: Path) -> None:
    path = begun(tmp_path, replace(TOY, budget=8))
    journal = path.with_name("toy@digits.journal")
    assert SearchWorker.on(path, toy, limit=3).work()
    study = opened(path)  # a worker that is alive while another dies half way through a line
    with journal.open("ab") as file:
        file.write(TORN)
    study.study.set_user_attr("alive", True)
    assert SearchWorker.on(path, toy).work()
    (backup,) = tmp_path.glob("searches/*.torn-*")
    assert backup.read_bytes().endswith(TORN)
    assert b'"user_att{' not in journal.read_bytes()
    assert opened(path).study.user_attrs == {"alive": True}
    assert [t["state"] for t in known(path)["trials"]] == ["done"] * 8


def test_a_journal_that_plain_optuna_has_poisoned_is_saved(tmp_path: Path) -> None:
    path = begun(tmp_path, replace(TOY, budget=6))
    assert SearchWorker.on(path, toy, limit=3).work()
    journal = path.with_name("toy@digits.journal")
    with journal.open("ab") as file:
        file.write(TORN)
    backend = JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
    try:
        optuna.load_study(study_name="toy@digits", storage=JournalStorage(backend)).set_user_attr("glued", 1)
    except Exception as error:  # whatever it says: its line is in the file by then
        print(type(error).__name__)
    assert b'"user_att{"op_code"' in journal.read_bytes()
    assert opened(path).study.user_attrs == {"glued": 1}
    assert SearchWorker.on(path, toy).work()
    assert [t["state"] for t in known(path)["trials"]] == ["done"] * 6


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """A server of our own, on a free port of this machine."""
    folder = Path(require_part("postgres")).resolve().parent
    data, socket = tmp_path / "pg", tmp_path
    as_user = ["setpriv", "--reuid=nobody", "--clear-groups"] if os.geteuid() == 0 else []
    data.mkdir()
    if as_user:
        for path in (tmp_path, data):
            path.chmod(0o777)
        os.chown(data, 65534, 65534)
        for parent in tmp_path.parents:
            if parent.stat().st_uid == 0 and str(parent).startswith("/tmp/pytest"):
                parent.chmod(0o755)
    init = [
        str(folder / "initdb"),
        "-D",
        str(data),
        "-U",
        "moco",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
        "--locale=C",
    ]
    subprocess.run([*as_user, *init], check=True, capture_output=True, cwd="/")
    from experiments.tracking.ui import free_port

    port = free_port(54320)
    serve = [
        str(folder / "postgres"),
        "-D",
        str(data),
        "-p",
        str(port),
        "-k",
        str(socket),
        "-c",
        "fsync=off",
        "-h",
        "127.0.0.1",
    ]
    server = subprocess.Popen([*as_user, *serve], cwd="/", stderr=subprocess.DEVNULL)
    ready = [str(folder / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
    try:
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, 30)
        yield f"postgresql://moco@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def test_two_workers_on_postgresql(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOCO_SEARCH_STORAGE", postgres)
    path = begun(tmp_path / "runs", replace(TOY, budget=10), address=postgres)
    assert [p.wait() for p in [start(path), start(path)]] == [0, 0]
    assert [t["state"] for t in known(path)["trials"]] == ["done"] * 10
    assert not path.with_name("toy@digits.journal").exists()
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MOCO_SEARCH_STORAGE")
    assert run(TOY, ["--dry-run"]) == 2
    port = postgres.rpartition(":")[2]
    assert capsys.readouterr().err == (
        f"error: toy@digits: its study is kept in postgresql://127.0.0.1:{port}, not in journal; "
        "name that with --storage or MOCO_SEARCH_STORAGE, or begin another with --new-study\n"
    )
