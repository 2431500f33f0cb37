"""Profiles: named TOML files with the resources of a job, shipped here or the user's own in ~/.config/moco/profiles.

    partition = "gpu"
    gpus = 1
    cpus = 8
    time = "08:00:00"

Every field may be left out; Slurm's default holds then. Imports only the standard library.

A run is one job step: `tasks_per_node` processes on each of `nodes` nodes, by default one for each GPU. More than one
process means that the run itself is spread over them.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

SHIPPED = Path(__file__).parent / "profiles"
TRACKING_MODES = ("direct", "spool", "off")
ONE_WORD = ("cluster", "partition", "account", "qos", "gres", "constraint")


@dataclass(frozen=True)
class Profile:
    """Resources of one run, and how many runs at a time. Raises ValueError for values that Slurm would not understand."""

    name: str
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None  # "gpu:a100:1"; instead of `gpus`
    gpus: int | None = None  # of one run on each of its nodes
    constraint: str | None = None
    nodes: int = 1  # of one run
    tasks_per_node: int | None = None  # processes of one run on each node; left out: one for each GPU
    cpus: int = 4  # of a process; also the number of threads of torch, unless `environment` says otherwise
    memory: str | None = None  # "32G"; of one run on each of its nodes
    time: str | None = None  # "30" minutes, "HH:MM:SS" or "D-HH:MM:SS"; a run that needs longer is requeued
    signal_seconds: int = 120  # before the end of that time a run is told to save; Slurm may be a minute early
    max_requeues: int = 50  # of one run in one job; a run that has made no progress is not requeued at all
    pack: int = 1  # runs that share one job: its GPU, its cores and its memory
    array_parallelism: int | None = None  # runs at a time, unless --max-parallel says otherwise
    setup: tuple[str, ...] = ()  # lines of shell before the run: "module load cuda/12"
    environment: Mapping[str, str] = field(default_factory=dict)
    runs_root: str | None = None  # where MOCO_RUNS is not set
    tracking: str | None = None  # address of an MLflow server
    tracking_mode: str = "direct"  # spool: `sync` on the login node sends what jobs recorded; off: no MLflow
    baseline: str | None = None  # where --baseline is not given
    cluster: str = "slurm"  # or the dotted name of a module with another cluster (experiments.run.cluster)

    def __post_init__(self) -> None:
        for name in ONE_WORD:
            _check(name, getattr(self, name), r"\S+", "one word")
        _check("memory", self.memory, r"\d+[KMGT]?", 'a number and a unit, "32G"')
        _check("time", self.time, r"\d+|(\d+-)?\d+:\d\d(:\d\d)?|\d+-\d+", 'minutes, "HH:MM:SS" or "D-HH:MM:SS"')
        _check("tracking_mode", self.tracking_mode, "|".join(TRACKING_MODES), f"one of {', '.join(TRACKING_MODES)}")
        for name in ("gpus", "nodes", "tasks_per_node", "cpus", "signal_seconds", "pack", "array_parallelism"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1")
        if self.max_requeues < 0:
            raise ValueError(f"max_requeues = {self.max_requeues}: must be 0 or more")
        if self.gres is not None and self.gpus is not None:
            raise ValueError(f"gres = {self.gres!r} and gpus = {self.gpus}: give one of them")
        if self.pack > 1 and self.nodes * self.tasks > 1:
            raise ValueError(f"pack = {self.pack}: must be 1; a run has {self.nodes * self.tasks} processes itself")
        if self.time is not None and self.signal_seconds >= seconds_of(self.time):
            raise ValueError(
                f"signal_seconds = {self.signal_seconds}: must be less than time = {self.time!r}, or every run is told to "
                "save as soon as it starts"
            )

    @property
    def gpus_per_node(self) -> int:
        """GPUs of one run on each of its nodes; 0 for a run without GPUs."""
        if self.gres is None:
            return self.gpus or 0
        kinds = [kind.removeprefix("gres/").split(":") for kind in self.gres.split(",")]
        return sum(int(kind[-1]) if kind[-1].isdigit() else 1 for kind in kinds if kind[0] == "gpu")

    @property
    def tasks(self) -> int:
        """Processes of one run on each of its nodes."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def processes(self) -> int:
        """Processes of one run on all of its nodes."""
        return self.nodes * self.tasks

    @property
    def gpu_kind(self) -> str | None:
        """The site's name of the GPU, such as "a100", if the profile asks for one; else its constraint."""
        kinds = [kind.split(":") for kind in (self.gres or "").split(",")]
        named = [kind[1] for kind in kinds if len(kind) > 1 and not kind[1].isdigit()]
        return next(iter(named), self.constraint)

    def options(self) -> dict[str, str]:
        """Name -> value of the long options of sbatch."""
        given = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "gres": self.gres,
            "gpus-per-node": self.gpus,
            "constraint": self.constraint,
            "mem": self.memory,
            "time": self.time,
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks,
            "cpus-per-task": self.cpus,
        }
        return {name: str(value) for name, value in given.items() if value is not None}


def _check(name: str, value: str | None, pattern: str, meaning: str) -> None:
    if value is not None and not re.fullmatch(pattern, value):
        raise ValueError(f"{name} = {value!r}: must be {meaning}")


def seconds_of(time: str) -> int:
    """Seconds of a time limit as Slurm reads it: "90" minutes, "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM", "D-HH:MM:SS"."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        units: tuple[int, ...] = (3600, 60, 1)
    else:
        units = {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}[len(parts)]
    return int(days or 0) * 86400 + sum(part * unit for part, unit in zip(parts, units, strict=False))


def profile_folders() -> list[Path]:
    """The user's own folder first, since its profiles may replace shipped ones."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [config / "moco" / "profiles", SHIPPED]


def profile_names() -> list[str]:
    return sorted({path.stem for folder in profile_folders() for path in folder.glob("*.toml")})


def load_profile(name: str) -> Profile:
    """Raises ValueError in one line for an unknown name, a file that is not TOML, a wrong field or value."""
    for folder in profile_folders():
        path = folder / f"{name}.toml"
        if path.is_file():
            return _read(path)
    names = profile_names()
    raise ValueError(f"{name}: no such profile; there are {', '.join(names)}{_meant(name, names)}")


def _read(path: Path) -> Profile:
    try:
        plain = tomllib.loads(path.read_text())
        return Profile(name=path.stem, **{name: _checked(name, value) for name, value in plain.items()})
    except ValueError as error:  # tomllib's, too
        raise ValueError(f"{path}: {error}") from None


def _checked(name: str, value: Any) -> Any:
    allowed = [f.name for f in fields(Profile) if f.name != "name"]
    if name not in allowed:
        raise ValueError(f"{name}: no such field; the fields are {', '.join(allowed)}{_meant(name, allowed)}")
    kind = str(get_type_hints(Profile)[name])
    if "tuple" in kind:
        return tuple(_typed(name, value, list, "a list of strings", str))
    if "Mapping" in kind:
        return dict(_typed(name, value, dict, "a table of strings", str))
    if "int" in kind:
        return _typed(name, value, int, "a whole number")
    if isinstance(value, int) and not isinstance(value, bool) and name in ("time", "memory"):
        return str(value)  # minutes, megabytes
    return _typed(name, value, str, "a string")


def _typed(name: str, value: Any, kind: type, meaning: str, inner: type | None = None) -> Any:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if (
        not isinstance(value, kind)
        or isinstance(value, bool)
        or (inner and not all(isinstance(i, inner) for i in items))
    ):
        raise ValueError(f"{name} = {value!r}: must be {meaning}")
    return value


def _meant(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""
