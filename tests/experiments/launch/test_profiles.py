"""What a profile settles beside its jobs. Oracle: the order of precedence, environment, profile, default."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments.launch.options import Place
from experiments.run.cluster import Profile

THEIRS = Profile("site", runs_root="~/site-runs", tracking="http://site:5000")


@pytest.mark.parametrize(
    ("environment", "profile", "root", "tracking"),
    [
        ({}, None, "here/runs", None),
        ({}, Profile("bare"), "here/runs", None),
        ({}, THEIRS, "home/site-runs", "http://site:5000"),
        ({"MOCO_RUNS": "/mine"}, THEIRS, "/mine", "http://site:5000"),
        ({"MLFLOW_TRACKING_URI": "http://mine:1"}, THEIRS, "home/site-runs", "http://mine:1"),
        ({"MLFLOW_TRACKING_URI": ""}, THEIRS, "home/site-runs", "http://site:5000"),
    ],
)
def test_the_environment_goes_before_the_profile(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    profile: Profile | None,
    root: str,
    tracking: str | None,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("MOCO_RUNS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert Place.of(profile) == Place(tmp_path / root, tracking)
    assert dict(os.environ) == before
