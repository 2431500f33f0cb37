"""A sweep from an MLflow server, as the frames that `analysis.store` makes of run directories. mlflow is imported here only.

The plan is an artifact of the sweep's parent run, so that what is missing stays missing. Against the run directories MLflow
lacks: the last step of runs that never recorded one, where runs wait in a queue (they are `missing` until they begin), and
commit and hardware of any attempt but the last.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import polars as pl

from analysis.links import without_login
from analysis.store import CELLS, CURVES, Loaded, to_stderr
from analysis.tracked_rows import finite, is_done, missing_row, points_of, row_of, spent
from experiments import schema
from experiments.schema import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

Log = Callable[[str], None]

PLAN, CURVES_TABLE = "sweep.json", "curves.csv"
STORE = "moco.store"
PAGE: Final = 1000  # runs in one request
AT_ONCE: Final = 8  # artifacts fetched side by side
_QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def _checked(address: str) -> str:
    """An address that mlflow can only read: it makes an SQLite file that is not there, so that one is refused."""
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
        login = urlsplit(address).netloc.rpartition("@")[0]
        told = reason.replace(f"{login}@", "") if login else reason
        raise ValueError(f"MLflow at {without_login(address)} cannot be read: {told}") from None


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
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        for logger in ("mlflow", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # its retries quote the address, password and all
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
            told = {run: said for run, tags in done.items() if (said := spent(tags)) is not None}
            results: dict[str, Mapping[str, Any]] = {**told, **self._results([run for run in done if run not in told])}
            rows = [
                self._row(cell, found.get(key), results.get(tracked.runs.get(key, "")))
                for cell, key in zip(manifest["cells"], keys, strict=True)
            ]
            return Loaded(manifest, pl.DataFrame(rows, schema=CELLS, orient="row"))

    def tracked(self, sweep: str, log: Log = to_stderr) -> TrackedRuns:
        """Where a sweep's runs are, for links. `ValueError` as `load`."""
        with _one_line(self.address):
            return self._found(sweep, log)[1]

    def curves(self, cells: pl.DataFrame, keys: Sequence[str], log: Log = to_stderr) -> pl.DataFrame:
        """As `store.curves`, of runs that `load` has found: from the table of the curves if the run has it, which holds
        all records, else from the server's metrics, which know no epochs (null)."""
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
        matching = [e for e in known if e.name == sweep] or [e for e in known if e.tags["moco.sweep"] == sweep]
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
        return cast(Manifest, manifest)

    def _results(self, runs: Sequence[str]) -> dict[str, dict[str, Any]]:
        """results.json of runs that were brought over before tags said what it says."""
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
        text = self._text(run, CURVES_TABLE)
        if text is not None:
            return [(*head, *point) for point in points_of(text, keys)]
        return [
            (*head, point.step, None, key, finite(point.value))
            for key in sorted(set(keys))
            for point in sorted(self.client.get_metric_history(run, key), key=lambda p: p.step)
        ]
