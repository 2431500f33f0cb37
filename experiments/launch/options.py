"""The options of a launch: made from the command line once, checked, and passed on unchanged."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.run.cluster import Profile, load_profile, masked, profile_names
from experiments.store.named import nearest
from experiments.store.run import runs_root

if TYPE_CHECKING:
    from experiments.launch.process import Work

LOCAL, DEBUG = "local", "debug"
INTERRUPTED = 130  # exit code after Ctrl-C

FIRST_DECISION = 5  # seeds before the first decision of `--until-significant`; with fewer nothing can be decided
MAX_SEEDS = 20  # default of `--max-seeds`
LOOKS = ("pocock", "obrien-fleming")  # of `--looks`: a decision after each `FIRST_DECISION` seeds up to `--max-seeds`

ShowTable = Callable[[Path, str], None]  # runs root, label: prints the answer to that sweep


@dataclass(frozen=True)
class Place:
    """The runs root and the address of MLflow: from the environment, else from the cluster's profile."""

    root: Path
    tracking: str | None = None  # MLFLOW_TRACKING_URI; None for the embedded MLflow beside the runs

    @staticmethod
    def of(profile: Profile | None) -> Place:
        named = os.environ.get("MLFLOW_TRACKING_URI")
        if profile is None:
            return Place(runs_root(), named or None)
        root = runs_root()
        if profile.runs_root and not os.environ.get("MOCO_RUNS"):
            root = Path(_with_variables("runs_root", profile.runs_root, profile)).absolute()
        return Place(
            root, named or (_with_variables("tracking", profile.tracking, profile) if profile.tracking else None)
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a child process has the same place."""
        return {"MOCO_RUNS": str(self.root)} | ({"MLFLOW_TRACKING_URI": self.tracking} if self.tracking else {})


def _with_variables(field: str, value: str, profile: Profile) -> str:
    """A value of a profile with ~ and variables replaced. Raises ValueError for a variable that is not set."""
    if missing := [name for name in re.findall(r"\$\{?(\w+)", value) if name not in os.environ]:
        raise ValueError(f"profile {profile.name}: {field} = {value!r}: ${missing[0]} is not set on this machine")
    return os.path.expanduser(os.path.expandvars(value))


def verb(root: Path, *words: str) -> str:
    """`python -m experiments WORDS`, as it is to be typed here to mean these runs."""
    where = "" if root == runs_root() else f"MOCO_RUNS={shlex.quote(str(root))} "
    return f"{where}python -m experiments {shlex.join(words)}"


def add_cluster_set(to: argparse.ArgumentParser) -> None:
    """Add the flag `--cluster-set FIELD=VALUE ...`."""
    to.add_argument(
        "--cluster-set",
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help="override a field of the profile, e.g. time=2:00:00 gpus=a100:2 sbatch.exclude=n7",
    )


def cluster_profile(name: str, here: tuple[str, ...] = (LOCAL,), settings: Sequence[str] = ()) -> Profile | None:
    """The profile of that name with `settings`, of --cluster-set; None for a name in `here`, which means this machine.

    Raises ValueError for another name, and for settings of no profile.
    """
    if name in here:
        if settings:
            raise ValueError(
                f"--cluster-set {masked(settings[0])}: changes a profile, and there is none; add --cluster NAME"
            )
        return None
    clusters = [*here, *profile_names()]
    if name not in clusters:
        near = nearest(name, clusters)
        meant = f"; did you mean {near}?" if near else ""
        raise ValueError(f"--cluster {name}: no such cluster; there are {', '.join(clusters)}{meant}")
    return load_profile(name, settings)


@dataclass(frozen=True)
class LaunchOptions:
    """The flags of a sweep under their own names. `profile` is that of `cluster`, None on this machine.

    Raises ValueError, in one line, for a value out of range and for flags that do not go together.
    """

    command: str  # as it was typed
    place: Place
    show_table: ShowTable
    work: Work | None = None  # what the local pool does with a run; None to train it
    cluster: str = LOCAL
    profile: Profile | None = None
    baseline: str | None = None
    settings: tuple[str, ...] = ()  # of --set
    seeds: int | None = None
    only: tuple[str, ...] = ()
    max_parallel: int | None = None
    pack: int | None = None
    dry_run: bool = False
    retry: bool = False
    force: bool = False
    yes: bool = False
    until_significant: bool = False
    max_seeds: int | None = None
    looks: str | None = None
    wait: bool = False
    max_gpu_hours: float | None = None
    calibrate: bool = False
    notify: str | None = None  # a shell command for the end of the sweep
    cluster_settings: tuple[str, ...] = ()  # of --cluster-set; `profile` has them already
    look: Path | None = None

    def __post_init__(self) -> None:
        self._check_adaptive()
        for flag, value in (("--max-parallel", self.max_parallel), ("--pack", self.pack)):
            if value is not None and value < 1:
                raise ValueError(f"{flag} {value}: must be at least 1")
        if self.notify is not None and self.profile is not None and not (self.wait or self.dry_run):
            raise ValueError(
                "--notify: the end of the sweep is seen by who waits for it; add --wait, or let Slurm write: "
                "--cluster-set sbatch.mail-type=END"
            )
        if self.max_gpu_hours is not None and not self.max_gpu_hours >= 0:
            raise ValueError(f"--max-gpu-hours {self.max_gpu_hours:g}: must be 0 or more")
        for assignment in self.settings:
            if assignment.partition("=")[0].strip() == "train.seed":
                raise ValueError(f"--set {assignment}: a sweep sets its seeds itself; use --seeds N for seeds 0 to N-1")

    def _check_adaptive(self) -> None:
        if self.max_seeds is not None and not self.until_significant:
            raise ValueError(
                f"--max-seeds {self.max_seeds}: says where --until-significant ends; add that, or use --seeds"
            )
        if self.looks is not None:
            self._check_looks()
        if not self.until_significant:
            return
        if self.max_seeds is not None and self.max_seeds < FIRST_DECISION:
            raise ValueError(
                f"--max-seeds {self.max_seeds}: must be at least {FIRST_DECISION}, with fewer nothing is decided"
            )
        for flag, given in (("--force", self.force), ("--cluster debug", self.cluster == DEBUG)):
            if given:
                raise ValueError(f"--until-significant: does not go with {flag}; leave one of them out")
        if self.cluster != LOCAL and not (self.wait or self.dry_run):
            raise ValueError("--until-significant: has to see the results of a round; on a cluster add --wait")

    def _check_looks(self) -> None:
        most = self.max_seeds or MAX_SEEDS
        if not self.until_significant:
            raise ValueError(f"--looks {self.looks}: is a plan for --until-significant; add that")
        if self.looks not in LOOKS:
            raise ValueError(f"--looks {self.looks}: must be one of {', '.join(LOOKS)}")
        if most % FIRST_DECISION or most < 2 * FIRST_DECISION:
            raise ValueError(
                f"--looks {self.looks} --max-seeds {most}: looks are {FIRST_DECISION} seeds apart, so that must be a "
                f"multiple of {FIRST_DECISION}, {2 * FIRST_DECISION} or more"
            )
        if self.seeds is not None:
            raise ValueError(
                f"--looks {self.looks} --seeds {self.seeds}: the looks say how many seeds; leave --seeds out"
            )
        if self.only:
            raise ValueError(f"--looks {self.looks} --only: the arms are one family; leave one of them out")
