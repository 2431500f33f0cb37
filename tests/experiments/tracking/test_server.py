"""A team's MLflow: `python -m experiments serve` on a real PostgreSQL, filled over HTTP, and seen in a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from experiments.store import schema
from experiments.store.mlflow import QUIET
from experiments.tracking.store import open_store
from experiments.tracking.sweep import run_ids_by_arm
from experiments.tracking.sync import sync
from experiments.tracking.ui import links
from tests.support import tracking_runs as runs
from tests.support.parts import require_part
from tests.support.postgres_server import PASSWORD, Postgres, postgres
from tests.support.tracking_browser import Page, open_pages, pictures_folder
from tests.support.tracking_content import content, postgres_content
from tests.support.tracking_team import Line, Watch, free_port, serving, told_until, wait_until

# mlflow's own use of an older SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@dataclass(frozen=True)
class Team:
    """The server of these tests. `folder`: its MOCO_RUNS; `told`: what it printed."""

    database: Postgres
    address: str
    folder: Path
    told: str

    @property
    def artifacts(self) -> Path:
        return self.folder / schema.MLFLOW_ARTIFACTS


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def team(database: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder, port = tmp_path_factory.mktemp("team"), free_port()
    store = database.uri("team")
    with serving(folder, port, "--store", store) as process:
        # Until its first word it still has the arguments that the user typed, and reads them.
        told = told_until(process, "preparing")
        with Watch(port, PASSWORD, quote(PASSWORD, safe="")) as watch:
            told += told_until(process, "Ctrl-C")
        assert (watch.looks > 10, watch.found) == (True, set())
        yield Team(database, f"http://127.0.0.1:{port}", folder, told)
    assert process.returncode == 0


def test_the_password_is_nowhere(team: Team) -> None:
    assert (
        f"MLflow is at {team.address}, on {team.database.address('team')}, artifacts in {team.artifacts}" in team.told
    )
    assert f"export MLFLOW_TRACKING_URI={team.address}" in team.told
    files = [f for f in team.folder.rglob("*") if f.is_file()]
    assert "mlflow-server.log" in {f.name for f in files}
    for secret in (PASSWORD, quote(PASSWORD, safe="")):
        assert secret not in team.told
        assert [f for f in files if secret.encode() in f.read_bytes()] == []


def test_stores_filled_directly_over_a_server_late_and_from_scratch_are_equal(
    team: Team, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Direct: the embedded store as the runs go. Spooled: the server comes back after they have ended. Scratch: a
    database of its own, written without a server, from the directories alone."""
    shutil.copy(runs.fresh_store(tmp_path_factory.getbasetemp()), tmp_path / schema.MLFLOW_DATABASE)
    manifest = runs.planned(tmp_path)
    down = f"http://127.0.0.1:{free_port()}"
    for cell in manifest["cells"]:
        run = runs.start(tmp_path, cell)
        runs.log(run, cell["seed"], range(10, 101, 10))
        runs.checkpoint(run, 70)
        with run.locked():
            runs.say(run, schema.RUNNING, step=100)
            assert sync(tmp_path).warnings == ()
            monkeypatch.setenv("MLFLOW_TRACKING_URI", down)
            assert len(sync(tmp_path).warnings) == 1
            monkeypatch.delenv("MLFLOW_TRACKING_URI")
        runs.finish_started(run, cell)
    sync(tmp_path)
    direct = content(tmp_path)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.address)
    assert sync(tmp_path).warnings == ()
    spooled = postgres_content(team.database, "team", team.artifacts)
    assert {name: spooled[name] for name in spooled if name != "experiments"} == {
        name: direct[name] for name in direct if name != "experiments"
    }
    again = sync(tmp_path)
    assert (again.runs, again.points, again.warnings) == (0, 0, ())
    assert postgres_content(team.database, "team", team.artifacts) == spooled

    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.database.uri("scratch"))
    assert sync(tmp_path).warnings == ()
    assert postgres_content(team.database, "scratch", tmp_path / schema.MLFLOW_ARTIFACTS) == direct
    assert [f for f in tmp_path.rglob("*") if f.is_file() and PASSWORD.encode() in f.read_bytes()] == []


