"""`evaluate` adds readouts to finished runs, once, whatever is killed. Oracles: scikit-learn on the run's features, bytes."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import normalize

from analysis.ablation import ablation_table
from analysis.frame import load_sweep
from experiments.evaluate import add
from experiments.evaluate.add import ProtocolReadouts, evaluate_run, headlines, known, missing
from experiments.evaluate.pool import EvaluationPool, Outcome
from experiments.evaluate.worker import report
from experiments.plan.configs import config_of
from experiments.run.machine import Slot
from experiments.state.state import state_of
from experiments.store import metrics, schema
from experiments.store.run import RunDirectory
from experiments.store.states import is_alive
from experiments.tracking.mirror import Sent, mirror_of
from moco import checkpoint
from moco.config import Evaluation
from moco.data import load
from moco.evaluation.features import Features, extract_all
from moco.evaluation.protocols import PROTOCOLS, Metric, Protocol
from moco.evaluation.scores import score
from moco.model import build_query
from tests.support.judged_runs import LABEL, Evaluate, base, copied, evaluate, finished, planned
from tests.support.stand_in_judge import FINE, judge, judge_with_pid
from tests.support.stand_in_runs import ROOT, listening, wait_until

__all__ = ["evaluate"]

SPAWN = multiprocessing.get_context("spawn")
SLOT = Slot(0, {"OMP_NUM_THREADS": "1"})
RETRIEVAL = ["retrieval_map", "retrieval_recall1", "retrieval_recall5", "retrieval_recall10"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "runs"
    finished(root)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def journal(run: RunDirectory) -> bytes:
    return (run.path / schema.JOURNAL).read_bytes()


def mean_average_precision(run: RunDirectory) -> float:
    """Of the saved weights, by another library."""
    saved, config = checkpoint.load(run.path / schema.ENCODER), config_of(run)
    query = build_query(config, 10)
    query.encoder.load_state_dict(saved["encoder"])
    features = extract_all(query.encoder, load(config.data, print), config.augment, "cpu")
    queries_QD, gallery_ND = (
        normalize(split.features_ND.double().numpy()) for split in (features.test, features.train)
    )
    labels_N = features.train.labels_N
    precisions = [
        average_precision_score((labels_N == label).numpy(), gallery_ND @ query_D)
        for query_D, label in zip(queries_QD, features.test.labels_N, strict=True)
    ]
    return 100 * sum(precisions) / len(precisions)


def test_a_sweep_gains_a_readout_once_and_the_tables_have_it(made: Path, root: Path, evaluate: Evaluate) -> None:
    runs = copied(made, root)
    before = [journal(run) for run in runs]
    said = evaluate(root, "judged", "--protocol", "retrieval", "--max-parallel", "1")
    assert "left out, not done: 1 missing" in said.out
    assert "1/2  K=128 seed 0  retrieval_map " in said.out
    assert "2/2  K=256 seed 0  retrieval_map " in said.out
    for run, old in zip(runs, before, strict=True):
        assert journal(run).startswith(old)
        (new,) = journal(run)[len(old) :].splitlines()
        record, results = json.loads(new), run.results() or {}
        assert [name for name in record["values"] if name.startswith("test/")] == [f"test/{name}" for name in RETRIEVAL]
        assert (record["step"], record["judged"]["protocols"]) == (0, ["retrieval"])
        assert results["test"]["retrieval_map"] == record["values"]["test/retrieval_map"]
        assert results["test"]["retrieval_map"] == pytest.approx(mean_average_precision(run), abs=1e-3)
        assert "judged by retrieval" in (run.path / schema.LOG).read_text()
        assert state_of(run.path).state == schema.DONE
    table = ablation_table(*load_sweep(root, "judged"), metric="retrieval_map")
    means = {row.arm: row.readouts["retrieval_map"] for row in table.rows}
    for run, arm in zip(runs, ("K=128", "K=256"), strict=True):
        summary = means[arm]
        assert summary is not None
        assert (summary.n, summary.mean) == (1, (run.results() or {})["test"]["retrieval_map"])
    assert means[schema.RANDOM_INIT] is None
    assert "retrieval mAP" in said.out
    after = [journal(run) for run in runs]
    again = evaluate(root, LABEL, "--protocol", "retrieval")
    assert "2 of 2 finished runs have retrieval already" in again.out
    assert [journal(run) for run in runs] == after


def test_a_run_is_judged_by_what_it_lacks_and_a_file_is_only_read(made: Path, root: Path, evaluate: Evaluate) -> None:
    run, other = copied(made, root)
    said = evaluate(root, str(run.path), "--protocol", "few_label", "few_label_10pct")
    results = run.results() or {}
    assert f"added to {run.path}" in said.out
    for name in ("few_label_top1", "few_label_10pct_top1"):
        assert f"{results['test'][name]:.4g}" in said.out
    before = journal(run), (run.path / schema.RESULTS).read_bytes(), sorted(other.path.iterdir())
    again = evaluate(root, run.run_id, "--protocol", "few_label_10pct")
    assert "the run has them already" in again.out
    printed = evaluate(root, str(other.path / schema.ENCODER), "--protocol", "knn", "retrieval")
    knn = (other.results() or {})["test"]["knn20_top1"]
    assert f"test/knn20_top1                        {knn:.4g}" in printed.out
    elsewhere = evaluate(
        root, run.run_id, "--protocol", "retrieval", "--baseline", "digits4", "--set", "data.image_size=16"
    )
    assert "test/retrieval_map" in elsewhere.out
    assert (journal(run), (run.path / schema.RESULTS).read_bytes(), sorted(other.path.iterdir())) == before


@pytest.fixture
def run(made: Path, root: Path) -> RunDirectory:
    return copied(made, root)[0]


def test_protocols_that_are_given_one_flag_each_are_all_meant(run: RunDirectory, evaluate: Evaluate) -> None:
    file, root = str(run.path / schema.ENCODER), run.path.parent
    both = evaluate(root, file, "--protocol", "knn", "--protocol", "retrieval").out
    assert both == evaluate(root, file, "--protocol", "knn", "retrieval").out
    assert [name in both for name in ("test/knn20_top1", "test/retrieval_map")] == [True, True]


def test_of_an_interrupted_file_what_was_judged_has_been_printed(run: RunDirectory) -> None:
    before = sorted(run.path.iterdir())
    command = (sys.executable, "-m", "experiments", "evaluate", str(run.path / schema.ENCODER), "--protocol")
    with subprocess.Popen(
        [*command, "knn", "linear_paper"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listening,
    ) as process:
        try:
            assert process.stdout is not None
            printed = [process.stdout.readline().split() for _ in range(4)]
        finally:
            process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=300)
    test = (run.results() or {})["test"]
    assert printed[2:] == [[f"test/{name}", f"{test[name]:.4g}"] for name in ("knn20_top1", "knn200_top1")]
    assert (process.returncode, told) == (130, "")
    assert errors.splitlines()[-1] == "interrupted: of a file nothing is kept but what is printed above"
    assert sorted(run.path.iterdir()) == before


def cannot(features: Features, evaluation: Evaluation, seed: int) -> Iterator[tuple[str, float | None]]:
    raise ValueError("cannot: there is nothing to judge it by")
    yield


@pytest.fixture
def readouts_forgotten() -> Iterator[None]:
    """What a test taught the store is unknown to the next."""
    known = [metrics._RECORDS[key] for key in metrics.READOUTS]
    yield
    metrics.relearn(known, dict(metrics.PROTOCOLS))


@pytest.mark.usefixtures("readouts_forgotten")
def test_what_a_run_had_gained_before_an_error_is_said_and_brought_to_mlflow(
    run: RunDirectory, evaluate: Evaluate
) -> None:
    evaluate.patch.setitem(PROTOCOLS, "cannot", Protocol(cannot, (Metric("cannot_top1", "cannot", "never"),), "never"))
    evaluate.patch.setenv("MOCO_TRACKING", "on")
    evaluate.patch.setenv("MLFLOW_TRACKING_URI", "")
    said = evaluate(run.path.parent, run.run_id, "--protocol", "retrieval", "cannot", code=1)
    value = (run.results() or {})["test"]["retrieval_map"]
    assert f"{value:.4g}" in next(line for line in said.out.splitlines() if line.startswith("test/retrieval_map "))
    assert f"added to {run.path}\n" in said.out
    assert said.err.splitlines()[-1] == "error: cannot: there is nothing to judge it by"
    with closing(sqlite3.connect(run.path.parent / schema.MLFLOW_DATABASE)) as connection:
        assert (value,) in connection.execute("select value from metrics where key = 'test/retrieval_map'").fetchall()
    again = evaluate(run.path.parent, run.run_id, "--protocol", "cannot", code=2)
    assert (again.out, again.err) == ("", "error: cannot: there is nothing to judge it by\n")


def judgement(**values: float) -> ProtocolReadouts:
    return ProtocolReadouts({f"test/{name}": value for name, value in values.items()}, {}, 0.5)


def test_added_readouts_bring_their_hits_beside_those_of_training_and_a_damaged_file_harms_none(
    run: RunDirectory,
) -> None:
    trained = run.hits()
    assert set(trained) == {"linear_top1", "knn20_top1", "knn200_top1"}
    top1 = score(torch.eye(3), torch.tensor([0, 1, 1])).top1
    assert top1 is not None
    add.add_readouts(run, judgement(linear_v3_top1=top1), ["linear_v3"], add._stamp(run))
    assert run.hits() == {**trained, "linear_v3_top1": {"images": 3, "labels": top1.labels, "bits": "wA=="}}
    (run.path / schema.HITS).write_text('{"linear_top1": ')
    with pytest.raises(ValueError, match=r"hits\.json: damaged, not JSON"):
        run.hits()
    add.add_readouts(run, judgement(linear_paper_top1=top1), ["linear_paper"], add._stamp(run))
    assert set(run.hits()) == {"linear_paper_top1"}
    assert state_of(run.path).state == schema.DONE


def test_a_kill_between_journal_and_results_is_made_good_without_judging_again(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(add, "replace_json", killed)
        with pytest.raises(KeyboardInterrupt):
            add.add_readouts(run, judgement(retrieval_map=71.5), ["retrieval"], add._stamp(run))
    assert state_of(run.path).state == schema.DONE
    assert "retrieval_map" not in (run.results() or {})["test"]
    assert known(run)["test/retrieval_map"] == 71.5
    before = journal(run)
    assert evaluate_run(run.path, ["retrieval"]) == {}
    assert ((run.results() or {})["test"]["retrieval_map"], journal(run)) == (71.5, before)


def test_a_torn_record_is_cut_off_and_the_next_judgement_is_whole(run: RunDirectory) -> None:
    before = journal(run)
    with (run.path / schema.JOURNAL).open("ab") as file:
        file.write(b'{"step":0,"epoch":0.0,"time":1.0,"values":{"test/retrieval_m')
    assert missing(run, ["retrieval"]) == ["retrieval"]
    new = evaluate_run(run.path, ["retrieval"])
    assert journal(run).startswith(before)
    (line,) = journal(run)[len(before) :].splitlines()
    assert json.loads(line)["values"]["test/retrieval_map"] == new["test/retrieval_map"]


def test_of_a_judge_killed_at_work_stays_what_it_had_added_and_the_run_is_done(run: RunDirectory) -> None:
    before, trained = journal(run), dict((run.results() or {})["test"])
    process = SPAWN.Process(target=report, args=(run.path, ["few_label_10pct", "linear_paper"]))
    process.start()
    try:
        wait_until(lambda: missing(run, ["few_label_10pct"]) == [], seconds=300)
        assert report(run.path, ["linear_paper"])["error"] == f"{run.path}: another process judges it"
    finally:
        process.kill()
        process.join()
    assert not is_being_judged(run)
    assert state_of(run.path).state == schema.DONE
    assert evaluate_run(run.path, ["few_label_10pct"]) == {}
    assert (journal(run).startswith(before), len(journal(run)[len(before) :].splitlines())) == (True, 1)
    assert missing(run, ["few_label_10pct", "linear_paper"]) == ["linear_paper"]
    assert {**trained, "few_label_10pct_top1": known(run)["test/few_label_10pct_top1"]} == (run.results() or {})["test"]


def is_being_judged(run: RunDirectory) -> bool:
    try:
        with (run.path / schema.JUDGING).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def test_curves_of_a_readout_that_trains_are_added_as_the_trainer_writes_them(run: RunDirectory) -> None:
    by_epoch = {epoch: {"validation/finetune_top1": 10.0 * epoch} for epoch in (1, 2)}
    judged = ProtocolReadouts({"test/finetune_top1": 33.0, "test/retrieval_recall1": None}, by_epoch, 0.5)
    add.add_readouts(run, judged, ["finetune"], add._stamp(run))
    *_, first, second, last = run.records()
    assert [(r["step"], r["epoch"], r["values"]) for r in (first, second, last)] == [
        (1, 1, {"validation/finetune_top1": 10.0}),
        (2, 2, {"validation/finetune_top1": 20.0}),
        (0, 0.0, {"test/finetune_top1": 33.0}),
    ]
    results = run.results() or {}
    assert (results["validation"]["finetune_top1"], results["test"]["finetune_top1"]) == (20.0, 33.0)
    before = journal(run)
    add.add_readouts(run, judged, ["finetune"], add._stamp(run))  # of a process that came second: nothing is said twice
    assert journal(run) == before


def test_a_run_trained_anew_meanwhile_gains_nothing(run: RunDirectory) -> None:
    stamp, before = add._stamp(run), journal(run)
    os.utime(run.path / schema.ENCODER, ns=(1, 1))
    with pytest.raises(ValueError, match=r"was trained anew while it was judged; nothing was added$"):
        add.add_readouts(run, judgement(retrieval_map=1.0), ["retrieval"], stamp)
    assert journal(run) == before


def test_what_mlflow_got_before_stays_the_beginning_of_what_it_gets(run: RunDirectory) -> None:
    """So a sync sends the new values alone, and replaces no run."""
    manifest = planned(run.path.parent)
    (cell,) = (c for c in manifest["cells"] if c["run_id"] == run.run_id)
    before = mirror_of(run.path.parent, manifest, cell)
    evaluate_run(run.path, ["retrieval"])
    after = mirror_of(run.path.parent, manifest, cell)
    assert before is not None
    assert after is not None
    sent = Sent.up_to(before.points, len(before.points))
    assert sent.begins(after.points)
    assert [point.key for point in after.points[len(before.points) :]] == [f"test/{name}" for name in RETRIEVAL]
    assert (after.status, after.end_ms) == (before.status, before.end_ms)
    assert after.last("test/retrieval_map") == (run.results() or {})["test"]["retrieval_map"]


def test_a_process_that_dies_takes_down_the_run_it_was_at_and_no_other() -> None:
    paths = [Path("/x/a"), Path("/x/b"), Path("/x/c"), Path("/x/d")]
    assert list(EvaluationPool([SLOT], judge, (), preload=()).outcomes(paths)) == [
        Outcome("a", FINE),
        Outcome("b", None, "its process was killed by SIGKILL (out of memory?)"),
        Outcome("c", None, "its process ended with exit code 3: no room left"),
        Outcome("d", FINE),
    ]


def test_a_process_takes_run_after_run_and_there_is_one_for_each_slot() -> None:
    judges = EvaluationPool([SLOT, replace(SLOT, number=1)], judge_with_pid, (), preload=())
    outcomes = list(judges.outcomes([Path(f"/x/{n}") for n in range(8)]))
    assert {one.run_id for one in outcomes} == {str(n) for n in range(8)}
    pids = {one.values["pid"] for one in outcomes if one.values}
    assert len(pids) == 2
    assert not any(is_alive(int(pid or 0), None) for pid in pids)


@pytest.mark.parametrize("lacking", ["file descriptors", "a folder for the log"])
def test_a_process_that_cannot_be_started_is_the_outcome_of_every_run(
    lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a thread of the test's own: an outcome that never comes would be waited for forever."""
    if lacking != "file descriptors":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    judges, outcomes = EvaluationPool([SLOT], judge, (), preload=()), list[Outcome]()
    waiting = threading.Thread(target=lambda: outcomes.extend(judges.outcomes([Path("/x/a"), Path("/x/d")])))
    with no_descriptors() if lacking == "file descriptors" else nullcontext():
        waiting.start()
        waiting.join(60)
    assert not waiting.is_alive()
    assert [(one.run_id, one.values) for one in outcomes] == [("a", None), ("d", None)]
    reason = (
        "[Errno 24] Too many open files" if lacking == "file descriptors" else "[Errno 2] No such file or directory"
    )
    for one in outcomes:
        assert str(one.error).startswith(f"no process could be started for it: {reason}")


