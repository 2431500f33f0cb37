"""The runs of a sweep judged by jobs of a real Slurm. Oracles: the same runs judged here, squeue, MLflow's own tables."""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from experiments.evaluate.add import evaluate_run, missing
from experiments.launch.cluster import SEEN_FOLDER
from experiments.launch.snapshot import forget_unused
from experiments.launch.submissions import EvaluationSubmission, may_still_run, one_at_a_time
from experiments.launch.submissions import record_evaluation as record
from experiments.state.state import QUEUE, Queue
from experiments.store import schema
from experiments.store.files import now
from experiments.store.manifests import manifest_path
from slurm.cluster import _phase
from slurm.profiles import load_profile
from tests.support.judged_runs import LABEL, Evaluate, copied, evaluate, finished
from tests.support.slurm_cluster import (
    VERBS,
    cluster,
    nothing_starts,
    queue,
    seen_before,
    slurm,
    until_the_queue_is_empty,
)
from tests.support.stand_in_runs import environment, wait_until

__all__ = ["cluster", "evaluate"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "runs"
    finished(root)
    return root


@pytest.mark.usefixtures("cluster")
def test_jobs_add_what_this_machine_would(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    there, here = copied(made, tmp_path / "there" / "runs"), copied(made, tmp_path / "here" / "runs")
    seen_before(tmp_path / "there" / "runs")
    result = evaluate(tmp_path / "there" / "runs", "judged", "--protocol", "retrieval", "--cluster", "dev")
    assert "submitted 2 runs to dev as job " in result.out
    until_the_queue_is_empty()
    for theirs, ours in zip(there, here, strict=True):
        evaluate_run(ours.path, ["retrieval"])
        assert (theirs.results() or {})["test"] == (ours.results() or {})["test"]
        assert "retrieval_map" in (theirs.results() or {})["test"]
        assert theirs.records()[-1]["judged"]["job"]
    again = evaluate(tmp_path / "there" / "runs", "judged", "--protocol", "retrieval", "--cluster", "dev")
    assert "2 of 2 finished runs have retrieval already" in again.out
    assert "nothing to submit" in again.out
    assert slurm("squeue", "--noheader") == ""


def test_a_profile_of_several_processes_is_refused_in_one_line(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    assert load_profile("slurm_ddp").processes > 1
    runs = copied(made, tmp_path / "runs")
    before = [(run.path / schema.JOURNAL).read_bytes() for run in runs]
    result = evaluate(tmp_path / "runs", "judged", "--protocol", "retrieval", "--cluster", "slurm_ddp", code=2)
    (line,) = result.err.splitlines()
    assert line.startswith("error: profile slurm_ddp: ")
    assert line.endswith("choose a profile with tasks_per_node = 1 and nodes = 1")
    assert [(run.path / schema.JOURNAL).read_bytes() for run in runs] == before


def job_of(result: str) -> str:
    found = re.search(r"submitted \d+ runs to \w+ as job (\d+);", result)
    assert found, result
    return found[1]


def as_in_a_new_process(patch: pytest.MonkeyPatch) -> None:
    """An answer of the queue is used again for a second."""
    patch.setattr(QUEUE, "_answers", {})


def arrays() -> list[str]:
    return sorted({line.partition(" ")[0].partition("_")[0] for line in queue() if "PENDING" in line}, key=int)


@pytest.mark.usefixtures("cluster")
def test_what_a_waiting_job_will_bring_is_not_submitted_again(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    root = tmp_path / "runs"
    runs, command = copied(made, root), ("judged", "--cluster", "dev", "--max-parallel", "2", "--protocol")
    seen_before(root)
    with nothing_starts():
        first = job_of(evaluate(root, *command, "retrieval").out)
        again = evaluate(root, *command, "retrieval").out
        assert again.splitlines()[-2:] == [
            f"2 runs wait in job {first} already (retrieval); scancel {first} ends it",
            "nothing to submit",
        ]
        assert (arrays(), len(queue())) == ([first], 2)
        slurm("scancel", first)
        as_in_a_new_process(evaluate.patch)
        second = job_of(evaluate(root, *command, "retrieval").out)
        assert arrays() == [second] != [first]
        result = evaluate(root, *command, "retrieval", "few_label_10pct").out
        third = job_of(result)
        assert f"2 runs wait in job {second} already (retrieval); scancel {second} ends it" in result
        assert arrays() == [second, third]
        lines = [json.loads(line) for line in (root / "slurm/evaluate" / f"{LABEL}.jsonl").read_text().splitlines()]
        assert [line["protocols"] for line in lines] == [["retrieval"], ["retrieval"], ["few_label_10pct"]]
        assert lines[-1]["jobs"] == {run.run_id: f"{third}_{n}" for n, run in enumerate(runs)}
        both = evaluate(root, *command, "few_label_10pct", "retrieval").out
        assert "nothing to submit" in both
        assert f"2 runs wait in job {third} already (few_label_10pct)" in both
    until_the_queue_is_empty()
    assert [missing(run, ["retrieval", "few_label_10pct"]) for run in runs] == [[], []]
    assert [len([r for r in run.records() if "judged" in r]) for run in runs] == [2, 2]


def has_open(process: subprocess.Popen[Any], file: Path) -> bool:
    with suppress(FileNotFoundError):  # one that it closed meanwhile, or its end
        return any(fd.readlink() == file for fd in Path(f"/proc/{process.pid}/fd").iterdir())
    return False


@pytest.mark.usefixtures("cluster")
def test_of_two_commands_at_once_the_second_sees_what_the_first_has_submitted(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    runs, lock = copied(made, root), root / "slurm/evaluate/.lock"
    seen_before(root)
    command = [*VERBS, "evaluate", "judged", "--protocol", "retrieval", "--cluster", "dev"]
    with nothing_starts():
        with one_at_a_time(root):
            second = subprocess.Popen(command, env=environment(MOCO_RUNS=str(root)), stdout=subprocess.PIPE, text=True)
            wait_until(lambda: has_open(second, lock) or second.poll() is not None)
            job = slurm("sbatch", "--parsable", "--partition=dev", "--output=/dev/null", "--wrap=true")
            jobs = {run.run_id: job for run in runs}
            record(root, LABEL, profile="dev", cluster="slurm", code="x", protocols=["retrieval"], jobs=jobs)
        result, _ = second.communicate(timeout=120)
        assert result.splitlines()[-2:] == [
            f"2 runs wait in job {job} already (retrieval); scancel {job} ends it",
            "nothing to submit",
        ]
        assert (second.returncode, arrays()) == (0, [job])
        slurm("scancel", job)


@pytest.mark.usefixtures("cluster")
def test_a_submission_that_cannot_be_remembered_is_withdrawn(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    root = tmp_path / "runs"
    copied(made, root)
    seen_before(root)
    (root / "slurm/evaluate").mkdir()
    (root / "slurm/evaluate" / f"{LABEL}.jsonl").symlink_to(tmp_path / "not there" / "file")
    with nothing_starts():
        with pytest.raises(FileNotFoundError):
            evaluate(root, "judged", "--protocol", "retrieval", "--cluster", "dev")
        assert queue() == []
    assert sorted(path.name for path in (root / "slurm").iterdir()) == ["evaluate", SEEN_FOLDER]


@pytest.mark.usefixtures("cluster")
def test_the_code_of_a_waiting_evaluation_stays(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    root = tmp_path / "runs"
    copied(made, root)
    seen_before(root)
    with nothing_starts():
        job = job_of(evaluate(root, "judged", "--protocol", "retrieval", "--cluster", "dev").out)
        (code,) = (root / schema.CODE_FOLDER).iterdir()
        os.utime(code, (0, 0))
        assert forget_unused(root) == []
        assert (code / "experiments/evaluate/cluster.py").exists()
        slurm("scancel", job)
        as_in_a_new_process(evaluate.patch)
        assert forget_unused(root) == [code.name]
        assert not code.exists()


WORDS = {"1_0": "PENDING", "1_1": "RUNNING", "1_2": "COMPLETED", "1_3": "CANCELLED", "2": "STAGE_OUT"}


@pytest.mark.parametrize(
    ("job", "submitted_at", "answer", "is_live"),
    [
        ("1_0", "2026-01-01T00:00:00.000+00:00", WORDS, True),
        ("1_1", "2026-01-01T00:00:00.000+00:00", WORDS, True),
        ("1_2", None, WORDS, False),
        ("1_3", None, WORDS, False),
        ("2", "2026-01-01T00:00:00.000+00:00", WORDS, True),  # a word of this site's own
        ("3", "2026-01-01T00:00:00.000+00:00", WORDS, False),
        ("3", None, WORDS, True),  # submitted just now: the look at the queue may be older
        ("3", "2026-01-01T00:00:00.000+00:00", None, True),  # nobody answers
    ],
)
def test_a_job_is_live_unless_slurm_says_that_it_is_not(
    job: str, submitted_at: str | None, answer: dict[str, str] | None, is_live: bool
) -> None:
    phases = answer and {job: (_phase(state), state) for job, state in answer.items()}
    line = EvaluationSubmission(time=submitted_at or now(), user="ada", profile="dev", code="", protocols=[], jobs={})
    assert may_still_run(job, line, Queue(lambda cluster, owner: phases)) is is_live


def mine(tmp_path: Path, evaluate: Evaluate, text: str) -> None:
    """A profile of the user's own."""
    (tmp_path / "config/moco/profiles").mkdir(parents=True)
    (tmp_path / "config/moco/profiles/mine.toml").write_text(f'partition = "dev"\ncpus = 1\nmemory = "1G"\n{text}\n')
    evaluate.patch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.mark.usefixtures("cluster")
def test_runs_at_a_time_are_jobs_however_many_the_profile_packs(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    root = tmp_path / "runs"
    copied(made, root)
    seen_before(root)
    mine(tmp_path, evaluate, "pack = 4")
    with nothing_starts():
        job = job_of(
            evaluate(root, "judged", "--protocol", "retrieval", "--cluster", "mine", "--max-parallel", "2").out
        )
        assert [line.split()[0] for line in queue()] == [f"{job}_0", f"{job}_1"]
        assert "ArrayTaskThrottle=2" in slurm("scontrol", "show", "job", job)
        slurm("scancel", job)


@pytest.mark.usefixtures("cluster")
def test_what_is_refused_leaves_no_job_that_looks(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    root = tmp_path / "runs"
    copied(made, root)
    evaluate.patch.setenv("MOCO_TRACKING", "perhaps")
    with nothing_starts():
        result = evaluate(root, "judged", "--protocol", "retrieval", "--cluster", "dev", code=2)
        assert result.err == "error: MOCO_TRACKING = perhaps: must be on or off\n"
        assert queue() == []


@pytest.mark.usefixtures("cluster")
def test_jobs_bring_what_they_add_to_the_mlflow_of_the_profile(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    """Of a sweep that has ended: whoever looks at it sees it once."""
    root, store = tmp_path / "runs", tmp_path / "mlflow.db"
    runs, protocols = copied(made, root), ["retrieval", "linear_paper"]
    plan = json.loads(manifest_path(root, LABEL).read_text())
    plan["cells"] = [cell for cell in plan["cells"] if cell["arm"] != schema.RANDOM_INIT]
    manifest_path(root, LABEL).write_text(json.dumps(plan))
    seen_before(root)
    mine(tmp_path, evaluate, f'tracking = "sqlite:///{store}"')
    evaluate.patch.setenv("MOCO_TRACKING", "on")
    evaluate.patch.setenv("MLFLOW_TRACKING_URI", "")
    evaluate(root, "judged", "--cluster", "mine", "--max-parallel", "2", "--protocol", *protocols)
    until_the_queue_is_empty(300.0)
    assert [missing(run, protocols) for run in runs] == [[], []]
    query = "select distinct key, value from metrics where key = ?"
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        for headline in ("retrieval_map", "linear_paper_top1"):
            has = {value for _, value in connection.execute(query, (f"test/{headline}",))}
            assert has == {(run.results() or {})["test"][headline] for run in runs}


WORK = "import sys; from experiments.evaluate.cluster import work; work(sys.argv[1])"


def test_a_job_waits_for_one_that_judges_the_same_run_by_other_protocols(made: Path, tmp_path: Path) -> None:
    run, _ = copied(made, tmp_path / "runs")
    share, lock = tmp_path / "share", run.path / schema.JUDGING
    share.write_text(f"few_label_10pct\n{run.path}\n")
    with lock.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        element = subprocess.Popen([sys.executable, "-c", WORK, str(share)], env=environment())
        wait_until(lambda: has_open(element, lock) or element.poll() is not None)
        assert missing(run, ["few_label_10pct"]) == ["few_label_10pct"]
    assert element.wait() == 0
    assert missing(run, ["few_label_10pct"]) == []
