"""What a command asks of a launch. Oracles: the order shell, profile, default written out; frozen flags; sentences in full."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from experiments.commands.sweep import launch_options, parser
from experiments.launch.options import LaunchOptions, Place
from slurm.profiles import Profile
from sweeps.queue_size import SWEEP
from tests.support.stand_in_runs import ROOT, environment

SITE = Profile("site", runs_root="~/site-runs", tracking="http://site:5000")


@pytest.mark.parametrize(
    ("shell", "profile", "root", "tracking"),
    [
        ({}, None, "runs", None),
        ({}, SITE, "~/site-runs", "http://site:5000"),
        ({}, Profile("bare"), "runs", None),
        ({"MOCO_RUNS": "/mine"}, SITE, "/mine", "http://site:5000"),
        ({"MLFLOW_TRACKING_URI": "http://mine"}, SITE, "~/site-runs", "http://mine"),
        ({"MLFLOW_TRACKING_URI": "http://mine"}, None, "runs", "http://mine"),
    ],
)
def test_the_shell_goes_before_the_profile_and_that_before_the_default(
    shell: dict[str, str], profile: Profile | None, root: str, tracking: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MOCO_RUNS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    place = Place.of(profile)
    assert place == Place(Path(root).expanduser().absolute(), tracking)
    assert place.environment == {"MOCO_RUNS": str(place.root)} | ({"MLFLOW_TRACKING_URI": tracking} if tracking else {})


def test_every_flag_arrives_and_nothing_is_changed_afterwards() -> None:
    flags = (
        "--cluster slurm --baseline shapes --set a=1 b=2 --seeds 4 --only x y --max-parallel 3 --pack 2 --dry-run --retry "
        "--yes --until-significant --max-seeds 9 --wait --max-gpu-hours 1.5 --calibrate"
    )
    given = parser(SWEEP).parse_args(shlex.split(flags))
    options = launch_options(given, "typed")
    assert options.profile is not None
    assert (options.profile.name, options.profile.pack) == ("slurm", 2)
    defaults = {field.name: field.default for field in fields(LaunchOptions)}
    shown = {name: value for name, value in vars(options).items() if value != defaults[name]}
    for name in ("profile", "place", "show_table"):
        shown.pop(name)
    assert shown == {
        "command": "typed",
        "cluster": "slurm",
        "baseline": "shapes",
        "settings": ("a=1", "b=2"),
        "seeds": 4,
        "only": ("x", "y"),
        "max_parallel": 3,
        "pack": 2,
        "dry_run": True,
        "retry": True,
        "yes": True,
        "until_significant": True,
        "max_seeds": 9,
        "wait": True,
        "max_gpu_hours": 1.5,
        "calibrate": True,
    }
    with pytest.raises(FrozenInstanceError):
        options.retry = False  # type: ignore[misc]


def test_the_facade_has_what_it_lists_and_costs_who_reads_the_store_nothing() -> None:
    code = (
        "import sys, experiments.store.run; print(sorted(m for m in sys.modules if m.startswith(('experiments.', 'moco')))); "
        "import experiments; [getattr(experiments, name) for name in experiments.__all__]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert {name.split(".")[1].strip("'], ") for name in done.stdout.split(",")} == {"store"}


def test_the_end_of_a_sweep_is_told_to_a_command(tmp_path: Path) -> None:
    """Oracle: what the command has written; a run that fails makes exit code 1, which the command hears of."""
    said = tmp_path / "said"
    sweep = (
        sys.executable,
        "tests/support/stand_in.py",
        "sweep",
        "--only",
        "K=128",
        "--seeds",
        "1",
        "--max-parallel",
        "1",
    )
    flags = (
        "--set",
        "train.epochs=1",
        "train.device=cpu",
        "--notify",
        f'echo "$MOCO_SWEEP $MOCO_EXIT_CODE" >> {said}; false',
    )
    for fails, code in (("128", 1), ("", 0)):
        env = environment(MOCO_RUNS=str(tmp_path / f"runs{code}"), MOCO_TRACKING="off", STAND_IN_FAIL=fails)
        result = subprocess.run([*sweep, *flags], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert result.returncode == code, result.stderr
        assert "--notify: echo" in result.stderr
        assert "ended with exit code 1" in result.stderr
    assert said.read_text() == "stand_in 1\nstand_in 0\n"


def test_a_command_for_the_end_needs_somebody_who_sees_it(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^--notify: the end of the sweep is seen by who waits for it; add --wait, or let"
    ):
        LaunchOptions("c", Place(tmp_path), lambda root, label: None, cluster="x", profile=Profile("x"), notify="true")
