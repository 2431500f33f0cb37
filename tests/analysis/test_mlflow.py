"""One store and one server for all: a sweep read back from MLflow, and the links of its report."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import polars as pl
import pytest

from analysis import tracked as links
from analysis.ablation import ablation_table
from analysis.cli import main
from analysis.formats import render
from analysis.frame import load_sweep
from analysis.sources import RunDirectories
from analysis.tracked import Tracked
from experiments.store import schema
from experiments.store.mlflow import SERVER_LOG, without_login
from experiments.tracking import ui as tracking_ui
from experiments.tracking.store import ensure_store
from experiments.tracking.sync import sync
from tests.support import tracking_runs as runs
from tests.support.example_store import copied, executed
from tests.support.parts import require_part

# mlflow's own use of an older SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
BROWSER = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"
REASON = "OutOfMemoryError: 2 GiB"


@dataclass(frozen=True)
class Served:
    """Real runs, one failed, some never begun; mirrored into `database`, which the server at `address` serves."""

    root: Path
    database: Path
    address: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = copied(tmp_path_factory.mktemp("served") / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        ensure_store(root)
        server, address = start_server(root)
        try:
            fail_one(root)
            report = sync(root)
            assert report.warnings == ()
            wait_until_up(server, address, root)
            yield Served(root, root / schema.MLFLOW_DATABASE, address)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=60)


def start_server(root: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root / schema.MLFLOW_DATABASE}"]
    with (root / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    return server, f"http://127.0.0.1:{port}"


def wait_until_up(server: subprocess.Popen[bytes], address: str, root: Path) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            with urlopen(f"{address}/health", timeout=5):
                return
        except (URLError, OSError):
            assert server.poll() is None, (root / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)


def fail_one(root: Path) -> None:
    """Of an arm that the example planned and never ran, one run is made to fail; the others stay missing."""
    manifest = load_sweep(root, "queue_size").manifest
    cell = next(c for c in manifest["cells"] if c["arm"] == "K=256")
    run = runs.start(root, cell)
    runs.log(run, 0, range(10, 41, 10))
    runs.end(run, schema.FAILED, 40, reason=REASON)


@pytest.fixture(autouse=True)
def _here(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MOCO_RUNS", str(served.root))


@pytest.mark.parametrize("sweep", ["queue_size", "four_way"])
def test_mlflow_gives_the_table_of_the_run_directories(served: Served, sweep: str) -> None:
    ours, theirs = load_sweep(served.root, sweep), Tracked.at(served.address).load(sweep)
    assert theirs.manifest == ours.manifest
    # What MLflow is not told: how many steps a run was to have that did not end.
    unended = pl.when(pl.col("state") == schema.DONE).then(pl.col("total_steps"))
    assert theirs.cells.equals(ours.cells.with_columns(total_steps=unended))
    table, other = ablation_table(*ours), ablation_table(*theirs)
    for format in ("text", "md", "csv", "tex"):
        assert without_seal(render(table, format)) == without_seal(render(other, format))
    if sweep == "queue_size":
        states = dict(theirs.cells.group_by("state").len().iter_rows())
        assert states == {schema.DONE: 9, schema.FAILED: 1, schema.MISSING: 5}
        assert REASON in render(other, "md")


def test_a_table_fetches_no_file_for_each_run(served: Served) -> None:
    """The tags say it: with every results.json gone from MLflow's artifacts, the same comes of it."""
    source = Tracked.at(served.address)
    before = source.load("queue_size").cells
    files = list((served.root / schema.MLFLOW_ARTIFACTS).rglob(schema.RESULTS))
    assert len(files) >= 9
    for file in files:
        file.rename(file.with_name("gone"))
    try:
        assert source.load("queue_size").cells.equals(before)
        assert before.filter(state=schema.DONE)["seconds"].null_count() == 0
    finally:
        for file in files:
            file.with_name("gone").rename(file)


def without_seal(text: str) -> list[str]:
    """A seal is over the files of the runs, which a reader of MLflow cannot see."""
    return [line for line in text.splitlines() if "eal " not in line]


def test_the_embedded_store_needs_no_server(served: Served) -> None:
    assert (
        Tracked.at(str(served.database))
        .load("queue_size")
        .cells.equals(Tracked.at(served.address).load("queue_size").cells)
    )


def test_curves_are_those_of_the_journals(served: Served) -> None:
    keys = [key for key in schema.METRICS if not key.startswith("test/")]
    tracked, directories = Tracked.at(served.address), RunDirectories(served.root)
    cells = tracked.load("queue_size").cells
    order = ["arm", "seed", "key", "step"]
    theirs, ours = (source.curves(cells, keys).sort(order) for source in (tracked, directories))
    assert ours.height > 500
    assert theirs.equals(ours)


