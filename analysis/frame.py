"""From `$MOCO_RUNS` to one polars frame: a row for each cell that a sweep planned, whether or not it has run.

    read_run                 one run directory
    read_runs                those of a sweep, from a cache where nothing has changed
    manifests, find_sweep    the planned sweeps
    load_sweep               a sweep's manifest and its cells, with the columns of `cell_types()`
    curves                   the journals of runs, with the columns of `CURVES`

Tables, figures and reports need these two frames only, so another source that fills them (`analysis.tracked`) gets the same.
Files are read while runs write them: status and results are replaced in one step, and the journal is append-only.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast

import polars as pl

from analysis import checked as checked_readouts
from analysis.checked import agreeing, shortfalls
from experiments.store import files, metrics, records, schema, states
from experiments.store.files import CHECKSUM, parsed, sound_lines, wrong_checksum
from experiments.store.journal import Record, read_journal
from experiments.store.manifests import one_name_an_arm
from experiments.store.named import named, names, nearest
from experiments.store.records import problem
from experiments.store.schema import Manifest
from experiments.store.states import device_seconds, is_at_rest, judge

Object = TypeVar("Object")
Log = Callable[[str], None]  # gets a line about what could not be read


@dataclass(frozen=True)
class Run:
    """A run as its directory has it. `state`: its true state now; `readouts`: of a finished run, in percent."""

    state: str
    reason: str = ""
    diverged: bool = False
    step: int | None = None
    total_steps: int | None = None
    readouts: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    device_seconds: float | None = None  # of all attempts, those that failed among them, times the processes of each
    commits: tuple[str, ...] = ()  # of all attempts; `0123456+89ab` had uncommitted changes
    hardware: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    metrics: tuple[Any, ...] = ()  # records of readouts that this program may not know
    hits: str = ""  # readout -> schema.Hits as JSON; of older runs empty
    images: str = ""  # what happened to the image files, one line
    shortfalls: tuple[str, ...] = ()  # where a readout had less to work with than its name says, a line each
    settled: bool = False  # its state follows from its files alone, without lock, heartbeat or process


def read_object(path: Path, kind: type[Object], problems: list[str]) -> Object | None:
    """The record in a JSON file; None without a file, and for a damaged one, which is added to `problems`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: unreadable ({error})")
        return None
    if wrong_checksum(text.encode()):
        problems.append(f"{path}:1: damaged (its content is not what its checksum says); not used")
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        problems.append(f"{path}:{error.lineno}: damaged ({error.msg}); not used")
        return None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 100,000 brackets
        problems.append(f"{path}:1: damaged ({type(error).__name__}); not used")
        return None
    if isinstance(value, dict):
        value.pop(CHECKSUM, None)
    if (wrong := problem(kind, value)) is not None:
        problems.append(f"{path}:1: damaged ({wrong}); not used")
        return None
    found: Object = value
    return found


def _attempts(run_dir: Path, problems: list[str]) -> list[schema.Attempt]:
    """The attempts of a run; damaged lines are left out and added to `problems`."""
    path = run_dir / schema.ATTEMPTS
    try:
        lines, damaged = sound_lines(path)
    except OSError as error:
        problems.append(f"{path}: unreadable ({error})")
        return []
    wrong = [number for number, line in lines if problem(schema.Attempt, line) is not None]
    problems += _damaged_lines(path, sorted([*damaged, *wrong]))
    return [cast(schema.Attempt, line) for number, line in lines if number not in wrong]


def _hits(run_dir: Path, problems: list[str]) -> str:
    """The hits of a run as JSON text; empty where there are none. Those of a readout that are damaged are left out."""
    path = run_dir / schema.HITS
    found = read_object(path, dict, problems) or {}
    wrong = {name: why for name, value in found.items() if (why := problem(schema.Hits, value)) is not None}
    problems += [f"{path}: {name} damaged ({why}); not used" for name, why in wrong.items()]
    sound = {name: value for name, value in found.items() if name not in wrong}
    return json.dumps(sound, separators=(",", ":")) if sound else ""


def _damaged_lines(path: Path, numbers: Iterable[int]) -> list[str]:
    return [f"{path}:{number}: damaged line; left out, the rest is used" for number in numbers]


def _records(run_dir: Path, problems: list[str]) -> list[Record]:
    """The metric records of a journal; damaged lines are left out and added to `problems`."""
    path = run_dir / schema.JOURNAL
    try:
        found, damaged = read_journal(path)
    except OSError as error:
        problems.append(f"{path}: unreadable ({error})")
        return []
    problems += _damaged_lines(path, damaged)
    return found


