"""The fields of a search's space as axes of its pictures: each value a place in [0, 1], by the scale that it is drawn on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.schema import SearchRecord


@dataclass(frozen=True)
class Axis:
    """One field of the space as an axis: numbers in [0, 1] by its own scale, and the ticks to read them by."""

    field: str
    options: tuple[str, ...]  # of a choice, else empty
    scale: str  # linear, log, powers, complement
    low: float
    high: float

    def place(self, text: str) -> float | None:
        """None for a value that is not on the axis."""
        if self.options:
            return self.options.index(text) / max(1, len(self.options) - 1) if text in self.options else None
        try:
            low, high, value = (self._scaled(v) for v in (self.low, self.high, float(text)))
        except ValueError:
            return None
        return (value - low) / (high - low)

    def _scaled(self, value: float) -> float:
        if self.scale == "complement":
            return -math.log10(1 - value)
        return math.log10(value) if self.scale in ("log", "powers") else value

    def ticks(self) -> dict[float, str]:
        if self.options:
            return {place: option for option in self.options if (place := self.place(option)) is not None}
        return {place: f"{v:.4g}" for v in self._marks() if (place := self.place(repr(v))) is not None}

    def _marks(self) -> list[float]:
        low, high = self._scaled(self.low), self._scaled(self.high)
        if self.scale == "powers":
            powers = range(round(math.log2(self.low)), round(math.log2(self.high)) + 1)
            return [2**power for power in powers[:: max(1, len(powers) // 4)]]
        steps = [low + (high - low) * i / 3 for i in range(4)]
        if self.scale == "complement":
            return [self.low, *(1 - 10**-s for s in steps[1:-1]), self.high]
        return [self.low, *(float(f"{10**s:.2g}") if self.scale == "log" else s for s in steps[1:-1]), self.high]


def axes_of(record: SearchRecord) -> list[Axis]:
    return [_axis(name, entry) for name, entry in record["space"].items()]


def _axis(name: str, entry: Mapping[str, Any]) -> Axis:
    if entry["kind"] == "choice":
        return Axis(name, tuple(entry["options"]), "linear", 0.0, 1.0)
    if entry["kind"] == "given":
        cases = [_axis(name, case) for case in entry["cases"].values()]
        options = tuple(dict.fromkeys(option for case in cases for option in case.options))
        scale = cases[0].scale if len({case.scale for case in cases}) == 1 else "linear"
        return Axis(name, options, scale, min(c.low for c in cases), max(c.high for c in cases))
    scale = entry["kind"] if entry["kind"] in ("log", "powers", "complement") else "linear"
    return Axis(name, (), scale, float(entry["low"]), float(entry["high"]))