@contextmanager
def no_descriptors() -> Iterator[None]:
    """None is left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, hard))
    with ExitStack() as opened:
        with suppress(OSError):
            while True:
                opened.enter_context(Path(os.devnull).open())
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_interrupt_ends_the_processes_and_the_same_command_goes_on(made: Path, root: Path) -> None:
    runs = copied(made, root)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MOCO_RUNS": str(root), "MOCO_TRACKING": "off"}
    command = [
        sys.executable,
        "-m",
        "experiments",
        "evaluate",
        "judged",
        "--max-parallel",
        "1",
        "--protocol",
        "linear_paper",
    ]
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listening,
    ) as process:
        try:
            wait_until(lambda: any(is_being_judged(run) for run in runs), seconds=300)
        finally:
            process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (130, "")
    assert "interrupted: 0 of 2 runs judged; the same command goes on from there" in told
    assert not any(is_being_judged(run) for run in runs)
    assert [state_of(run.path).state for run in runs] == [schema.DONE] * 2
    assert all(missing(run, ["linear_paper"]) for run in runs)


def test_one_that_cannot_be_judged_is_named_and_the_others_are(made: Path, root: Path, evaluate: Evaluate) -> None:
    broken, fine = copied(made, root)
    (broken.path / schema.ENCODER).write_bytes(b"PK\x03\x04 cut off")
    said = evaluate(root, "judged", "--protocol", "retrieval", "--max-parallel", "1", code=1)
    assert "1 of 2 runs could not be judged:\n  K=128 seed 0: " in said.out
    assert "not a readable checkpoint" in said.out
    assert "retrieval_map" in (fine.results() or {})["test"]


def half_of(path: Path) -> str:
    saved = checkpoint.load(path)
    kept = list(saved["encoder"])[::2]
    saved["encoder"] = {name: saved["encoder"][name] for name in kept}
    checkpoint.save(saved, path)
    return "missing (backbone."


def other_architecture(path: Path) -> str:
    saved = checkpoint.load(path)
    config = replace(base(), encoder=replace(base().encoder, width=8))  # type: ignore[type-var]
    saved["encoder"] = build_query(config, 10).encoder.state_dict()
    checkpoint.save(saved, path)
    return "of another shape (backbone.0.weight"


def cut(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:1000])
    return "not a readable checkpoint"


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def with_code(path: Path) -> str:
    torch.save({"config": Code(), "encoder": {}, "head": {}}, path)
    return "it holds exec, which is code"


@pytest.mark.parametrize("damage", [half_of, other_architecture, cut, with_code])
def test_a_file_that_is_not_what_it_should_be_is_one_line_and_exit_2(
    damage: Callable[[Path], str], run: RunDirectory, evaluate: Evaluate
) -> None:
    file = run.path / schema.ENCODER
    words = damage(file)
    said = evaluate(run.path.parent, str(file), "--protocol", "knn", code=2)
    (line,) = said.err.splitlines()
    assert line.startswith(f"error: {file}: ")
    assert words in line
    assert said.out == ""


def test_a_classifier_of_other_classes_is_one_line(run: RunDirectory, evaluate: Evaluate) -> None:
    saved = checkpoint.load(run.path / schema.ENCODER)
    saved["config"]["head"] = {"kind": "classifier"}
    saved["config"]["loss"] = {"kind": "crossentropy"}
    saved["config"]["key_encoder"] = saved["config"]["negatives"] = {"kind": "absent"}
    saved["head"] = {"weight": torch.zeros(4, 64), "bias": torch.zeros(4)}
    file = run.path / "supervised.pt"
    checkpoint.save(saved, file)
    said = evaluate(run.path.parent, str(file), "--protocol", "knn", code=2)
    assert said.err == (
        f"error: {file}: its classifier knows 4 classes, the images have 10: not the data it was trained on; "
        "add --baseline NAME to judge its encoder on that baseline's images\n"
    )
    evaluate(run.path.parent, str(file), "--protocol", "knn", "--baseline", "digits")


WRONG = [
    (
        ["judged", "--protocol", "retreival"],
        "protocol retreival: there is no such protocol, the choices are linear, knn,",
    ),
    (["judged", "--set", "train.epochs=1"], "--set: changes what --baseline NAME says, and there is none"),
    (["judged", "--baseline", "digits"], "--baseline digits: gives images to one file or run; judged names 3"),
    (["judged", "--max-parallel", "0"], "--max-parallel 0: must be at least 1"),
    (["judgd"], "judgd: no sweep, arm, run, job or MLflow run of that name in "),
    (["random init"], "the run is missing; only a finished run can be judged"),
    (["judged", "--cluster", "dv"], "dv"),
    (["K=128", "--cluster", "dev"], "--cluster dev: for the runs of a sweep; K=128 is one"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_bad_input_is_one_line_exit_2_and_nothing_is_begun(
    arguments: list[str], words: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.__main__ import main

    monkeypatch.setenv("MOCO_RUNS", str(made))
    assert main(["evaluate", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_headlines_are_in_the_order_that_was_asked_for() -> None:
    assert headlines(["retrieval", "linear"]) == [*RETRIEVAL, schema.LINEAR]
