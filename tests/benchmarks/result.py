"""What a benchmark is, what it is asked, and what it answers. Imports no torch."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tests.benchmarks.rounds import CPU, WALL, Measured, Ratio

Number = int | float
WIDTH = 80
PEERS = ("plain", "lightly")


@dataclass(frozen=True)
class Options:
    """What the command line asks. `settings` are the benchmark's own sizes, with its defaults filled in."""

    against: str = "plain"
    device: str = "cpu"
    rounds: int = 5
    threads: int = 1
    settings: Mapping[str, Number] = field(default_factory=dict)

    def whole(self, name: str) -> int:
        return int(self.settings[name])


@dataclass(frozen=True)
class Result:
    """One comparison. `ours` and `peer` are in `unit`; `ratio` says how many times as good ours is, or ours / peer.

    `better`: is a `ratio` above 1 ("higher") or below 1 ("lower": memory, overhead) good? `wanted`: the ratio that the suite
    promises itself, None where it promises none. `spread`: smallest and largest ratio of the rounds.
    """

    name: str
    ratio: float
    ours: float
    peer: float
    unit: str
    against: str
    spread: tuple[float, float] | None = None
    wall_ratio: float | None = None
    wanted: float | None = None
    better: Literal["higher", "lower"] = "higher"
    rounds: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    figure: tuple[str, ...] = ()  # lines as they are, within 80 columns

    @property
    def reached(self) -> bool | None:
        if self.wanted is None:
            return None
        return self.ratio >= self.wanted if self.better == "higher" else self.ratio <= self.wanted


@dataclass(frozen=True)
class Benchmark:
    """`compares`: what with what, in one line. `settings`: what `--set` may change, with its defaults.

    `least`: the smallest value of a setting, 1 where it is not named. `obeys`: which options mean something here.
    """

    name: str
    compares: str
    run: Callable[[Options], list[Result]]
    settings: Mapping[str, Number] = field(default_factory=dict)
    least: Mapping[str, Number] = field(default_factory=dict)
    obeys: tuple[str, ...] = ("against", "device", "threads")
    rounds: int = 5  # unless --rounds says otherwise


def compared(
    name: str,
    measured: Measured,
    ours: str,
    peer: str,
    unit: str,
    options: Options,
    *,
    wanted: float | None = None,
    notes: tuple[str, ...] = (),
    **settings: Any,
) -> Result:
    """The `Result` of two contenders of `measured`; `unit` without the clock: "images" becomes "images per core-second"."""
    ratio: Ratio = measured.ratio(ours, peer)
    return Result(
        name=name,
        ratio=ratio.median,
        ours=measured.rate(ours),
        peer=measured.rate(peer),
        unit=f"{unit} per {'core-second' if measured.counts == CPU else 'second'}",
        against=peer,
        spread=(ratio.low, ratio.high),
        wall_ratio=measured.ratio(ours, peer, WALL).median,
        wanted=wanted,
        rounds=len(measured.turns[ours]),
        settings={**options.settings, "threads": options.threads, **settings},
        notes=notes,
    )


def as_json(name: str, results: list[Result], machine: Mapping[str, Any]) -> str:
    """One object: the first comparison's numbers, the machine, and all comparisons under `comparisons`."""
    first = results[0]
    head = {"name": name, "ratio": first.ratio, "ours": first.ours, "peer": first.peer, "unit": first.unit}
    every = [{**asdict(result), "reached": result.reached} for result in results]
    return json.dumps(head | {"machine": dict(machine), "comparisons": every})


def as_text(result: Result) -> str:
    """The ratio first; no line is longer than 80 columns but a note that has no space."""
    low, high = result.spread or (result.ratio, result.ratio)
    lines = [f"{_times(result.ratio)}  {result.name} against {result.against}"]
    detail = [f"{_number(result.ours)} and {_number(result.peer)} {result.unit}"]
    if result.rounds > 1:
        detail.append(f"rounds {_times(low)} to {_times(high)}")
    if result.wall_ratio is not None and not result.unit.endswith("per second"):
        detail.append(f"wall {_times(result.wall_ratio)}")
    lines += _wrapped("; ".join(detail))
    if result.wanted is not None:
        bound = "at least" if result.better == "higher" else "at most"
        lines += _wrapped(f"wanted {bound} {_times(result.wanted)}: {'yes' if result.reached else 'NO'}")
    for note in result.notes:
        lines += _wrapped(note)
    return "\n".join([*lines, *(f"       {line}" for line in result.figure)])


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, initial_indent="       ", subsequent_indent="       ")


def _times(ratio: float) -> str:
    """Three digits are more than a shared machine can promise."""
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
