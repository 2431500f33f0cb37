"""Does a run that is killed again and again end with the weights of one that is not? For a user's own config and device.

`verify` trains the config once whole, then in sequences of attempts that are killed at seeded places until enough kills are
done. A kill is one of three kinds: after some time, at one of the worker's operations on a file (opening, renaming), or by
the kernel in the midst of a write, at a byte of a file. Each attempt is forked from this process, which has imported torch
and used nothing of it. Compared are the final weights, every record and readout to the bit, and what lies in the directory.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.plan.configs import create
from experiments.plan.sweep import Cell
from experiments.run.worker import attempt
from experiments.store import schema
from experiments.store.files import TEMPORARY
from experiments.store.run import RunDirectory

CLOCKS = ("speed/", "seconds/")  # metrics that a clock measures
WRITING_SHARE, FILE_SHARE = 0.25, 0.35  # of the kills; the others come after some time
FAILED = 1  # exit code of an attempt that ended otherwise than done


@dataclass(frozen=True)
class Strike:
    """Where an attempt is killed: after seconds, at the n-th operation on a file of the run, or at a byte of a file."""

    seconds: float | None = None
    operation: int | None = None
    byte: int | None = None


@dataclass
class Measured:
    """Of the whole run: what the strikes are drawn from."""

    seconds: float
    operations: int
    sizes: list[int]  # of its files


@dataclass
class Report:
    """How often each phase was struck, and what was wrong, a line each."""

    phases: Counter[str] = field(default_factory=Counter)
    sequences: int = 0
    starts: int = 0
    writing: int = 0  # kills that left a file half written
    problems: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.phases.total()


def verify(cell: Cell, folder: Path, kills: int, seed: int, say: Callable[[str], None] = lambda line: None) -> Report:
    """Raises ValueError if the whole run does not end well. `folder`: an empty one for the runs."""
    import moco.train  # noqa: F401  before the forks, each of which would import torch anew

    draw, report = random.Random(seed), Report()
    whole = _prepared(folder / "whole", cell)
    measured = _measure(whole)
    say(f"whole run: {measured.seconds:.1f} s, {measured.operations} operations on files")
    while report.kills < kills:
        run = _prepared(folder / f"killed-{report.sequences}", cell)
        report.sequences += 1
        while True:
            strike = _drawn(draw, measured) if report.kills < kills else None
            code, operation = _carry_out(run, strike)
            report.starts += 1
            if code == 0:
                break
            if code > 0:
                report.problems.append(f"{run.path}: an attempt failed: {(run.status() or {}).get('reason')}")
                return report
            half = half_written(run.path)
            report.writing += half
            report.phases["write" if half and operation is None else phase_of(run, operation)] += 1
        report.problems += differences(whole, run)
        say(f"{report.kills} of {kills} kills, {len(report.problems)} differences")
    return report


def _prepared(root: Path, cell: Cell) -> RunDirectory:
    run = RunDirectory(root / cell.run_id)
    create(run, cell.config)
    return run


def _drawn(draw: random.Random, measured: Measured) -> Strike:
    kind = draw.random()
    if kind < WRITING_SHARE:
        return Strike(byte=draw.randrange(1, max(2, draw.choice(measured.sizes))))
    if kind < WRITING_SHARE + FILE_SHARE:
        return Strike(operation=draw.randrange(1, measured.operations + 1))
    return Strike(seconds=draw.uniform(0, measured.seconds))


def _measure(run: RunDirectory) -> Measured:
    began = time.monotonic()
    code, operations = _carry_out(run, None)
    if code != 0:
        reason = (run.status() or {}).get("reason") or "see its log"
        raise ValueError(f"{run.path}: the run fails without a kill: {reason}")
    sizes = sorted(path.stat().st_size for path in run.path.iterdir() if path.stat().st_size)
    return Measured(time.monotonic() - began, int(operations or 0), sizes)


def _carry_out(run: RunDirectory, strike: Strike | None) -> tuple[int, str | None]:
    """One attempt in a process of its own: its exit code, below 0 if it was killed, and what it said at its end.

    That is the file on whose operation it was killed, or of an attempt that nobody kills the number of operations.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = FAILED
        try:
            _silence(run.path.parent / "output.txt")
            code = _child(run, strike, writing)
        finally:
            os._exit(code)
    os.close(writing)
    if strike is not None and strike.seconds is not None:
        _kill_after(pid, strike.seconds)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said or None