def finite(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def version(commit: str, uncommitted: str | None) -> str:
    """`0123456`, or `0123456+89ab` with the hash of the uncommitted changes."""
    return f"{commit[:7]}+{uncommitted[:7]}" if uncommitted else commit[:7]


def _facts(results: schema.Results | None) -> dict[str, float]:
    """Facts about the readouts, by the name after `readout/`."""
    found = results.get("readout") if results else None
    return {k: v for k, value in found.items() if (v := finite(value)) is not None} if isinstance(found, dict) else {}


def read_run(run_dir: Path) -> Run:
    """The run in a directory: `missing` without a config; readouts are given for finished runs only."""
    if not (run_dir / schema.CONFIG).exists():
        return Run(schema.MISSING)
    problems: list[str] = []
    status = read_object(run_dir / schema.STATUS, schema.Status, problems) or schema.Status()
    results = read_object(run_dir / schema.RESULTS, schema.Results, problems)
    if results is not None and "test" not in results:
        problems.append(f"{run_dir / schema.RESULTS}:1: damaged (without test); not used")
        results = None
    images = read_object(run_dir / schema.IMAGES, schema.Images, problems)
    attempts = _attempts(run_dir, problems)
    state, reason = judge(run_dir, status, lambda: results is not None, of_job=None)
    test = results.get("test") if results and state == schema.DONE else None
    hits = _hits(run_dir, problems) if test else ""
    numbers = {k: v for k, v in test.items() if _is_number(v)} if isinstance(test, dict) else {}
    return Run(
        state=state,
        reason=reason or "",
        diverged=bool(status.get("diverged")) and state == schema.FAILED,
        step=status.get("step"),
        total_steps=status.get("total_steps"),
        readouts=agreeing(run_dir, numbers, problems),
        seconds=finite(results.get("seconds")) if results and state == schema.DONE else None,
        device_seconds=device_seconds(attempts),
        commits=tuple(dict.fromkeys(version(c, a.get("uncommitted")) for a in attempts if (c := a.get("commit")))),
        hardware=tuple(dict.fromkeys(str(a["hardware"]) for a in attempts if a.get("hardware"))),
        problems=tuple(problems),
        images=images["line"] if images else "",
        shortfalls=tuple(shortfalls(_facts(results))) if test else (),
        metrics=tuple(found if results and isinstance(found := results.get("metrics"), list) else ()),
        hits=hits,
        settled=is_at_rest(str(status.get("state")), lambda: results is not None),
    )


# The cache of runs at rest, `$MOCO_RUNS/.analysis/<sweep>.json`, so that a table of thousands of runs opens few files.
#
# An entry is valid while the files it was read from have the same inode, size and time of change. A cache file that is
# damaged, or was written by other code, is ignored. It is replaced as a whole, so of two writers at the same time one
# wins, and the other's entries are read again. Only runs whose files alone decide their state are kept; those that may be
# running, queued or lost are read each time.
#
# `status` has a cache of its own (`experiments.state.state`) that needs only the time of the run's folder, since status
# and results are replaced. A table needs the attempts too, and appending to them leaves that time alone.


FOLDER: Final = ".analysis"
WORTH_IT: Final = 200  # runs; fewer are read as quickly without
READ_FILES: Final = (
    schema.CONFIG,
    schema.STATUS,
    schema.ATTEMPTS,
    schema.RESULTS,
    schema.HITS,
    schema.IMAGES,
    schema.JOURNAL,
)
# A file that is changed twice within a clock tick may look the same after both: what changed just now is not kept.
SETTLED_NS: Final = 2_000_000_000

Signature = list[list[int] | None]
Entry = list[Any]  # signature, then the fields of Run


@cache
def _code() -> str:
    made_by = (__file__, checked_readouts.__file__, files.__file__, records.__file__, states.__file__)
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in made_by)).hexdigest()[:16]


def _signature(run_dir: str) -> Signature:
    found: Signature = []
    for name in READ_FILES:
        try:
            facts = os.stat(f"{run_dir}/{name}")
        except OSError:
            found.append(None)
        else:
            found.append([facts.st_ino, facts.st_size, facts.st_mtime_ns])
    return found


