"""A sweep from an MLflow server, in the frames that `analysis.frame` makes of run directories. mlflow is imported here only.

    Tracked                   the source (`analysis.sources`) that asks a server
    pages_at, known_server    addresses of a sweep's pages in MLflow's UI, for links in a report

The plan is an artifact of the sweep's parent run, so planned runs that never began are known as missing. MLflow lacks some
facts of the run directories: the last step of runs that recorded none, whether a run is queued (it is `missing` until it
begins), commit and hardware of all attempts but the last, and which test images a readout got right. Its readouts can be
held against no journal, only against what can be (`analysis.checked.possible`); `Tracked.load` says so.
"""

from __future__ import annotations

import csv
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.error import URLError
from urllib.request import urlopen

import polars as pl

from analysis.checked import possible, shortfalls
from analysis.frame import CURVES, Loaded, Log, cell_types, finite, to_stderr, version
from experiments.store import schema
from experiments.store.manifests import one_name_an_arm
from experiments.store.metrics import learn_plain
from experiments.store.mlflow import SERVER_LOG, charts_page, compare_page, quiet, run_page, runs_page, without_login
from experiments.store.named import named
from experiments.store.schema import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run


# One run, from what a server has returned: a row of `frame.cell_types`, points of `frame.CURVES`.


_NOTHING: Final[dict[str, Any]] = {
    "reason": "",
    "diverged": False,
    "commits": [],
    "hardware": [],
    "images": "",
    "problems": [],
    "shortfalls": [],
}


def missing_row(cell: schema.Cell) -> dict[str, Any]:
    """The row of a planned run that MLflow does not have."""
    own = {"arm": cell["arm"], "seed": cell["seed"], "run_id": cell["run_id"], "state": schema.MISSING}
    return {**dict.fromkeys(cell_types()), **_NOTHING, **own}


def row_of(
    cell: schema.Cell,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    results: Mapping[str, Any] | None,
    last_step: int | None,
) -> dict[str, Any]:
    """The row of a run. results: seconds and steps of a done run; last_step: of its metrics, where results are None."""
    done, problems = is_done(tags), list[str]()
    with suppress(ValueError):
        learn_plain(json.loads(tags.get("moco.readouts", "null")))
    found = {
        readout: metrics[f"test/{readout}"] for readout in schema.READOUTS if done and f"test/{readout}" in metrics
    }
    readouts = possible(f"{cell['run_id']} in MLflow", found, problems)
    return {
        **missing_row(cell),
        "state": tags.get("moco.state", schema.RUNNING),
        "reason": tags.get("moco.reason", ""),
        "diverged": tags.get("moco.diverged") == "1",
        "step": results.get("steps") if results else last_step,
        "total_steps": results.get("steps") if results else None,
        **readouts,
        "problems": problems,
        "shortfalls": shortfalls(_facts(metrics)) if done else [],
        "seconds": finite(results.get("seconds")) if results else None,
        "device_seconds": _number(tags.get("moco.device_seconds", "")),
        "commits": [version(commit, tags.get("moco.uncommitted"))] if (commit := tags.get("moco.commit")) else [],
        "hardware": [tags["moco.hardware"]] if tags.get("moco.hardware") else [],
        "images": tags.get("moco.images", ""),
    }


def _facts(metrics: Mapping[str, float]) -> dict[str, float]:
    """Facts about the readouts, by the name after `readout/`."""
    return {k.removeprefix("readout/"): v for k, v in metrics.items() if k.startswith("readout/")}


def spent(tags: Mapping[str, str]) -> dict[str, float] | None:
    """Seconds and steps of a done run, from its tags; None for a run that was synced before these tags existed."""
    if "moco.seconds" not in tags:
        return None
    found = {name: json.loads(tags[f"moco.{name}"]) for name in ("seconds", "steps") if f"moco.{name}" in tags}
    return {name: value for name, value in found.items() if finite(value) is not None}