def test_a_server_that_is_away_while_a_run_goes_on_loses_nothing(
    team: Team, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher's own mirror process, and a server that is there, then not, then there again."""
    manifest = runs.planned(tmp_path, sizes=[256], seeds=1, name="outage")
    cell = manifest["cells"][0]
    run = runs.start(tmp_path, cell)
    runs.log(run, 0, range(10, 101, 10))
    runs.checkpoint(run, 50)
    line = Line(int(team.address.rpartition(":")[2]))
    command = [sys.executable, "-m", "experiments", "sync", "outage", "--follow"]
    env = {**os.environ, "MOCO_RUNS": str(tmp_path), "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{line.port}"}
    with run.locked():
        runs.say(run, schema.RUNNING, step=100)
        with line.open():
            follower = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
            try:
                wait_until(lambda: arrived(team, "outage") == 5)
            except BaseException:
                follower.kill()
                raise
        runs.checkpoint(run, 100)
        assert follower.stdout is not None
        assert "is not up to date" in follower.stdout.readline()
        assert arrived(team, "outage") == 5
    runs.finish_started(run, cell)
    with line.open():
        follower.send_signal(signal.SIGTERM)
        told, _ = follower.communicate(timeout=120)
    assert (follower.returncode, told.splitlines()[-1][:8]) == (0, "MLflow: ")

    shutil.copy(runs.fresh_store(tmp_path_factory.getbasetemp()), tmp_path / schema.MLFLOW_DATABASE)
    assert sync(tmp_path).warnings == ()
    shown = postgres_content(team.database, "team", team.artifacts)
    here = {key: value for key, value in content(tmp_path).items() if key[0] == "outage@digits"}
    assert {key: value for key, value in shown.items() if key[0] == "outage@digits"} == here
    assert len(here) == 2


def arrived(team: Team, sweep: str) -> int:
    """Values of the loss that the server has of a sweep's runs."""
    text = "select count(*) from metrics m join tags t on t.run_uuid = m.run_uuid"
    text += " where m.key = 'train/loss' and t.key = 'moco.sweep' and t.value = %s"
    with team.database.connection("team") as connection:
        return int(connection.execute(text, (sweep,)).fetchone()[0])


def test_two_people_with_the_same_sweep_keep_their_own_runs(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.address)
    shown = {}
    for person, top1 in (("ada", 91.0), ("bob", 92.0)):
        manifest = runs.planned(tmp_path / person, seeds=1, name="shared")
        for cell in manifest["cells"]:
            runs.finish(tmp_path / person, cell, top1=top1)
        assert sync(tmp_path / person).warnings == ()
        client = open_store(tmp_path / person)
        experiment = client.get_experiment_by_name("shared@digits")
        assert experiment is not None
        ids = run_ids_by_arm(client, tmp_path / person, experiment.experiment_id, manifest)
        shown[person] = [client.get_run(i).data.metrics["test/linear_top1"] for (i,) in ids.values()]
    assert shown == {"ada": [91.0] * 3, "bob": [92.0] * 3}
    assert sync(tmp_path / "ada").runs == 0
    assert len(client.search_runs([experiment.experiment_id])) == 2 * (3 + 1)


@pytest.mark.browser
def test_a_browser_shows_the_sweep_its_arms_side_by_side_and_a_run(
    team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_part("chromium")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.address)
    manifest = runs.planned(tmp_path, sizes=(256, 1024), seeds=2, name="browsed")
    for i, cell in enumerate(manifest["cells"]):
        runs.finish(tmp_path, cell, top1=90.0 + i)
    assert sync(tmp_path).warnings == ()
    client = open_store(tmp_path)
    experiment = client.get_experiment_by_name("browsed@digits")
    assert experiment is not None
    ids = run_ids_by_arm(client, tmp_path, experiment.experiment_id, manifest)
    places = links(team.address, experiment.experiment_id, ids)
    names = [f"{arm} seed={seed}" for arm in ("K=256", "K=1024", "random init") for seed in (0, 1)]
    run = f"{team.address}/#/experiments/{experiment.experiment_id}/runs/{ids['K=1024'][0]}"
    run += "?workflowType=machine_learning"
    shown = [*names, "negatives.size", "256", "1024", "seed", "test/linear_top1"]
    column = "[col-id*='params.`negatives.size`']"
    header, cell = f".ag-header-cell{column}", f".ag-row .ag-cell{column}"
    pages = {
        "experiment-charts": Page(places.charts, [*names, "test/linear_top1"], {"svg.main-svg": 3}),
        "experiment-runs": Page(places.table, shown, {cell: 4, header: 1}, width=2800),
        "compare": Page(places.compare, ["negatives.size", "K=256 seed=0", "K=1024 seed=1"], {".parcoords": 1}),
        "run": Page(run, [runs.QUESTION, "negatives.size", "encoder"]),
    }
    texts = open_pages(pages, pictures_folder(tmp_path / "screenshots"))
    assert "Comparing 4 Runs" in texts["compare"]
    assert "random init" not in texts["compare"]
    assert "git checkout 0123456789abcdef" in texts["run"]