def read_runs(root: Path, label: str, run_ids: Iterable[str]) -> dict[str, Run]:
    """`read_run` of every run of a sweep, by run id."""
    wanted = list(run_ids)
    if len(wanted) < WORTH_IT:
        return {run_id: read_run(root / run_id) for run_id in wanted}
    path = root / FOLDER / f"{label}.json"
    known, found, kept = load(path), {}, {}
    now = time.time_ns()
    for run_id in wanted:
        signature = _signature(f"{root}/{run_id}")
        entry = known.get(run_id)
        if entry is not None and entry[0] == signature:
            found[run_id], kept[run_id] = Run(*entry[1:]), entry
            continue
        run = found[run_id] = read_run(root / run_id)
        if run.settled and all(f is None or f[2] < now - SETTLED_NS for f in signature):
            kept[run_id] = [signature, *_fields(run)]
    if kept != known:
        _store(path, kept)
    return found


def _fields(run: Run) -> list[Any]:
    values = [getattr(run, field.name) for field in fields(run)]
    return [dict(v) if isinstance(v, Mapping) else list(v) if isinstance(v, tuple) else v for v in values]


def load(path: Path) -> dict[str, Entry]:
    """The entries of a cache file; none if it is missing, damaged or written by other code."""
    try:
        head, _, body = path.read_text(encoding="utf-8").partition("\n")
        code, digest = head.split()
    except (OSError, ValueError):
        return {}
    if code != _code() or digest != hashlib.sha256(body.encode()).hexdigest():
        return {}
    entries: dict[str, Entry] = json.loads(body)
    return entries