def points_of(table: str, keys: Sequence[str]) -> Iterator[tuple[int, float | None, str, float | None]]:
    """step, epoch, key, value from the table of a run's curves (curves.csv), in the order of the journal."""
    wanted = sorted(set(keys))
    for record in csv.DictReader(table.splitlines()):
        for key in wanted:
            if record.get(key):
                yield int(record["step"]), _number(record["epoch"]), key, _number(record[key])


def is_done(tags: Mapping[str, str]) -> bool:
    return tags.get("moco.state") == schema.DONE


def _number(text: str) -> float | None:
    return finite(float(text)) if text else None


# Pages in MLflow's UI.


ANSWER_SECONDS: Final = 1.0


@dataclass(frozen=True)
class MlflowPages:
    """base: the server's address without a login; runs: (run id, arm) -> id of the run in MLflow."""

    base: str
    experiment: str
    metric: str  # the key that runs are sorted by, best first
    runs: Mapping[tuple[str, str], str]

    def run(self, run_id: str, arm: str) -> str | None:
        """The run's own page; None for a run that MLflow does not have."""
        mlflow_id = self.runs.get((run_id, arm))
        return run_page(self.base, self.experiment, mlflow_id) if mlflow_id else None

    def table(self) -> str:
        """All runs, with what the sweep varies in columns."""
        return runs_page(self.base, self.experiment)

    def charts(self) -> str:
        """All runs with their charts."""
        return charts_page(self.base, self.experiment, self.metric)

    def arm(self, arm: str) -> str | None:
        """The runs of one arm; None for an arm without any."""
        if not any(name == arm for _, name in self.runs):
            return None
        return charts_page(self.base, self.experiment, self.metric, arm)

    def compare(self, arms: Sequence[str]) -> str | None:
        """The compare page of the arms' runs, of many each arm's first ones; None for fewer than two runs."""
        by_arm: dict[str, list[str]] = {arm: [] for arm in arms}
        for (_, arm), mlflow_id in self.runs.items():
            if arm in by_arm:
                by_arm[arm].append(mlflow_id)
        begun = [ids for ids in by_arm.values() if ids]
        return compare_page(self.base, self.experiment, begun) if sum(map(len, begun)) > 1 else None


def known_server(root: Path) -> str | None:
    """The MLflow server that shows these runs: `$MLFLOW_TRACKING_URI`, else the UI of this folder, if it is running."""
    named = os.environ.get("MLFLOW_TRACKING_URI", "")
    if named.startswith(("http://", "https://")):
        return named
    try:
        log = (root / SERVER_LOG).read_text(errors="replace")
    except OSError:
        return None
    addresses = re.findall(r"running on (https?://[\w.:\[\]-]+)", log)
    return addresses[-1] if addresses and _answers(addresses[-1]) else None


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/health", timeout=ANSWER_SECONDS) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def pages_at(server: str, manifest: Manifest) -> MlflowPages:
    """The pages of a sweep at a server. `ValueError`, one line, if it does not answer or has no such sweep."""
    found = Tracked.at(server).tracked(manifest["label"])
    split = "validation" if "study" in manifest else "test"  # a search never looks at the test split
    return MlflowPages(without_login(server).rstrip("/"), found.experiment, f"{split}/{manifest['metric']}", found.runs)


PLAN = "sweep.json"
STORE = "moco.store"
LACKS: Final = (
    "read from MLflow, so without intervals over test images, and no readout is held against its run's journal"
)
PAGE: Final = 1000  # runs in one request
AT_ONCE: Final = 8  # artifacts fetched side by side


def _checked(address: str) -> str:
    """The address for mlflow. Raises ValueError for a SQLite file that is not there, which mlflow would create."""
    if re.match(r"https?://[^/]+|(postgresql|mysql|mssql)(\+\w+)?://", address):
        return address
    file = Path(address.removeprefix("sqlite:///"))
    if not file.is_file():
        raise ValueError(
            f"no MLflow store at {without_login(address)}: name a server (http://127.0.0.1:5000), a database "
            f"(postgresql://...) or an SQLite file ($MOCO_RUNS/{schema.MLFLOW_DATABASE})"
        )
    return f"sqlite:///{file.resolve()}"


