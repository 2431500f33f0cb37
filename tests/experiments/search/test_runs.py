"""Trials as run directories, with the stand-in's trainer and real processes; the digits once. Oracles: an ordinary run's
own files, exec of what is printed, MLflow and Optuna read by themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.stats import compare
from experiments.plan.configs import create
from experiments.plan.manifest import write_manifest
from experiments.plan.registry import baseline_config
from experiments.plan.sweep import make_cell, plan
from experiments.run.worker import attempt
from experiments.search.launch import begin
from experiments.search.result import best, confirmation
from experiments.search.storage import quiet
from experiments.search.worker import SearchWorker
from experiments.state.find import find
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.files import replace_json
from experiments.store.run import RunDirectory
from experiments.store.schema import SearchRecord
from experiments.store.search_record import finished, record_path, split_trial
from moco.config import Config
from moco.config.plain import from_plain, run_id
from tests.support.search_stand_in import replace_trainer
from tests.support.search_toy import TOY, begun, known, opened, toy, value
from tests.support.stand_in_runs import ROOT, environment, wait_until

SEARCH = (sys.executable, "-m", "tests.support.search_stand_in", "search")
VERBS = (sys.executable, "-m", "experiments")
QUICK = ("--set", "train.epochs=2", "evaluation.knn_every=1", "train.device=cpu")
LABEL = "toy@digits,train.epochs=2,evaluation.knn_every=1"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet()
    monkeypatch.setitem(sys.modules, "moco.train", sys.modules.get("moco.train"))
    replace_trainer()


def run(command: tuple[str, ...], root: Path, *arguments: str, code: int = 0, **more: str) -> str:
    said = subprocess.run(
        [*command, *arguments],
        env=environment(MOCO_RUNS=str(root), **more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == code, f"{said.returncode}\n{said.stdout}\n{said.stderr}"
    return said.stdout


def the_record(root: Path, label: str = LABEL) -> SearchRecord:
    return known(record_path(root, label))


@pytest.mark.usefixtures("stand_in")
def test_a_trial_is_an_ordinary_run_and_one_that_exists_is_told_not_trained(tmp_path: Path) -> None:
    path = begun(tmp_path, replace(TOY, budget=1))
    config: Config = from_plain(Config, known(path)["base_config"])
    cell = make_cell("anything", config.train.seed, config)
    directory = RunDirectory(tmp_path / cell.run_id)
    create(directory, config)
    assert attempt(directory.path) == schema.DONE
    before = directory.attempts(), (directory.path / schema.JOURNAL).read_bytes()
    assert SearchWorker.on(path).work()
    (trial,) = known(path)["trials"]
    assert (trial["run_id"], trial["values"]) == (cell.run_id, [value(config)])
    assert (directory.attempts(), (directory.path / schema.JOURNAL).read_bytes()) == before
    assert trial["reported"] == {
        str(round(r["epoch"])): r["values"]["validation/knn20_top1"]
        for r in directory.records()
        if "validation/knn20_top1" in r["values"]
    }


def test_workers_here_prune_for_real_and_every_name_leads_to_the_run(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    slow = {"STAND_IN_STEP": "0.05", "STAND_IN_DIVERGES_ABOVE": "5"}
    said = run(
        SEARCH, root, "--trials", "14", "--workers", "2", "--sampler", "random", "--pruner", "median", *QUICK, **slow
    )
    record = the_record(root)
    assert len(finished(record)) == 14
    assert "14/14" in said
    states = {t["number"]: state_of(root / t["run_id"]).state for t in record["trials"]}
    for trial in record["trials"]:
        expected = schema.FAILED if trial["diverged"] else trial["state"]
        assert states[trial["number"]] == expected
        if trial["state"] == schema.DONE:
            assert trial["values"] == [RunDirectory(root / trial["run_id"]).results()["validation"]["knn20_top1"]]  # type: ignore[index]
    pruned = next(t for t in record["trials"] if t["state"] == schema.PRUNED and not t["diverged"])
    directory = RunDirectory(root / pruned["run_id"])
    assert directory.results() is None
    assert 10 <= (directory.status() or {})["step"] < 20  # it ended after its first evaluation
    assert "pruned" in run(VERBS, root, "status", "toy")
    found = run(VERBS, root, "find", f"toy#{pruned['number']}")
    assert found.split()[:4] == [pruned["run_id"], "pruned", f"trial-{pruned['number']}", "seed"]
    assert [f.arm for f in find(root, pruned["run_id"])] == [f"trial-{pruned['number']}"]
    frozen = opened(record_path(root, LABEL)).trials()[pruned["number"]]
    assert frozen.user_attrs["held"]["run_id"] == pruned["run_id"]


def test_ctrl_c_saves_and_the_same_command_goes_on_from_there(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    command = [*SEARCH, "--trials", "5", "--workers", "2", "--pruner", "none", *QUICK]
    first = subprocess.Popen(
        command,
        env=environment(MOCO_RUNS=str(root), STAND_IN_STEP="0.5"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    wait_until(lambda: record_path(root, LABEL).exists() and sum(s > 2 for s in _steps(root)) == 2)
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate()
    assert first.returncode == 130
    assert "0 of 5 trials finished; the same command goes on" in out
    states = [t["state"] for t in the_record(root)["trials"]]
    assert sorted(states) == ["failed", "failed", "queued", "queued"]
    run(SEARCH, root, "--trials", "5", "--workers", "2", "--pruner", "none", *QUICK)
    record = the_record(root)
    assert len(finished(record)) == 5
    again = [t for t in record["trials"] if t.get("source") == "again"]
    for trial in again:  # carried on from where it was saved, every step once
        directory = RunDirectory(root / trial["run_id"])
        assert [line["state"] for line in directory.attempts() if line["event"] == "end"] == ["preempted", "done"]
        steps = [r["step"] for r in directory.records() if "train/loss" in r["values"]]
        assert steps == list(range(1, 21))


def _steps(root: Path) -> list[int]:
    found = (RunDirectory(path.parent).status() for path in root.glob(f"*/{schema.STATUS}"))
    return [int(status.get("step", 0)) for status in found if status]


@pytest.mark.usefixtures("stand_in")
def test_a_warm_start_tells_what_is_finished_and_lies_in_the_space(tmp_path: Path) -> None:
    from experiments.search.definition import plan as plan_search

    base: Config = plan_search(TOY, "digits", ["train.device=cpu"]).base
    inside = replace(base, optim=replace(base.optim, lr=0.05))
    outside = replace(base, optim=replace(base.optim, lr=0.05, momentum=0.5))
    too_far = replace(base, optim=replace(base.optim, lr=20.0))
    open_ = replace(base, optim=replace(base.optim, lr=0.06))
    cells = []
    for config, seed in ((inside, 0), (inside, 3), (outside, 0), (too_far, 0), (open_, 0)):
        cell = make_cell("arm", seed, config)
        create(RunDirectory(tmp_path / cell.run_id), cell.config)
        if config is not open_:
            attempt(tmp_path / cell.run_id)
        from moco.config.plain import to_plain

        cells.append(schema.Cell(arm="arm", seed=seed, run_id=cell.run_id, config=to_plain(cell.config)))
    path = begun(tmp_path, replace(TOY, budget=2))
    record = begin(path, known(path), None, cells)
    warm = [t for t in record["trials"] if t["source"] == "warm start"]
    assert [t["run_id"] for t in warm] == [cells[0]["run_id"], cells[1]["run_id"]]
    assert [t["values"] for t in warm] == [[value(inside)]] * 2
    assert begin(path, known(path), None, cells)["trials"] == record["trials"]  # told once
    assert SearchWorker.on(path).work()
    assert len(finished(known(path))) == 2  # beside the warm ones


def test_confirmation_ranks_by_fresh_seeds_and_a_trial_can_be_pasted(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    small = ("--set", "train.epochs=1", "evaluation.linear_epochs=5", "train.device=cpu", "data.image_size=8")
    label = "toy@digits,train.epochs=1,evaluation.linear_epochs=5,data.image_size=8"
    real = (
        sys.executable,
        "-c",
        "from experiments import main; from tests.support.search_toy import TOY; main(TOY)",
    )
    run(real, root, "--trials", "4", "--workers", "1", *small)
    run(real, root, "--confirm", "2x2", "--yes", *small)
    record = json.loads(next(root.glob("searches/toy@*.json")).read_text())
    assert len(finished(record)) == 4
    manifest = json.loads(next(root.glob("sweeps/toy_confirm@*.json")).read_text())
    assert manifest["seeds"] == [1, 2]  # the search trained at 0
    table = run((sys.executable, "-m", "analysis"), root, "search", "toy", "--table")
    means = {
        arm: sum(_validation(root, c["run_id"]) for c in manifest["cells"] if c["arm"] == arm) / 2
        for arm in manifest["arms"]
        if arm != schema.RANDOM_INIT
    }
    rows = [line.split() for line in table.partition("at fresh seeds")[2].splitlines()[2:]]
    assert {row[1]: float(row[3]) for row in rows} == {
        arm: pytest.approx(mean, abs=0.006) for arm, mean in means.items()
    }
    assert [float(row[3]) for row in rows] == sorted((float(row[3]) for row in rows), reverse=True)
    stays = run(VERBS, root, "adopt", "toy", code=1)  # two seeds are too few for a claim
    assert (
        stays.splitlines()[0]
        == f"# {record['label']}: the base digits stays: fresh seeds tell no trial apart from it as better."
    )
    assert all(line.startswith("# ") for line in stays.splitlines())
    winner = max((arm for arm in means if arm != "base"), key=lambda arm: means[arm])
    said = run(VERBS, root, "adopt", "toy", "--trial", winner.removeprefix("trial-"))
    made: dict[str, Any] = {}
    exec(said, made)
    pasted = made[next(name for name in made if name.startswith("digits_toy"))]()
    trial = next(t for t in record["trials"] if f"trial-{t['number']}" == winner)
    config: Config = from_plain(Config, trial["config"])
    assert run_id(pasted) == run_id(config)
    assert baseline_config("digits") != pasted
    assert label


def _validation(root: Path, run: str) -> float:
    return float((RunDirectory(root / run).results() or {})["validation"]["knn20_top1"])


def test_names_of_trials() -> None:
    assert split_trial("search_moco#12") == ("search_moco", "trial-12")
    assert split_trial("search_moco") is None
    assert os.environ.get("MOCO_SEARCH_STORAGE") is None


def fresh_seeds(root: Path, record: SearchRecord, shifts: dict[str, float], seeds: int = 6) -> None:
    """A confirmation of the two best trials, by hand: each arm is above the base by its shift, give or take a tenth."""
    sweep = confirmation(record, best(record, 2), seeds)
    planned = plan(sweep, from_plain(Config, record["base_config"]), base_name=record["base"])
    write_manifest(root, planned, "python sweeps/toy.py --confirm 2x6")
    arms = [arm for arm in planned.arms if arm.startswith("trial-")]
    assert len(arms) == len(shifts)
    above = dict(zip(arms, shifts.values(), strict=True))
    for cell in planned.cells():
        directory = RunDirectory(root / cell.run_id)
        create(directory, cell.config)
        value = 90 + cell.seed % 3 + above.get(cell.arm, 0.0) + (0.1 if cell.seed % 2 else -0.1) * (cell.arm in above)
        replace_json(directory.path / schema.RESULTS, {"test": {}, "validation": {schema.KNN20: value}})


def adopted(root: Path, *arguments: str) -> tuple[int, str, str]:
    said = subprocess.run(
        [*VERBS, "adopt", "toy", *arguments],
        env=environment(MOCO_RUNS=str(root)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.returncode, said.stdout, said.stderr


def test_the_base_stays_unless_fresh_seeds_say_otherwise(tmp_path: Path) -> None:
    path = begun(tmp_path, replace(TOY, budget=6, sampler="random"))
    assert SearchWorker.on(path, toy).work()
    record = known(path)
    code, out, _ = adopted(tmp_path)
    assert (code, out.splitlines()[1]) == (1, "# Fresh seeds: python sweeps/toy.py --confirm 3x10")
    assert "chosen by one seed" in out
    fresh_seeds(tmp_path, record, {"best": -0.5, "second": 1.0})
    code, out, _ = adopted(tmp_path)
    first, second = best(record, 2)
    assert code == 0
    assert f"trial {second['number']}, run {second['run_id']}" in out
    c = compare(dict.fromkeys(range(6), 0.0), {seed: -1.0 + (-0.1 if seed % 2 else 0.1) for seed in range(6)})
    assert c is not None
    assert f"Better than the base by +1.00 [{c.low:+.2f}, {c.high:+.2f}] (n = 6, p" in out
    made: dict[str, Any] = {}
    exec(out, made)
    assert run_id(made["digits_toy"]()) == run_id(from_plain(Config, second["config"]))
    code, out, told = adopted(tmp_path, "--trial", str(first["number"]))
    assert (code, told) == (0, "warning: fresh seeds do not tell this trial apart from the base as better\n")
    assert "Better than the base by -0.50" in out


def test_fresh_seeds_of_another_search_of_that_name_are_not_taken(tmp_path: Path) -> None:
    path = begun(tmp_path, replace(TOY, budget=4, sampler="random"))
    assert SearchWorker.on(path, toy).work()
    other = begun(tmp_path / "other", replace(TOY, budget=4, sampler="random"), seed=5)
    assert SearchWorker.on(other, toy).work()
    fresh_seeds(tmp_path, known(other), {"best": 3.0, "second": 3.0})
    code, out, _ = adopted(tmp_path)
    assert (code, "chosen by one seed" in out) == (1, True)


def test_adopt_says_what_there_is(tmp_path: Path) -> None:
    said = subprocess.run(
        [*VERBS, "adopt", "toyy"], env=environment(MOCO_RUNS=str(tmp_path)), capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stderr) == (2, f"error: toyy: no such search in {tmp_path}; there is none yet\n")
