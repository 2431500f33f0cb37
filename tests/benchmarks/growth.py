"""Does a cost grow linearly? The cost of one more at the far end against the cost of one more at the near end."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.result import Options, Result

WIDTH = 48  # of the longest bar
STRAIGHT = 1.5  # a quadratic cost over three doublings has 4 to 6


def marginal(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Cost per unit between the last two of (size, cost), and between the first two. Sizes ascend; three or more points."""
    assert len(points) >= 3, points
    (x0, y0), (x1, y1), *_, (x2, y2), (x3, y3) = (*points[:2], *points[-2:])
    return (y3 - y2) / (x3 - x2), (y1 - y0) / (x1 - x0)


def grows(name: str, points: Sequence[tuple[float, float]], unit: str, options: Options) -> Result:
    """`ours`: what one more costs at the far end, `peer`: at the near end. The ratio is 1 for a straight line.

    A cost that does not grow (within the clock's noise) at the near end has no ratio of slopes; then the ratio is that of
    the costs at both ends, which for no growth is 1.
    """
    far, near = marginal(points)
    flat = near <= 0 or max(y for _, y in points) < STRAIGHT * min(y for _, y in points)
    ratio = points[-1][1] / points[0][1] if flat else far / near
    shape = "hardly grows: cost at the far end / at the near end" if flat else "cost of one more, far end / near end"
    ours, peer = (points[-1][1], points[0][1]) if flat else (far, near)
    return Result(
        name=name,
        ratio=ratio,
        ours=ours,
        peer=peer,
        unit=unit if flat else f"{unit} for one more",
        against="a straight line",
        wanted=STRAIGHT,
        better="lower",
        rounds=options.rounds,
        settings={**options.settings, "points": [list(point) for point in points]},
        notes=(shape,),
        figure=bars(points),
    )


def bars(points: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    """Size, cost, and a bar as long as the cost; where it is a straight line, each bar is about twice the one above."""
    longest = max(cost for _, cost in points)
    return tuple(f"{size:>7,.0f}  {cost:<8.3g}{'#' * max(1, round(WIDTH * cost / longest))}" for size, cost in points)
