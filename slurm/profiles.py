"""Profiles: named TOML files with the resources of a job, shipped here or the user's own in ~/.config/moco/profiles.

    partition = "gpu"
    gpus = 1
    cpus = 8
    time = "08:00:00"

Every field may be left out; Slurm's default holds then. `inherits = "NAME"` takes what another profile says, field by field
and, in the tables, key by key. `sbatch`, `srun` and `prefix` hold what a site needs and we have no field for:

    sbatch = { exclude = "n7", comment = "moco", mail-type = "END", exclusive = true }
    srun = ["--container-image=site.sqsh"]
    prefix = "apptainer exec --nv $IMAGES/torch.sif"
    python = "/opt/conda/bin/python"

Imports only the standard library.

A run is one job step: `tasks_per_node` processes on each of `nodes` nodes, by default one for each GPU. More than one
process means that the run itself is spread over them.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

from slurm.secrets import masked

SHIPPED = Path(__file__).parent / "profiles"
TRACKING_MODES = ("direct", "spool", "off")
ONE_WORD = ("cluster", "partition", "account", "qos", "gres", "gpu_type", "constraint")
OUR_OPTIONS = {  # of sbatch: the field that says it, or why it is ours
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "gres": "gres",
    "gpus": "gpus",
    "gpus-per-node": "gpus",
    "constraint": "constraint",
    "nodes": "nodes",
    "ntasks": "tasks_per_node",
    "ntasks-per-node": "tasks_per_node",
    "cpus-per-task": "cpus",
    "mem": "memory",
    "time": "time",
    "clusters": "cluster",
    "signal": "signal_seconds",
    "array": "array_parallelism",
}
OUR_OWN = (
    "job-name",
    "output",
    "error",
    "input",
    "open-mode",
    "wrap",
    "parsable",
    "test-only",
    "wait",
    "requeue",
    "hold",
)


@dataclass(frozen=True)
class Profile:
    """Resources of one run, and how many runs at a time. Raises ValueError for values that Slurm would not understand."""

    name: str
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gres: str | None = None  # "gpu:a100:1"; instead of `gpus`
    gpus: int | None = None  # of one run on each of its nodes; "a100:2" in a file also says which
    gpu_type: str | None = None  # the site's name of them
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
    # "slurm", "slurm:NAME" for the one of that name only, or the dotted name of a module with another cluster
    # (experiments.run.cluster)
    cluster: str = "slurm"
    sbatch: Mapping[str, str] = field(default_factory=dict)  # further options of sbatch; "" for one without a value
    srun: tuple[str, ...] = ()  # further words of srun, before the command; variables are the node's
    prefix: str | None = None  # shell words before python, as of a container; variables are the node's
    python: str | None = None  # on the node; left out: the one that submits

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
        if self.gpu_type is not None and self.gpus is None:
            raise ValueError(f"gpu_type = {self.gpu_type!r}: says nothing without gpus; add gpus = 1")
        for name, value in self.sbatch.items():
            _check_option(name, value)
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                raise ValueError(f"environment: {name!r} is no name of a variable; letters, digits and _ are")
        for word in (*self.srun, *filter(None, [self.prefix, self.python])):
            if not word.strip() or re.search(r"[\r\n\0]", word):
                raise ValueError(f"{word!r}: must be words in one line")
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
        return self.gpu_type or next(iter(named), self.constraint)

    def options(self) -> dict[str, str]:
        """Name -> value of the long options of sbatch; "" for one without a value."""
        given = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "gres": self.gres,
            "gpus-per-node": f"{self.gpu_type}:{self.gpus}" if self.gpu_type else self.gpus,
            "constraint": self.constraint,
            "mem": self.memory,
            "time": self.time,
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks,
            "cpus-per-task": self.cpus,
        }
        return {name: str(value) for name, value in given.items() if value is not None} | dict(self.sbatch)


def flags(options: Mapping[str, str]) -> list[str]:
    """Options as a command has them: `--mem=2G`, `--exclusive`."""
    return [f"--{name}={value}" if value else f"--{name}" for name, value in options.items()]


def _check_option(name: str, value: str) -> None:
    """Raises ValueError for an option of sbatch that a field says, that is ours, or that is not one line."""
    if name in OUR_OPTIONS:
        raise ValueError(f"sbatch: {name} is the field {OUR_OPTIONS[name]} of the profile; write it there")
    if name in OUR_OWN:
        raise ValueError(f"sbatch: {name} is set by the submission itself; leave it out")
    if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
        raise ValueError(f"sbatch: {name!r} must be the long name of an option, without dashes before it")
    if re.search(r"[\r\n\0]", value):
        raise ValueError(f"sbatch: {name} = {value!r}: must be one line")


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


def load_profile(name: str, settings: Sequence[str] = ()) -> Profile:
    """The profile of that name, with `settings`, "FIELD=VALUE" as of --cluster-set, in the place of what it says.

    Raises ValueError in one line for an unknown name, a file that is not TOML, a wrong field or value.
    """
    path = _find(name)
    plain = _with_inherited(path, _plain(path))
    for setting in settings:
        plain = _merged(plain, _set(setting))
    try:
        return _made(name, plain)
    except ValueError as error:
        raise ValueError(
            f"{f'--cluster-set {shlex.join(map(masked, settings))}, ' if settings else ''}{path}: {error}"
        ) from None


def _find(name: str, not_here: Path | None = None) -> Path:
    """The file of a profile. `not_here`: one that inherits from another of its own name."""
    for folder in profile_folders():
        path = folder / f"{name}.toml"
        if path.is_file() and path != not_here:
            return path
    names = profile_names()
    raise ValueError(f"{name}: no such profile; there are {', '.join(names)}{_meant(name, names)}")


def _plain(path: Path) -> dict[str, Any]:
    """The file's own fields, of the right kinds. Raises ValueError with its path."""
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: _checked(name, value) for name, value in plain.items()}
    except ValueError as error:  # tomllib's, too
        raise ValueError(f"{path}: {error}") from None


