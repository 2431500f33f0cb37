"""Contenders take turns in one process; what counts is the ratio within a round, so that a busy machine cancels out.

    from experiments.benchmark.rounds import Contender, interleave

    measured = interleave(
        [Contender("eager", our_steps, units=512), Contender("lightly", their_steps, units=512)],
        rounds=options.rounds, clock=clock_of(options.device),
    )
    measured.ratio("eager", "lightly")   # Ratio(median=2.31, low=2.2, high=2.5): per-round ratios of the rates
    measured.rate("eager")               # median units per second of that clock

A contender is a callable without arguments that does a fixed number of `units` (images, queries, epochs): some steps, not
one, so that a turn takes a tenth of a second or more. Turns of contenders may differ in their number of units: rates are
compared. Each is called `warm_up` times before the first round, which is where compilation and caches belong. In round r
the order is rotated by r, so nobody always runs on a hot cache or after the same neighbour.

Clocks: `CPU` counts the seconds that all threads of this process computed ("core-seconds"), which a shared machine disturbs
little; it does not see child processes. `WALL` is what a GPU and several processes need; `clock_of("cuda")` waits for the
device at both ends of a turn. Both are recorded whichever counts: `measured.ratio(a, b, WALL)`.

To `Result`s: `tests.benchmarks.result.compared(name, measured, ours, peer, unit, options, **settings)`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Kind = Literal["cpu", "wall"]
CPU: Kind = "cpu"
WALL: Kind = "wall"


@dataclass(frozen=True)
class Contender:
    """`turn()` does `units` of work."""

    name: str
    turn: Callable[[], object]
    units: float


@dataclass(frozen=True)
class Clock:
    """`counts` decides the ratios. `wait` returns when the device has done what it was asked."""

    counts: Kind
    cpu: Callable[[], float] = time.process_time
    wall: Callable[[], float] = time.perf_counter
    wait: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Turn:
    """Seconds of one contender in one round."""

    cpu: float
    wall: float


@dataclass(frozen=True)
class Ratio:
    """Median, smallest and largest of the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Measured:
    """All turns of all contenders, `turns[name][round]`."""

    units: dict[str, float]
    turns: dict[str, list[Turn]]
    counts: Kind

    def rates(self, name: str, clock: Kind | None = None) -> list[float]:
        """Units per second in each round."""
        seconds = [getattr(turn, clock or self.counts) for turn in self.turns[name]]
        return [self.units[name] / max(s, 1e-9) for s in seconds]

    def rate(self, name: str, clock: Kind | None = None) -> float:
        return median(self.rates(name, clock))

    def ratio(self, ours: str, peer: str, clock: Kind | None = None) -> Ratio:
        """How many times as fast `ours` is: the median over rounds of rate over rate, not a ratio of medians."""
        pairs = zip(self.rates(ours, clock), self.rates(peer, clock), strict=True)
        ratios = [a / b for a, b in pairs]
        return Ratio(median(ratios), min(ratios), max(ratios))


def clock_of(device: str) -> Clock:
    """Core-seconds on a CPU; wall time, device awaited, on a GPU."""
    if device == "cpu":
        return Clock(CPU)
    import torch

    return Clock(WALL, wait=torch.cuda.synchronize)


def interleave(contenders: Sequence[Contender], rounds: int, clock: Clock, *, warm_up: int = 1) -> Measured:
    """Each contender once in each of the rounds. Raises ValueError for fewer than one round."""
    if rounds < 1:
        raise ValueError(f"--rounds {rounds}: must be at least 1")
    turns: dict[str, list[Turn]] = {contender.name: [] for contender in contenders}
    assert len(turns) == len(contenders), "two contenders have one name"
    for contender in contenders:
        for _ in range(warm_up):
            contender.turn()
    for number in range(rounds):
        first = number % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            turns[contender.name].append(_time(contender, clock))
    return Measured({contender.name: contender.units for contender in contenders}, turns, clock.counts)


def _time(contender: Contender, clock: Clock) -> Turn:
    clock.wait()
    cpu, wall = clock.cpu(), clock.wall()
    contender.turn()
    clock.wait()
    return Turn(clock.cpu() - cpu, clock.wall() - wall)
