"""Before the first worker and after the last: the study is made, warmed up, and brought in order."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from experiments import schema
from experiments.durable import replace_json
from experiments.processes import child_environment
from experiments.reconcile import state_of
from experiments.run_directory import RunDirectory
from experiments.schema import SearchRecord
from experiments.search.definition import HOURS
from experiments.search.export import export
from experiments.search.space import Drawn, point, settings
from experiments.search.study import END, HELD, SOURCE, WARM, Study, distribution
from experiments.search.trial import Evaluations, measured
from moco.config import Config
from moco.identity import from_plain, run_id


def begin(path: Path, record: SearchRecord, address: str | None, cells: Sequence[schema.Cell]) -> SearchRecord:
    """The study as it is when the workers come. Raises ValueError, with nothing written, for a storage that is away."""
    study = Study(path, record, address)
    with study.locked():
        replace_json(path, record)
        study.begin()
        study.close_ghosts()
        if cells:
            told = sum(warm_start(study, cell) for cell in cells)
            print(f"warm start: {told} of {len(cells)} runs are finished and lie in the space", flush=True)
        return export(study)


def closing(path: Path, address: str | None) -> SearchRecord:
    """When all workers have gone: nothing is left running, and the importances are there."""
    from experiments.search.record import read_record

    record = read_record(path)
    assert record is not None
    study = Study(path, record, address)
    with study.locked():
        study.close_ghosts()
        return export(study, final=True, failure=study.failure())


def warm_start(study: Study, cell: schema.Cell) -> bool:
    """Tell the study of a finished run; False for one that is not, is known, or lies outside the space."""
    config: Config = from_plain(Config, cell["config"])
    run = RunDirectory(study.path.parent.parent / cell["run_id"])
    known = {t.user_attrs[HELD]["run_id"] for t in study.trials() if HELD in t.user_attrs}
    drawn = point(study.space, config)
    if cell["run_id"] in known or drawn is None or state_of(run.path).state != schema.DONE:
        return False
    readouts, hours, memory = measured(run)
    values = [hours if metric == HOURS else readouts.get(metric) for metric in study.record["metrics"]]
    if None in values:
        return False
    distributions: dict[str, optuna.distributions.BaseDistribution] = {}

    def draw(asked: Drawn) -> Any:
        distributions[asked.name] = distribution(asked)
        return drawn[asked.name]

    texts = settings(study.space, draw)
    if not _is(config, study.config(texts)):
        return False
    held = {"run_id": cell["run_id"], "settings": texts, "lock": "", "host": "", "job": None}
    facts = {"state": schema.DONE, "hours": hours, "memory_gb": memory}
    evaluations = dict(Evaluations(run).new()) if len(values) == 1 else {}
    attributes = {HELD: held, END: facts, SOURCE: WARM, "config": cell["config"]}
    study.study.add_trial(
        create_trial(
            state=TrialState.COMPLETE, values=[v for v in values if v is not None], params=drawn,
            distributions=distributions, user_attrs=attributes, intermediate_values=evaluations,
        )
    )  # fmt: skip
    return True


def _is(config: Config, other: Config) -> bool:
    """The same but for the seed: nothing outside the space differs."""
    return run_id(config) == run_id(replace(other, train=replace(other.train, seed=config.train.seed)))


def print_table(root: Path, label: str) -> None:
    """The answer, by the analysis' own command."""
    print(flush=True)
    command = [sys.executable, "-m", "analysis", "search", label, "--table"]
    subprocess.run(command, env=child_environment(MOCO_RUNS=str(root)), check=False)
    print(f"\ntable again: python -m analysis search {shlex.quote(label)} --table")
