"""The UI as a user meets it: one command, two links, a real server (what they open: `test_tracking_server`)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from experiments.store import schema
from experiments.store.mlflow import COMPARED, QUIET
from experiments.tracking.serve import free_port
from experiments.tracking.store import open_store
from experiments.tracking.sync import sync
from experiments.tracking.ui import links
from tests.support import tracking_runs as runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

# mlflow's own use of an older SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
RUNS = {"K=256": ["a1", "a2"], "K=1024": ["b1", "b2"], schema.RANDOM_INIT: ["c1"]}


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


def parts_of(url: str) -> tuple[str, dict[str, list[str]]]:
    """The UI's own page and its arguments, which stand behind the #."""
    path, _, arguments = urlsplit(url).fragment.partition("?")
    return path, parse_qs(arguments, strict_parsing=True)


def test_links_say_what_the_ui_reads() -> None:
    made = links("http://127.0.0.1:5000/", "7", RUNS, "test/knn20_top1")
    path, arguments = parts_of(made.charts)
    expected = {
        "workflowType": ["machine_learning"],
        "compareRunsMode": ["CHART"],
        "orderByKey": ["metrics.`test/knn20_top1`"],
        "orderByAsc": ["false"],
    }
    assert made.charts.startswith("http://127.0.0.1:5000/#/")
    assert (path, arguments) == ("/experiments/7/runs", expected)
    assert parts_of(made.table) == (
        "/experiments/7/runs",
        {"workflowType": ["machine_learning"], "viewStateShareKey": ["moco"]},
    )
    path, arguments = parts_of(made.compare)
    assert (path, arguments["workflowType"]) == ("/compare-runs", ["machine_learning"])
    assert json.loads(arguments["runs"][0]) == ["a1", "a2", "b1", "b2"]
    assert json.loads(arguments["experiments"][0]) == ["7"]
    assert parts_of(made.arms["K=256"])[1] == expected | {"searchFilter": ['params.arm = "K=256"']}


def test_the_compare_page_of_a_large_sweep_has_every_arm_in_few_runs() -> None:
    many = {f"K={i}": [f"{i}-{seed}" for seed in range(30)] for i in range(20)}
    compared = json.loads(parts_of(links("http://h", "1", many).compare)[1]["runs"][0])
    assert len(compared) <= COMPARED
    assert {run.partition("-")[0] for run in compared} == {str(i) for i in range(20)}


def test_a_port_that_is_taken_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port
    assert free_port(port) == port


@contextmanager
def served(root: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    code = "import sys; from pathlib import Path; from experiments.tracking.ui import serve_ui"
    code += "; serve_ui(Path(sys.argv[1]), 'queue_size', int(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(root), str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as ui:
        try:
            yield ui
        except BaseException:
            ui.terminate()
            raise


def lines_until(ui: subprocess.Popen[str], last: str) -> list[str]:
    assert ui.stdout is not None
    lines: list[str] = []
    for line in ui.stdout:
        lines.append(line.rstrip())
        if last in line:
            break
    return lines


def processes_of(root: Path) -> list[str]:
    """Command lines of all processes that name this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_text().replace("\0", " ")
        except OSError:
            continue
        if str(root) in command and process.parent.name != str(os.getpid()):
            found.append(command)
    return found


def test_the_ui_prints_its_links_takes_another_client_and_goes_without_a_trace(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    for place in (root, elsewhere):
        for i, cell in enumerate(runs.planned(place)["cells"]):
            runs.finish(place, cell, top1=90.0 + i)
    shutil.copy(runs.fresh_store(tmp_path_factory.getbasetemp()), root / schema.MLFLOW_DATABASE)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with served(root, port) as ui:
            lines = lines_until(ui, "Ctrl-C")
            told = "\n".join(lines)
            assert f"port {port} is taken, using" in told
            charts, compare = (re.findall(rf"{name} +(http\S+)", told)[0] for name in ("charts", "compare"))
            assert len(json.loads(parts_of(compare)[1]["runs"][0])) == 4

            # The same server as a team's: another machine's runs come over HTTP, and are those of the embedded store.
            monkeypatch.setenv("MLFLOW_TRACKING_URI", charts.partition("/#")[0])
            mine = shown_by_client(root)
            delete_everything(root)
            assert sync(elsewhere).warnings == ()
            assert shown_by_client(elsewhere) == mine
            assert sync(elsewhere).runs == 0

            os.kill(ui.pid, signal.SIGINT)
            assert ui.stdout is not None
            rest = ui.stdout.read()
            assert ui.wait(timeout=60) == 0
            assert rest.split() == ["stopped"]
            assert processes_of(root) == []


def shown_by_client(root: Path) -> dict[str, object]:
    """What the server tells of each run, without ids and the folder's name."""
    client = open_store(root)
    return {
        run.info.run_name: (
            (run.info.status, run.info.start_time, run.info.end_time, run.data.params, run.data.metrics),
            {
                k: v
                for k, v in run.data.tags.items()
                if k
                not in (
                    "mlflow.parentRunId",
                    "moco.run_dir",
                    "moco.store",
                    "moco.files",
                    "moco.model",
                    "mlflow.note.content",
                )
            },
            [i.dataset.digest for i in run.inputs.dataset_inputs] if run.inputs else [],
            [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")],
            sorted(f.path for f in client.list_artifacts(run.info.run_id)),
        )
        for run in client.search_runs([experiment_of(client)])
    }


def experiment_of(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name("queue_size@digits")
    assert experiment is not None
    return str(experiment.experiment_id)


def delete_everything(root: Path) -> None:
    client = open_store(root)
    for run in client.search_runs([experiment_of(client)]):
        client.delete_run(run.info.run_id)
