"""Student's t without a library: the analysis has scipy, this room has not."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVEL = 0.95


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t interval of the mean; None below two values."""
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = quantile(n - 1) * std / math.sqrt(n)
    return mean - half, mean + half


def quantile(freedom: int, level: float = LEVEL) -> float:
    """The t that holds `level` of the distribution within +- t, by bisection over the angle atan(t / sqrt(freedom))."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle, freedom) < level else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def inside(angle: float, freedom: int) -> float:
    """P(|t| < sqrt(freedom) tan(angle)), the finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = sine * cosine if odd else sine
    for k in range(3 if odd else 2, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if not odd:
        return total
    return 2 / math.pi * (angle + (total if freedom > 1 else 0.0))
