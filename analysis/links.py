"""Addresses in MLflow's UI: of a run, of an arm's runs, of the page that compares some. Knows no mlflow, only its routes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

from experiments.schema import Manifest

SERVER_LOG: Final = "mlflow-server.log"  # where `python -m experiments ui` lets its server write
ANSWER_SECONDS: Final = 1.0
COMPARED: Final = 60  # runs on the compare page; it slows down with many
# Without it the UI opens on its pages for language models, where nobody finds a training run.
TRAINING: Final = "workflowType=machine_learning"
VIEW: Final = "viewStateShareKey=moco"  # the columns that the experiment's tag mlflow.sharedViewState.moco asks for


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
        return f"{self.base}/#/experiments/{self.experiment}/runs/{mlflow_id}" if mlflow_id else None

    def table(self) -> str:
        """All runs, with what the sweep varies in columns."""
        return f"{self.base}/#/experiments/{self.experiment}/runs?{TRAINING}&{VIEW}"

    def charts(self) -> str:
        """All runs with their charts. Sorted by date they would hide folded up under their sweep: so by the readout."""
        order = f"orderByKey={quote(f'metrics.`{self.metric}`', safe='')}&orderByAsc=false"
        return f"{self.base}/#/experiments/{self.experiment}/runs?{TRAINING}&compareRunsMode=CHART&{order}"

    def arm(self, arm: str) -> str | None:
        """The runs of one arm; None for an arm without any."""
        if not any(name == arm for _, name in self.runs):
            return None
        mark = "'" if '"' in arm else '"'
        return f"{self.charts()}&searchFilter={quote(f'params.arm = {mark}{arm}{mark}', safe='')}"

    def compare(self, arms: Sequence[str]) -> str | None:
        """The compare page of the arms' runs, of many each arm's first ones; None for fewer than two runs."""
        by_arm: dict[str, list[str]] = {arm: [] for arm in arms}
        for (_, arm), mlflow_id in self.runs.items():
            if arm in by_arm:
                by_arm[arm].append(mlflow_id)
        begun = [ids for ids in by_arm.values() if ids]
        each = max(1, COMPARED // max(1, len(begun)))
        chosen = [run for ids in begun for run in ids[:each]][:COMPARED]
        if len(chosen) < 2:
            return None
        return f"{self.base}/#/compare-runs?runs={_list(chosen)}&experiments={_list([self.experiment])}&{TRAINING}"


def _list(ids: Sequence[str]) -> str:
    return quote(json.dumps(ids, separators=(",", ":")), safe="")


def without_login(address: str) -> str:
    """The address without user and password, fit to be printed and linked to."""
    login, at, _ = urlsplit(address).netloc.rpartition("@")
    return address.replace(f"{login}{at}", "", 1) if at else address


def known_server(root: Path) -> str | None:
    """The MLflow server that people read these runs at: `$MLFLOW_TRACKING_URI`, else the UI of this folder, if it is up."""
    named = os.environ.get("MLFLOW_TRACKING_URI", "")
    if named.startswith(("http://", "https://")):
        return named
    try:
        told = (root / SERVER_LOG).read_text(errors="replace")
    except OSError:
        return None
    addresses = re.findall(r"running on (https?://[\w.:\[\]-]+)", told)
    return addresses[-1] if addresses and _answers(addresses[-1]) else None


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/health", timeout=ANSWER_SECONDS) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def pages_at(server: str, manifest: Manifest) -> MlflowPages:
    """Asks the server for the runs of a sweep. `ValueError`, one line, if it does not answer or has no such sweep."""
    from analysis.mlflow_reader import Tracked

    found = Tracked.at(server).tracked(manifest["label"])
    split = "validation" if "study" in manifest else "test"  # a search never looks at the test split
    return MlflowPages(without_login(server).rstrip("/"), found.experiment, f"{split}/{manifest['metric']}", found.runs)
