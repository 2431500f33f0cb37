"""The group-sequential test: seeds are added in rounds of equal size up to a cap, and both were fixed beforehand.

At each look the two-sided p of the paired t test is held against a bound. Pocock's bound (1977) is the same at each look;
O'Brien and Fleming's (1979) is strict at first and nearly that of a single test at the last. The bounds are those of a normal
test (Jennison and Turnbull, Group Sequential Methods, 2000, chapter 2), compared as levels of p, which keeps them for t tests
of few seeds (their section 3.8; `make referee` has the rates).

`repeated_p` is the level of the whole plan at which the bound of this look is just reached, and `t_at` the t of the repeated
confidence interval: both hold at whichever look one stops, and at looks alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from experiments.store.schema import Manifest

NODES: Final = 96  # of the quadrature at each look: 1e-10 for the levels below

Bound = Callable[[float, int, int], float]  # constant, look from 1, looks -> bound of |z|
BOUNDS: Final[Mapping[str, Bound]] = {
    "pocock": lambda constant, look, looks: constant,
    "obrien-fleming": lambda constant, look, looks: constant * math.sqrt(looks / look),
}
TITLES: Final = {"pocock": "Pocock", "obrien-fleming": "O'Brien and Fleming"}


@dataclass(frozen=True)
class Looks:
    """kind: one of `BOUNDS`. at: paired seeds at each look, equally far apart."""

    kind: str
    at: tuple[int, ...]

    @staticmethod
    def of(manifest: Manifest) -> Looks | None:
        """The looks of a plan; None if it has none, or if seeds were added that it did not plan."""
        planned = manifest.get("looks")
        if planned is None or manifest.get("joined") or planned["kind"] not in BOUNDS:
            return None
        return Looks(planned["kind"], tuple(planned["at"]))

    def bounds(self, constant: float) -> list[float]:
        return [BOUNDS[self.kind](constant, look, len(self.at)) for look in range(1, len(self.at) + 1)]

    def repeated_p(self, t: float, n: int) -> float | None:
        """Two-sided p of the t of n paired differences; None between looks."""
        if n not in self.at:
            return None
        look = self.at.index(n) + 1
        z = -float(ndtri(stdtr(n - 1, -abs(t))))  # of the normal test with the same p
        if not math.isfinite(z) or z > 12:
            return 0.0
        return crossing(tuple(self.bounds(z / BOUNDS[self.kind](1.0, look, len(self.at)))))

    def t_at(self, n: int, level: float) -> float | None:
        """The |t| that n paired differences need; None between looks."""
        if n not in self.at:
            return None
        bound = self.bounds(constant(self.kind, len(self.at), level))[self.at.index(n)]
        return float(stdtrit(n - 1, ndtr(bound)))


@lru_cache(maxsize=64)
def constant(kind: str, looks: int, level: float) -> float:
    """The constant whose bounds are crossed with probability 1 - level where there is no difference."""
    plan, low, high = Looks(kind, tuple(range(1, looks + 1))), 0.5, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if crossing(tuple(plan.bounds(middle))) > 1 - level else (low, middle)
    return high


@lru_cache(maxsize=4096)
def crossing(bounds: tuple[float, ...]) -> float:
    """Probability that |z| of a growing normal sample is over its bound at some of equally spaced looks.

    The density of the sum that has stayed within its bounds is carried from look to look (Armitage, McPherson and Rowe 1969).
    """
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    crossed = 2 * float(ndtr(-bounds[0]))
    sums, density = (
        bounds[0] * nodes,
        bounds[0] * weights * np.exp(-((bounds[0] * nodes) ** 2) / 2) / math.sqrt(2 * math.pi),
    )
    for look, bound in enumerate(bounds[1:], start=2):
        edge = bound * math.sqrt(look)
        crossed += float((density * (ndtr(sums - edge) + ndtr(-edge - sums))).sum())
        then = edge * nodes
        steps = np.exp(-((then[:, None] - sums[None, :]) ** 2) / 2) / math.sqrt(2 * math.pi)
        sums, density = then, edge * weights * (steps @ density)
    return min(1.0, crossed)
