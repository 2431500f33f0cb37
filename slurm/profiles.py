"""What a site wants to know of a job, by name: TOML files shipped here, and the user's own in ~/.config/moco/profiles.

    partition = "gpu"
    gpus = 1
    cpus = 8
    time = "08:00:00"

Every field may be left out; Slurm's own default stands then. Imports nothing but the standard library.
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


@dataclass(frozen=True)
class Profile:
    """Resources of one run, and how many of them at a time. Raises ValueError for what Slurm cannot mean."""

    name: str
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None  # "gpu:a100:1"; instead of `gpus`
    gpus: int | None = None
    constraint: str | None = None
    nodes: int = 1
    cpus: int = 4  # also the number of threads of torch, unless `environment` says otherwise
    memory: str | None = None  # "32G"; of one run
    time: str | None = None  # "30" minutes, "HH:MM:SS" or "D-HH:MM:SS"; a run that needs longer is requeued
    signal_seconds: int = 120  # before the end of that time a run is told to save; Slurm may be a minute early
    max_requeues: int = 50  # of one run in one job; a run that has made no progress is not requeued at all
    array_parallelism: int | None = None  # runs at a time, unless --max-parallel says otherwise
    setup: tuple[str, ...] = ()  # lines of shell before the run: "module load cuda/12"
    environment: Mapping[str, str] = field(default_factory=dict)
    runs_root: str | None = None  # where MOCO_RUNS is not set
    tracking: str | None = None  # address of an MLflow server
    baseline: str | None = None  # where --baseline is not given

    def __post_init__(self) -> None:
        for name, pattern, meaning in (
            ("memory", r"\d+[KMGT]?", 'a number and a unit, "32G"'),
            ("time", r"\d+|(\d+-)?\d+:\d\d(:\d\d)?|\d+-\d+", 'minutes, "HH:MM:SS" or "D-HH:MM:SS"'),
        ):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(pattern, value):
                raise ValueError(f"{name} = {value!r}: must be {meaning}")
        for name in ("gpus", "nodes", "cpus", "signal_seconds", "array_parallelism"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1")
        if self.nodes != 1:
            raise ValueError(f"nodes = {self.nodes}: must be 1; a run on several nodes is not there yet")
        if self.max_requeues < 0:
            raise ValueError(f"max_requeues = {self.max_requeues}: must be 0 or more")
        if self.gres is not None and self.gpus is not None:
            raise ValueError(f"gres = {self.gres!r} and gpus = {self.gpus}: give one of them")

    def options(self) -> dict[str, str]:
        """Long options of sbatch."""
        given = {
            "partition": self.partition, "account": self.account, "qos": self.qos, "gres": self.gres,
            "gpus-per-node": self.gpus, "constraint": self.constraint, "mem": self.memory, "time": self.time,
            "nodes": self.nodes, "cpus-per-task": self.cpus,
        }  # fmt: skip
        return {name: str(value) for name, value in given.items() if value is not None}


def profile_folders() -> list[Path]:
    """The user's own first: they may replace a shipped one."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [config / "moco" / "profiles", SHIPPED]


def profile_names() -> list[str]:
    return sorted({path.stem for folder in profile_folders() for path in folder.glob("*.toml")})


def load_profile(name: str) -> Profile:
    """Raises ValueError in one line: no such profile, no TOML, a wrong field or value."""
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