def _kill_after(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)


def _silence(file: Path) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)


def _child(run: RunDirectory, strike: Strike | None, writing: int) -> int:
    if strike is not None and strike.byte is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it and raises an error
        resource.setrlimit(resource.RLIMIT_FSIZE, (strike.byte, strike.byte))
    folder, count = str(run.path), 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in ("open", "os.rename", "os.remove", "os.truncate") or not isinstance(arguments[0], str | Path):
            return
        if os.fspath(arguments[0]).startswith(folder):
            count += 1
            if strike is not None and count == strike.operation:
                os.write(writing, os.path.basename(arguments[0]).encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    state = attempt(run.path)
    if strike is None:
        os.write(writing, str(count).encode())
    return 0 if state == schema.DONE else FAILED


def half_written(path: Path) -> bool:
    """Whether a temporary file, or a line without an end, is there."""
    for name in (schema.JOURNAL, schema.ATTEMPTS):
        file = path / name
        if file.exists() and (content := file.read_bytes()) and not content.endswith(b"\n"):
            return True
    return any(TEMPORARY.fullmatch(name) for name in os.listdir(path))


def phase_of(run: RunDirectory, operation: str | None) -> str:
    """What the attempt was at when it was killed, by the file that it was at, or by what it has left."""
    for name, phase in (
        (schema.CHECKPOINT, "checkpoint"),
        (schema.PREVIOUS, "checkpoint"),
        (schema.JOURNAL, "journal"),
        (schema.ENCODER, "finish"),
        (schema.RESULTS, "finish"),
        (schema.STOPPED_READOUTS, "readout"),
    ):
        if operation is not None and name in operation:
            return phase
    if (run.path / schema.ENCODER).exists():
        return "finish"
    records, attempts = run.records(), run.attempts()
    if not attempts or attempts[-1]["event"] == "end" or not records:
        return "start"
    status = run.status() or schema.Status()
    if status.get("total_steps") and records[-1]["step"] == status.get("total_steps"):
        return "readout"
    return "evaluation" if any(key.startswith("validation/") for key in records[-1]["values"]) else "step"


def differences(whole: RunDirectory, run: RunDirectory) -> Iterator[str]:
    """A line for each thing in which the killed run is not the whole one."""
    import torch

    from moco import checkpoint

    one, other = (checkpoint.load(each.path / schema.ENCODER) for each in (whole, run))
    for part in ("encoder", "head"):
        wrong = [name for name, tensor in one[part].items() if not torch.equal(tensor, other[part][name])]
        if wrong:
            yield f"{run.path}: {len(wrong)} of {len(one[part])} tensors of the {part} differ, the first is {wrong[0]}"
    if (wrong_at := _first_difference(_story(whole), _story(run))) is not None:
        yield f"{run.path}: the records differ: {wrong_at}"
    results = [each.results() or schema.Results() for each in (whole, run)]
    for group in ("test", "validation"):
        if results[0].get(group) != results[1].get(group):
            yield f"{run.path}: {group} readouts differ: {results[0].get(group)} and {results[1].get(group)}"
    if left := sorted(set(os.listdir(run.path)) - set(os.listdir(whole.path)) - {schema.PREVIOUS}):
        yield f"{run.path}: left behind: {', '.join(left)}"


def _story(run: RunDirectory) -> list[tuple[int, dict[str, Any]]]:
    return [
        (record["step"], {k: v for k, v in record["values"].items() if not k.startswith(CLOCKS)})
        for record in run.records()
    ]


def _first_difference(one: list[tuple[int, dict[str, Any]]], other: list[tuple[int, dict[str, Any]]]) -> str | None:
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            return f"step {mine[0]} and step {theirs[0]}"
    return f"{len(one)} and {len(other)} of them" if len(one) != len(other) else None
