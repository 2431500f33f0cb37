"""A sweep of real, untrained digits runs: seconds each, with weights that readouts can be taken of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments.__main__ import main
from experiments.plan.baselines import digits
from experiments.plan.configs import create
from experiments.plan.manifest import write_manifest
from experiments.plan.sweep import Sweep, plan
from experiments.run.worker import attempt
from experiments.store import schema
from experiments.store.run import RunDirectory
from moco.config import Config, Queue
from moco.config.plain import from_plain

LABEL = "judged@digits"


def base() -> Config:
    config = digits()
    return replace(
        config,
        train=replace(config.train, epochs=0, device="cpu"),
        evaluation=replace(config.evaluation, linear_epochs=1, few_label_draws=2),
    )


def planned(root: Path) -> schema.Manifest:
    """Two arms, a seed each, and the untrained row, which is not run here."""
    sweep = Sweep(
        name="judged",
        question="Is it judged once?",
        claim="yes",
        varies=("negatives.size",),
        baseline="K=128",
        arms=lambda config: {f"K={k}": replace(config, negatives=Queue(k)) for k in (128, 256)},
    )
    return write_manifest(root, plan(sweep, base(), base_name="digits", preset=base(), seeds=1), "python judged.py")


def finished(root: Path) -> list[RunDirectory]:
    """The two arms, trained for no epoch by the real worker."""
    runs = []
    for cell in planned(root)["cells"]:
        if cell["arm"] != schema.RANDOM_INIT:
            run = RunDirectory(root / cell["run_id"])
            config: Config = from_plain(Config, cell["config"])
            create(run, config)
            assert attempt(run.path) == schema.DONE
            runs.append(run)
    return runs


def copied(made: Path, root: Path) -> list[RunDirectory]:
    """The finished store `made`, at a place where it may be changed."""
    shutil.copytree(made, root)
    manifest: schema.Manifest = json.loads((root / schema.SWEEPS_FOLDER / f"{LABEL}.json").read_text())
    return [RunDirectory(root / c["run_id"]) for c in manifest["cells"] if c["arm"] != schema.RANDOM_INIT]


class Evaluate:
    """`python -m experiments evaluate`, in this process; torch is loaded once for all tests."""

    def __init__(self, patch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capfd = patch, capfd
        patch.setenv("MOCO_TRACKING", "off")
        patch.setenv("COLUMNS", "200")

    def __call__(self, root: Path, *arguments: str, code: int = 0) -> Said:
        self.patch.setenv("MOCO_RUNS", str(root))
        self.capfd.readouterr()
        returned = main(["evaluate", *arguments])
        said = Said(*self.capfd.readouterr())
        assert returned == code, f"{returned}\n{said.out}\n{said.err}"
        return said


class Said(NamedTuple):
    out: str
    err: str


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Evaluate:
    return Evaluate(monkeypatch, capfd)