def _store(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write the cache file. In a folder that cannot be written to, runs are read again next time."""
    body = json.dumps(entries, separators=(",", ":"))
    new = path.with_name(f"{path.name}.{os.getpid()}.{time.time_ns()}")
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        try:
            new.write_text(f"{_code()} {hashlib.sha256(body.encode()).hexdigest()}\n{body}", encoding="utf-8")
            os.replace(new, path)
        finally:
            new.unlink(missing_ok=True)


def cell_types() -> pl.Schema:
    """The columns of `Loaded.cells`, those of readouts that runs declare among them."""
    types: dict[str, Any] = {
        "arm": pl.String,
        "seed": pl.Int64,
        "run_id": pl.String,
        "state": pl.String,  # one of schema.STATES
        "reason": pl.String,
        "diverged": pl.Boolean,
        "step": pl.Int64,
        "total_steps": pl.Int64,
        **dict.fromkeys(schema.READOUTS, pl.Float64),  # percent; null unless the run is done and has it
        "seconds": pl.Float64,  # wall clock of all attempts
        "device_seconds": pl.Float64,  # the same of every run, finished or not, times the processes of each attempt
        "commits": pl.List(pl.String),  # of all attempts; `0123456+89ab` had uncommitted changes
        "hardware": pl.List(pl.String),
        "hits": pl.String,  # readout -> schema.Hits as JSON; null where a run has none
        "shortfalls": pl.List(pl.String),  # where a readout had less to work with than its name says, one line each
        "images": pl.String,  # what happened to the image files, one line; empty for a set that is not read from files
        "problems": pl.List(pl.String),  # damaged files, one line each
    }
    return pl.Schema(types)


CURVES: Final = pl.Schema(
    {
        "arm": pl.String,
        "seed": pl.Int64,
        "run_id": pl.String,
        "state": pl.String,
        "step": pl.Int64,
        "epoch": pl.Float64,
        "key": pl.String,  # one of schema.METRICS, or another key of the journal
        "value": pl.Float64,
    }
)


class Loaded(NamedTuple):
    """A sweep's manifest and its cells."""

    manifest: Manifest
    cells: pl.DataFrame  # of `cell_types`, in the order of the manifest


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _read_manifest(path: Path, log: Log) -> Manifest | None:
    """A manifest, also of a newer version; None for a file that is damaged or something else, which is logged."""
    try:
        value: Any = parsed(path.read_bytes(), path)
    except (OSError, ValueError) as error:
        log(f"{path}: damaged manifest ({str(error).splitlines()[0]}); left out")
        return None
    version = value.get("store_version") if isinstance(value, dict) else None
    wrong = problem(Manifest, value)
    newer = isinstance(version, int) and version > schema.STORE_VERSION and {"name", "label"} <= set(value)
    if wrong and not newer:
        log(f"{path}: not a manifest of a sweep ({wrong}); left out")
        return None
    return cast(Manifest, value) if wrong else one_name_an_arm(cast(Manifest, value))


def manifests(root: Path, log: Log = to_stderr) -> list[Manifest]:
    """All planned sweeps of a store, most recently updated first."""
    paths = sorted((root / schema.SWEEPS_FOLDER).glob("*.json"))
    found = [m for path in paths if (m := _read_manifest(path, log))]
    return sorted(found, key=lambda m: str(m.get("updated", "")), reverse=True)


def find_sweep(root: Path, name: str, log: Log = to_stderr) -> Manifest:
    """By label (`queue_size@digits`), else by name (`queue_size`): of several variants the most recently updated.

    `ValueError`, one line: an empty store, an unknown sweep, a sweep written by a newer version.
    """
    known = manifests(root, log)
    if not known:
        raise ValueError(
            f"no sweeps under {root}: run one first, such as `python sweeps/queue_size.py`, "
            "or set MOCO_RUNS to the folder that holds your runs"
        )
    matching = named(known, name)
    if not matching:
        near, labels = nearest(name, names(known)), ", ".join(dict.fromkeys(m["label"] for m in known))
        hint = f"did you mean {near}? " if near else ""
        raise ValueError(f"no sweep {name!r} under {root}: {hint}there are {labels}")
    chosen, *others = matching
    if others:
        log(f"{name}: reading {chosen['label']}; also there: {', '.join(m['label'] for m in others)}")
    if chosen["store_version"] > schema.STORE_VERSION:
        raise ValueError(
            f"{chosen['label']}: written in store version {chosen['store_version']}, this program reads up to "
            f"{schema.STORE_VERSION}: update it, or read the sweep with the version that wrote it"
        )
    return chosen


def _cell_row(cell: schema.Cell, run: Run) -> dict[str, Any]:
    return {
        "arm": cell["arm"],
        "seed": cell["seed"],
        "run_id": cell["run_id"],
        "state": run.state,
        "reason": run.reason,
        "diverged": run.diverged,
        "step": run.step,
        "total_steps": run.total_steps,
        **{readout: run.readouts.get(readout) for readout in schema.READOUTS},
        "seconds": run.seconds,
        "device_seconds": run.device_seconds,
        "commits": list(run.commits),
        "hardware": list(run.hardware),
        "hits": run.hits or None,
        "shortfalls": list(run.shortfalls),
        "images": run.images,
        "problems": list(run.problems),
    }


def _column(name: str, values: list[Any], dtype: Any) -> pl.Series:
    """A column of the frame: three times as fast as by row. Equal lists, which many runs share, are made once."""
    if not isinstance(dtype, pl.List):
        return pl.Series(name, values, dtype=dtype)
    places: dict[tuple[str, ...], int] = {}
    at = [places.setdefault(tuple(value), len(places)) for value in values]
    return pl.Series(name, list(map(list, places)), dtype=dtype).gather(at)


def load_sweep(root: Path, name: str, log: Log = to_stderr) -> Loaded:
    """A sweep's manifest and its cells. Damaged files are logged and listed in the column `problems`."""
    manifest = find_sweep(root, name, log)
    runs = read_runs(root, manifest["label"], (cell["run_id"] for cell in manifest["cells"]))
    for run in runs.values():
        metrics.learn_plain(list(run.metrics))
    rows = [_cell_row(cell, runs[cell["run_id"]]) for cell in manifest["cells"]]
    cells = pl.DataFrame(
        {name: _column(name, [row[name] for row in rows], dtype) for name, dtype in cell_types().items()}
    )
    for line in cells["problems"].explode().drop_nulls():
        log(line)
    return Loaded(manifest, cells)


def curves(root: Path, cells: pl.DataFrame, keys: Sequence[str], log: Log = to_stderr) -> pl.DataFrame:
    """The journals of all runs that exist, in long form (`CURVES`), for the metric keys asked for.

    Records that a resume has replaced are left out; a value that is not a finite number is null.
    """
    rows: list[tuple[Any, ...]] = []
    problems: list[str] = []
    wanted = set(keys)
    for arm, seed, run_id, state in cells.select("arm", "seed", "run_id", "state").iter_rows():
        if state == schema.MISSING:
            continue
        for record in _records(root / run_id, problems):
            step, epoch = record["step"], record.get("epoch")
            for key in sorted(wanted.intersection(record["values"])):
                value = record["values"][key]
                finite = isinstance(value, int | float) and math.isfinite(value)
                rows.append((arm, seed, run_id, state, step, epoch, key, value if finite else None))
    for line in problems:
        log(line)
    return pl.DataFrame(rows, schema=CURVES, orient="row", strict=False)
