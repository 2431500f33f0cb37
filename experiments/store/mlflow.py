"""MLflow without importing it: settings that keep it quiet, addresses without passwords, links to pages of its UI."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote, unquote, urlsplit

QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Give up on a dead server after seconds, not after seven retries of two minutes: the next sync catches up.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}
COMPARED: Final = 60  # runs on the compare page; it slows down with many
# Without it the UI opens on its pages for language models, where nobody finds a training run.
TRAINING: Final = "workflowType=machine_learning"
VIEW: Final = "moco"  # the experiment's tag mlflow.sharedViewState.moco holds the columns of the page of runs
SERVER_LOG: Final = "mlflow-server.log"  # in the folder of runs: what the server of `ui` or `serve` prints


def quiet() -> None:
    """No telemetry, no emoji lines, no migration log. Variables that the user has set stay."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for logger in ("mlflow", "alembic"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its retries quote the address, password and all


def without_login(uri: str, text: str | None = None) -> str:
    """The address, or a text that quotes it, without user and password, so that it can be printed."""
    text = uri if text is None else text
    login, at, _ = urlsplit(uri).netloc.rpartition("@")
    _, _, password = login.partition(":")
    for secret in (f"{login}{at}", password, unquote(password)):
        text = text.replace(secret, "***" if secret == password else "") if secret else text
    return text


def run_page(base: str, experiment: str, run: str) -> str:
    """Here and below, `base` is the server's address without a login; `experiment` and `run` are ids in MLflow."""
    return f"{base}/#/experiments/{experiment}/runs/{run}"


def runs_page(base: str, experiment: str) -> str:
    """The table of all runs, with the fields that the sweep varies as columns."""
    return f"{base}/#/experiments/{experiment}/runs?{TRAINING}&viewStateShareKey={VIEW}"


def charts_page(base: str, experiment: str, metric: str, arm: str | None = None) -> str:
    """Charts of all runs, or of the runs of one arm, the best by the metric first.

    In MLflow's default order, by date, runs are collapsed under their sweep and the charts are empty.
    """
    order = f"orderByKey={quote(f'metrics.`{metric}`', safe='')}&orderByAsc=false"
    page = f"{base}/#/experiments/{experiment}/runs?{TRAINING}&compareRunsMode=CHART&{order}"
    if arm is None:
        return page
    mark = "'" if '"' in arm else '"'
    return f"{page}&searchFilter={quote(f'params.arm = {mark}{arm}{mark}', safe='')}"


def compare_page(base: str, experiment: str, runs_of_arms: Iterable[Sequence[str]]) -> str:
    """The runs side by side; of a large sweep only the first runs of each arm."""
    arms = list(runs_of_arms)
    each = max(1, COMPARED // max(1, len(arms)))
    chosen = [run for runs in arms for run in runs[:each]][:COMPARED]
    return f"{base}/#/compare-runs?runs={_list(chosen)}&experiments={_list([experiment])}&{TRAINING}"


def _list(ids: Sequence[str]) -> str:
    return quote(json.dumps(ids, separators=(",", ":")), safe="")