@contextmanager
def _one_line(address: str) -> Iterator[None]:
    """mlflow's errors, its database's and its transport's, as one line that names the server."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(
            f"MLflow at {without_login(address)} cannot be read: {without_login(address, reason)}"
        ) from None


@dataclass(frozen=True)
class TrackedRuns:
    """Ids of a sweep in MLflow: its experiment, its parent run, and (run id, arm) -> run."""

    experiment: str
    parent: str
    runs: Mapping[tuple[str, str], str]


@dataclass(frozen=True)
class Tracked:
    """A source (`sources.Source`) that asks a server. `at` makes one."""

    address: str
    client: MlflowClient
    ids: dict[tuple[str, str], str] = field(default_factory=dict)  # of the sweeps loaded so far

    @classmethod
    def at(cls, address: str) -> Tracked:
        """`http(s)://`, a database's address, or an SQLite file. Raises ValueError, one line, if there is no such thing."""
        checked = _checked(address)
        quiet()
        with _one_line(checked):
            from mlflow import MlflowClient

            return cls(checked, MlflowClient(checked))

    @property
    def place(self) -> str:
        return f"MLflow at {without_login(self.address)}"

    def load(self, sweep: str, log: Log = to_stderr) -> Loaded:
        """By label or name. `ValueError`, one line: an unknown sweep, one of a newer version, a server that fails."""
        with _one_line(self.address):
            manifest, tracked, found = self._found(sweep, log)
            self.ids.update(tracked.runs)
            keys = [(cell["run_id"], cell["arm"]) for cell in manifest["cells"]]
            done = {
                tracked.runs[key]: found[key].data.tags
                for key in keys
                if key in found and is_done(found[key].data.tags)
            }
            tagged = {run: numbers for run, tags in done.items() if (numbers := spent(tags)) is not None}
            results: dict[str, Mapping[str, Any]] = {
                **tagged,
                **self._results([run for run in done if run not in tagged]),
            }
            rows = [
                self._row(cell, found.get(key), results.get(tracked.runs.get(key, "")))
                for cell, key in zip(manifest["cells"], keys, strict=True)
            ]
            log(f"{manifest['label']}: {LACKS}")
            for row in rows:
                for line in row["problems"]:
                    log(line)
            return Loaded(manifest, pl.DataFrame(rows, schema=cell_types(), orient="row"))

    def tracked(self, sweep: str, log: Log = to_stderr) -> TrackedRuns:
        """The ids of a sweep's runs. `ValueError` as `load`."""
        with _one_line(self.address):
            return self._found(sweep, log)[1]

    def curves(self, cells: pl.DataFrame, keys: Sequence[str], log: Log = to_stderr) -> pl.DataFrame:
        """As `frame.curves`, for runs that `load` has found: from the run's artifact curves.csv, which has all records,
        else from the server's metrics, which have no epochs (null)."""
        begun = [
            row for row in cells.select("arm", "seed", "run_id", "state").iter_rows() if (row[2], row[0]) in self.ids
        ]
        with _one_line(self.address), ThreadPoolExecutor(AT_ONCE) as pool:
            parts = pool.map(lambda row: self._curves_of(row, keys), begun)
            return pl.DataFrame([row for part in parts for row in part], schema=CURVES, orient="row", strict=False)

    def _found(self, sweep: str, log: Log) -> tuple[Manifest, TrackedRuns, dict[tuple[str, str], Run]]:
        experiment = self._experiment(sweep, log)
        runs = self._runs(experiment.experiment_id)
        parents = [run for run in runs if "moco.sweep" in run.data.tags and "moco.run_id" not in run.data.tags]
        if not parents:
            raise ValueError(
                f"{experiment.name}: its sweep is not in MLflow any more: python -m experiments sync brings it"
            )
        parent = parents[0]
        store = parent.data.tags.get(STORE)
        if len(parents) > 1:
            others = ", ".join(str(run.data.tags.get(STORE)) for run in parents[1:])
            log(f"{experiment.name}: reading the runs of folder {store}; runs of other folders are there too: {others}")
        own = [r for r in runs if "moco.run_id" in r.data.tags and r.data.tags.get(STORE) == store]
        found = {(r.data.tags["moco.run_id"], r.data.tags["moco.arm"]): r for r in reversed(own)}
        ids = {key: run.info.run_id for key, run in found.items()}
        return self._plan(parent), TrackedRuns(experiment.experiment_id, parent.info.run_id, ids), found

    def _experiment(self, sweep: str, log: Log) -> Experiment:
        known = [e for e in self.client.search_experiments(max_results=PAGE) if "moco.sweep" in e.tags]
        known.sort(key=lambda e: e.last_update_time or 0, reverse=True)
        matching = named(known, sweep, label=lambda e: str(e.name), name=lambda e: e.tags["moco.sweep"])
        if not matching:
            names = ", ".join(e.name for e in known) or "none; python -m experiments sync brings sweeps there"
            raise ValueError(f"no sweep {sweep!r} in {self.place}; there are: {names}")
        if len(matching) > 1:
            log(f"{sweep}: reading {matching[0].name}; also there: {', '.join(e.name for e in matching[1:])}")
        return matching[0]

    def _runs(self, experiment: str) -> list[Run]:
        """The newest first."""
        found: list[Run] = []
        token: str | None = None
        while token is not None or not found:
            page = self.client.search_runs(
                [experiment], max_results=PAGE, order_by=["attributes.start_time DESC"], page_token=token
            )
            found += page
            token = page.token
            if not token:
                break
        return found

    def _plan(self, parent: Run) -> Manifest:
        manifest = self._json(parent.info.run_id, PLAN)
        if manifest is None or "store_version" not in manifest:
            raise ValueError(
                f"{parent.info.run_name}: its plan {PLAN} is not in MLflow; python -m experiments sync brings it"
            )
        if manifest["store_version"] > schema.STORE_VERSION:
            raise ValueError(
                f"{manifest['label']}: written in store version {manifest['store_version']}, this program reads up to "
                f"{schema.STORE_VERSION}: update it, or read the sweep with the version that wrote it"
            )
        return one_name_an_arm(cast(Manifest, manifest))

    def _results(self, runs: Sequence[str]) -> dict[str, dict[str, Any]]:
        """results.json of runs that were synced before their tags had its numbers."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            read = pool.map(lambda run: self._json(run, schema.RESULTS), runs)
            return {run: result for run, result in zip(runs, read, strict=True) if result}

    def _text(self, run: str, artifact: str) -> str | None:
        """None where the run has no such artifact, or it cannot be fetched from where it is kept."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self.client.download_artifacts(run, artifact, folder)).read_text(encoding="utf-8")
            except Exception:  # each kind of artifact store has its own "not there"
                return None

    def _json(self, run: str, artifact: str) -> dict[str, Any] | None:
        text = self._text(run, artifact)
        try:
            value = json.loads(text) if text else None
        except json.JSONDecodeError:
            return None
        return value if isinstance(value, dict) else None

    def _row(self, cell: schema.Cell, run: Run | None, results: Mapping[str, Any] | None) -> dict[str, Any]:
        if run is None:
            return missing_row(cell)
        return row_of(cell, run.data.tags, run.data.metrics, results, None if results else self._last_step(run))

    def _last_step(self, run: Run) -> int | None:
        key = next((k for k in schema.METRICS if k in run.data.metrics), None)
        history = self.client.get_metric_history(run.info.run_id, key) if key else []
        return max((point.step for point in history), default=None)

    def _curves_of(self, row: tuple[str, int, str, str], keys: Sequence[str]) -> list[tuple[Any, ...]]:
        arm, seed, run_id, state = row
        head, run = (arm, seed, run_id, state), self.ids[run_id, arm]
        text = self._text(run, schema.CURVES)
        if text is not None:
            return [(*head, *point) for point in points_of(text, keys)]
        return [
            (*head, point.step, None, key, finite(point.value))
            for key in sorted(set(keys))
            for point in sorted(self.client.get_metric_history(run, key), key=lambda p: p.step)
        ]