def _with_inherited(path: Path, plain: dict[str, Any], heirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The fields with those of the profiles that it inherits from. Raises ValueError for a circle."""
    parent = plain.pop("inherits", None)
    if parent is None:
        return plain
    try:
        above = _find(parent, not_here=path)
    except ValueError as error:
        raise ValueError(f"{path}: inherits = {error}") from None
    if above in heirs:
        raise ValueError(f"{path}: inherits = {parent!r}: goes in a circle")
    return _merged(_with_inherited(above, _plain(above), (*heirs, path)), plain)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` goes first, in tables key by key. A way to ask for GPUs replaces the other ways."""
    kept = dict(below)
    for names in ({"gpus", "gres", "gpu_type"},):
        if (names - {"gpu_type"}) & set(above):
            kept = {name: value for name, value in kept.items() if name not in names}
    tables = {n: {**kept[n], **v} for n, v in above.items() if isinstance(v, dict) and n in kept}
    return {**kept, **above, **tables}


def _set(setting: str) -> dict[str, Any]:
    """`time=2:00:00`, `gpus=a100:2`, `sbatch.exclude=n7`, `setup="module load x"` as the field of a profile."""
    key, equals, text = setting.partition("=")
    name, dot, inner = key.strip().partition(".")
    if not equals or not name or (dot and not inner):
        raise ValueError(
            f"--cluster-set {masked(setting)}: must be FIELD=VALUE, such as time=2:00:00 or sbatch.exclude=n7"
        )
    kind = _kinds().get(name, "")
    if ("Mapping" in kind) != bool(dot):
        how = f"{name}.NAME=VALUE" if "Mapping" in kind else f"{name}=VALUE"
        raise ValueError(f"--cluster-set {masked(setting)}: must be {how}")
    value: Any = {inner: text} if dot else [text] if "tuple" in kind else text
    if "int" in kind and re.fullmatch(r"-?\d+", text):
        value = int(text)
    try:
        return {name: _checked(name, value)}
    except ValueError as error:
        raise ValueError(f"--cluster-set {error}") from None


def _made(name: str, plain: Mapping[str, Any]) -> Profile:
    plain = dict(plain)
    if isinstance(plain.get("gpus"), str):
        plain["gpu_type"], _, count = plain["gpus"].partition(":")
        plain["gpus"] = int(count)
    return Profile(name=name, **plain)


def _kinds() -> dict[str, str]:
    """Field -> its type, as text."""
    return {f.name: str(get_type_hints(Profile)[f.name]) for f in fields(Profile) if f.name != "name"}


def _checked(name: str, value: Any) -> Any:
    kinds = {**_kinds(), "inherits": "str"}
    if name not in kinds:
        raise ValueError(f"{name}: no such field; the fields are {', '.join(kinds)}{_meant(name, list(kinds))}")
    kind = kinds[name]
    if name == "gpus" and isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w.-]*:[1-9]\d*", value):
        return value  # "a100:2"
    if name == "sbatch" and isinstance(value, dict):
        return {option: text for option, one in value.items() if (text := _option(option, one)) is not None}
    if "tuple" in kind:
        return tuple(_typed(name, value, list, "a list of strings", str))
    if "Mapping" in kind:
        return dict(_typed(name, value, dict, "a table of strings", str))
    if "int" in kind:
        return _typed(name, value, int, 'a whole number, or as "a100:2"' if name == "gpus" else "a whole number")
    if isinstance(value, int) and not isinstance(value, bool) and name in ("time", "memory"):
        return str(value)  # minutes, megabytes
    return _typed(name, value, str, "a string")


def _option(name: str, value: object) -> str | None:
    """The value of an option of sbatch: "" for true, None for false."""
    if isinstance(value, bool):
        return "" if value else None
    if isinstance(value, int | str) and value != "":
        return str(value)
    raise ValueError(f"sbatch: {name} = {value!r}: must be a string, a whole number, true or false")


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