@pytest.mark.parametrize("notebook", ["compare.ipynb", "anatomy.ipynb", "four_way.ipynb"])
def test_notebooks_show_the_same_from_mlflow(served: Served, notebook: str) -> None:
    seen = [executed(notebook, SOURCE=source)[1] for source in (None, str(served.database))]
    names = ["total_steps"]  # of the failed run; everything else is the same, the figures to the byte
    assert len(seen[0]) == len(seen[1])
    same = [one == other for one, other in zip(*seen, strict=True)]
    frames = [i for i, out in enumerate(seen[0]) if names[0] in out or "eal " in out]
    assert [i for i, equal in enumerate(same) if not equal and i not in frames] == []
    assert any(out.startswith("<svg") for out in seen[0])


def test_links_are_those_of_the_ui(served: Served) -> None:
    manifest = load_sweep(served.root, "queue_size").manifest
    pages = links.pages_at(served.address, manifest)
    by_arm: dict[str, list[str]] = {}
    for cell in manifest["cells"]:
        if (cell["run_id"], cell["arm"]) in pages.runs:
            by_arm.setdefault(cell["arm"], []).append(pages.runs[cell["run_id"], cell["arm"]])
    theirs = tracking_ui.links(served.address, pages.experiment, by_arm, pages.metric)
    assert (pages.charts(), pages.table()) == (theirs.charts, theirs.table)
    assert {arm: pages.arm(arm) for arm in by_arm} == theirs.arms
    assert pages.arm("K=512") is None
    assert pages.run("none", "K=512") is None
    trained = [arm for arm in manifest["arms"] if arm != schema.RANDOM_INIT]
    assert sorted_runs(pages.compare(trained)) == sorted_runs(theirs.compare)


def sorted_runs(address: str | None) -> list[str]:
    from urllib.parse import parse_qs, urlsplit

    assert address is not None
    return sorted(json.loads(parse_qs(urlsplit(address).fragment.partition("?")[2])["runs"][0]))


@pytest.mark.browser
def test_each_link_of_a_report_resolves_on_the_server(served: Served, tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    chromium = require_part("chromium")
    out = tmp_path / "report.html"
    assert main(["report", "queue_size", "--server", served.address, "--out", str(out)]) == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER.split())
        page = browser.new_page(viewport={"width": 1600, "height": 1100})
        page.goto(out.as_uri())
        grid = page.locator("section", has=page.get_by_role("heading", name="Runs", exact=True))
        linked = {cell.get_attribute("href") or "": cell.inner_text() for cell in grid.locator("td a").all()}
        single = {href: text for href, text in linked.items() if "/runs/" in href}
        assert len(single) == 10  # nine done, one failed
        for href, text in single.items():
            told = json.load(urlopen(f"{served.address}/api/2.0/mlflow/runs/get?run_id={href.rpartition('/')[2]}"))[
                "run"
            ]
            metrics = {m["key"]: m["value"] for m in told["data"].get("metrics", [])}
            assert text == (f"{metrics['test/linear_top1']:.1f}" if "test/linear_top1" in metrics else "failed")
        arm = page.locator("table").first.get_by_role("link", name="K=128", exact=True).get_attribute("href")
        compare = grid.get_by_role("link", name="compare").nth(1).get_attribute("href")
        for href, words in (
            (next(iter(single)), "test/linear_top1"),
            (arm, "K=128 seed=0"),
            (compare, "Comparing 6 Runs"),
        ):
            page.goto("about:blank")
            page.goto(href or "")
            expect(page.get_by_text(words, exact=words != "Comparing 6 Runs").first).to_be_visible(timeout=60_000)
        page.screenshot(path=tmp_path / "compare.png")
        browser.close()


def test_a_server_is_known_by_the_environment_or_by_the_log_of_the_ui(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert links.known_server(tmp_path) is None
    log = tmp_path / SERVER_LOG
    log.write_text("INFO:     Uvicorn running on http://127.0.0.1:9 (Press CTRL+C to quit)\n")
    assert links.known_server(tmp_path) is None  # nobody is there any more
    log.write_text(f"INFO:     Uvicorn running on {served.address} (Press CTRL+C to quit)\n")
    assert links.known_server(tmp_path) == served.address
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org/")
    assert links.known_server(tmp_path) == "https://me:secret@mlflow.example.org/"
    assert without_login("https://me:secret@mlflow.example.org/") == "https://mlflow.example.org/"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["queue_siz", "--mlflow", "SERVER"], "no sweep 'queue_siz' in MLflow at"),
        (["queue_size", "--mlflow", "http://me:secret@127.0.0.1:9"], "MLflow at http://127.0.0.1:9 cannot be read"),
        (["queue_size", "--mlflow", "absent.db"], "no MLflow store at absent.db: name a server"),
    ],
)
def test_a_server_that_cannot_be_read_is_one_line(
    served: Served, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    typed = [served.address if word == "SERVER" else word for word in arguments]
    assert main(["table", *typed]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert "secret" not in told
    assert not Path("absent.db").exists()
