"""`make referee`: how often do the rules say something false? Simulated sweeps without any difference, judged as tables do.

    python -m tests.benchmarks.referee [--sweeps 20000] [--write]

Family-wise: the share of sweeps in which a table has any claim, in bold, about any arm at any time that somebody reads it. The
tests are the product's own, on arrays: `tests/analysis/test_referee.py` holds them against `ablation_table`, claim by claim.
Shapes are judged by `evaluate_claim` itself. `--write` keeps the numbers in REFEREE.md beside this file.

S sweeps, A arms without the baseline, N seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from analysis.cautions import looks_skewed
from analysis.claims import evaluate_claim
from analysis.looks import Looks
from analysis.power import POWER, fixed_t, visible
from analysis.sequential import SCALE, critical_t
from analysis.stats import SEEDS_TO_CLAIM, SMALLEST_EFFECT, grid
from experiments.plan import expectation as expect
from experiments.store.summary import LEVEL

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Draw = Callable[[np.random.Generator, tuple[int, int, int]], Array]  # -> percent (S, A + 1, N), the baseline first

KEPT: Final = Path(__file__).with_name("REFEREE.md")
ALPHA: Final = 1 - LEVEL
MORE: Final = (5, 10, 15)
LONGEST: Final = 60  # seeds that somebody adds at most
IMAGES: Final = 360


def normal(spread: float) -> Draw:
    return lambda draw, shape: 97 + spread * draw.standard_normal(shape)


def heavy(draw: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    return 97 + 0.6 / 3**0.5 * draw.standard_t(3, shape)


def counts(spread: float) -> Draw:
    """Accuracies of 360 images."""
    return lambda draw, shape: np.clip(np.round((97 + spread * draw.standard_normal(shape)) * 3.6), 0, IMAGES) / 3.6


def unequal(draw: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    """One arm and the baseline have five times the spread of the others."""
    spread = np.full((1, shape[1], 1), 0.4)
    spread[:, :2] = 2.0
    return np.asarray(97 + spread * draw.standard_normal(shape))


def lognormal(draw: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    return np.asarray(98 - 0.4 * draw.lognormal(0.0, 1.0, shape))


def collapsing(draw: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    """A tenth of the runs collapse, unmarked, and lose 15 points."""
    return np.asarray(97 + 0.6 * draw.standard_normal(shape) - 15.0 * (draw.random(shape) < 0.1))


def baseline_alone(skewed: Draw, mean: float) -> Draw:
    """The baseline is skewed, the arms are normal and have its mean: the differences are skewed, too."""

    def drawn(draw: np.random.Generator, shape: tuple[int, int, int]) -> Array:
        runs: Array = mean + 0.6 * draw.standard_normal(shape)
        runs[:, :1] = skewed(draw, (shape[0], 1, shape[2]))
        return runs

    return drawn


HONEST: Final[dict[str, Draw]] = {
    "normal": normal(0.6),
    "t with 3 degrees": heavy,
    "k/360, sd 0.3": counts(0.3),
    "k/360, sd 1.2": counts(1.2),
    "two arms with 5 x sd": unequal,
}
SKEWED_DATA: Final[dict[str, Draw]] = {
    "lognormal": lognormal,
    "lognormal baseline": baseline_alone(lognormal, 98 - 0.4 * float(np.exp(0.5))),
    "10 % collapse": collapsing,
    "10 % of the baseline collapse": baseline_alone(collapsing, 95.5),
}


# The product's tests on arrays.


def floors(runs_SAN: Array) -> Array:
    """(S, 1): the least standard deviation of a paired difference, as `least_std` has it."""
    steps = np.array([grid(sweep.ravel().tolist()) for sweep in runs_SAN])
    return np.asarray(np.maximum(steps / 12**0.5, 1e-9 * np.abs(runs_SAN).max(axis=(1, 2)))[:, None])


@dataclass
class Paths:
    """Running moments of the paired differences (S, A, N), so that any number of seeds is looked at in one step."""

    sums: Array
    squares: Array
    floor: Array  # (S, 1)

    @staticmethod
    def of(runs_SAN: Array, floor: Array) -> Paths:
        differences = runs_SAN[:, 1:] - runs_SAN[:, :1]
        return Paths(differences.cumsum(2), (differences**2).cumsum(2), floor)

    def moments(self, n_SA: Array) -> tuple[Array, Array]:
        at = n_SA.astype(int)[..., None] - 1
        sums, squares = (np.take_along_axis(a, at, 2)[..., 0] for a in (self.sums, self.squares))
        variance = np.maximum(squares - sums**2 / n_SA, 0.0) / (n_SA - 1)
        return sums / n_SA, np.maximum(np.sqrt(variance), self.floor)

    def all_at(self, n: int) -> Array:
        return np.full(self.sums.shape[:2], float(n))

    def t_p(self, n_SA: Array) -> Array:
        mean, std = self.moments(n_SA)
        return np.asarray(2 * stdtr(n_SA - 1, -np.abs(mean) / std * np.sqrt(n_SA)))

    def sequential_p(self, n_SA: Array) -> Array:
        mean, std = self.moments(n_SA)
        square = n_SA * (mean / std) ** 2 / (n_SA - 1)
        wide = 1 + n_SA * SCALE
        return np.asarray(np.minimum(1.0, wide**0.5 * ((1 + square) / (1 + square / wide)) ** (-n_SA / 2)))


def holm(p_SA: Array) -> Array:
    order = p_SA.argsort(1)
    steps = np.take_along_axis(p_SA, order, 1) * np.arange(p_SA.shape[1], 0, -1)
    corrected = np.empty_like(p_SA)
    np.put_along_axis(corrected, order, np.minimum(1.0, np.maximum.accumulate(steps, 1)), 1)
    return corrected


def claims(p_SA: Array) -> Bools:
    return np.asarray(holm(p_SA) < ALPHA)


def any_of(said: Bools) -> Bools:
    return np.asarray(said.any(1), dtype=np.bool_)


# What people do. Each gives (S,): whether any table that was read had a claim.

Habit = Callable[[Array, int, np.random.Generator], Bools]  # runs (S, A + 1, N), planned seeds


def one_look(runs: Array, n: int, draw: np.random.Generator) -> Bools:
    paths = Paths.of(runs[..., :n], floors(runs[..., :n]))
    return any_of(claims(paths.t_p(paths.all_at(n))))


def added_seeds(runs: Array, n: int, draw: np.random.Generator) -> Bools:
    """Read at n, and again after 5, 10 and 15 further seeds of all arms: from then on the sequential test judges."""
    paths, said = Paths.of(runs, floors(runs)), one_look(runs, n, draw)
    for extra in MORE:
        said = said | any_of(claims(paths.sequential_p(paths.all_at(n + extra))))
    return said


def every_seed(runs: Array, n: int, draw: np.random.Generator) -> Bools:
    """`--until-significant`: looked at after every seed from 5 to 40."""
    paths = Paths.of(runs, floors(runs))
    looks = [any_of(claims(paths.sequential_p(paths.all_at(m)))) for m in range(max(n, SEEDS_TO_CLAIM), 41)]
    return any_of(np.stack(looks, 1))


def following_advice(runs: Array, n: int, draw: np.random.Generator) -> Bools:
    """Read at n; then every arm that is not told apart gets the seeds that its advice names for one point, twice."""
    paths, arms = Paths.of(runs, floors(runs)), runs.shape[1] - 1
    said = one_look(runs, n, draw)
    sizes = {m: visible(m, 1 - ALPHA / arms, POWER, True) for m in range(SEEDS_TO_CLAIM, LONGEST + 1)}
    known = sorted((size, m) for m, size in sizes.items() if size is not None)
    seeds = paths.all_at(n)
    for _ in range(2):
        _, std = paths.moments(seeds)
        place = np.searchsorted([size for size, _ in known], SMALLEST_EFFECT / std, side="right") - 1
        advised = np.where(place < 0, LONGEST, np.array([m for _, m in known])[np.maximum(place, 0)])
        seeds = np.maximum(seeds, advised)
        said = said | any_of(claims(paths.sequential_p(seeds)))
    return said


def arms_still_running(runs: Array, n: int, draw: np.random.Generator) -> Bools:
    """Read whenever an arm has finished, in any order: p of the others is 1, and all count in the family."""
    paths = Paths.of(runs[..., :n], floors(runs[..., :n]))
    p_SA = paths.t_p(paths.all_at(n))
    finish = draw.random(p_SA.shape).argsort(1).argsort(1)
    return any_of(np.stack([any_of(claims(np.where(finish <= k, p_SA, 1.0))) for k in range(p_SA.shape[1])], 1))


def bad_half_diverges(runs: Array, n: int, draw: np.random.Generator) -> Bools:
    """The worse half of every second arm's seeds diverges: those arms have survivors, of which nothing is claimed."""
    paths = Paths.of(runs[..., :n], floors(runs[..., :n]))
    p_SA = paths.t_p(paths.all_at(n))
    p_SA[:, ::2] = 1.0
    return any_of(claims(p_SA))


def crossed(runs: Array, n: int, draw: np.random.Generator) -> Bools:
    """2^3 with four readouts: bold are the seven arms on the sweep's metric. The other readouts, effects and interactions are
    exploratory: they are in no family of claims, and never bold."""
    return one_look(runs[:, :8], n, draw)


HABITS: Final[dict[str, Habit]] = {
    "one look": one_look,
    "seeds added at +5, +10, +15": added_seeds,
    "following the advice": following_advice,
    "arms still running": arms_still_running,
    "bad half diverges": bad_half_diverges,
    "--until-significant, 5 to 40": every_seed,
}


def family_wise(draw_runs: Draw, habit: Habit, arms: int, n: int, sweeps: int, draw: np.random.Generator) -> float:
    seeds = LONGEST if habit in (following_advice, every_seed) else n + max(MORE) if habit is added_seeds else n
    found, batch = 0, max(1, min(sweeps, 4_000_000 // ((arms + 1) * seeds)))
    for begin in range(0, sweeps, batch):
        size = min(batch, sweeps - begin)
        found += int(habit(draw_runs(draw, (size, arms + 1, seeds)), n, draw).sum())
    return found / sweeps


# Shapes.

ARMS: Final = ("K=128", "K=256", "K=512", "K=1024")
TRUE: Final = (86.0, 89.0, 90.9, 91.0)
WRONG: Final = {
    "a collapse in the middle": (90.0, 62.0, 93.0, 93.1),
    "an early peak": (90.0, 95.0, 93.5, 93.0),
    "a straight line": (90.0, 90.4, 90.8, 91.2),
}
REFUTED: Final = {"nothing changes": (90.0, 90.0, 90.0, 90.0), "it falls": (91.0, 90.7, 90.3, 90.0)}


def planned(n: int, shape: Sequence[Any]) -> Any:
    seeds = list(range(n))
    return {
        "arms": list(ARMS),
        "baseline": ARMS[-1],
        "axis_values": {arm: float(arm[2:]) for arm in ARMS},
        "seeds": seeds,
        "shape": list(shape),
        "claim": "rises, then saturates",
        "joined": [],
    }


def shapes(means: Sequence[float], spread: float, n: int, sweeps: int, draw: np.random.Generator) -> Array:
    return np.asarray(np.array(means)[None, :, None] + spread * draw.standard_normal((sweeps, len(means), n)))


def verdicts(runs_SAN: Array, shape: Sequence[Any]) -> dict[str, float]:
    said: dict[str, int] = {"reproduced": 0, "contradicted": 0, "underpowered": 0}
    manifest = planned(runs_SAN.shape[2], shape)
    for runs in runs_SAN:
        claim = evaluate_claim(
            manifest, {arm: dict(enumerate(row.tolist())) for arm, row in zip(ARMS, runs, strict=True)}
        )
        assert claim is not None
        said[claim.verdict] += 1
    return {name: count / len(runs_SAN) for name, count in said.items()}


def under_rule_1(runs_SAN: Array, within: float = 0.5) -> float:
    """How often `rises` and `saturates` held before: the last arm above the first, the last step within half a point."""

    def above(d_SN: Array) -> Bools:
        n = d_SN.shape[1]
        t = d_SN.mean(1) / d_SN.std(1, ddof=1) * n**0.5
        return np.asarray(stdtr(n - 1, -t) < 0.025)

    rise, step = runs_SAN[:, -1] - runs_SAN[:, 0], runs_SAN[:, -1] - runs_SAN[:, -2]
    return float((above(rise) & above(within + step) & above(within - step)).mean())


# What a plan costs: an arm and its baseline, up to CAP seeds.

CAP: Final = 20
EVERY_FIVE: Final = tuple(range(5, CAP + 1, 5))


def bounds_of(name: str) -> dict[int, float]:
    """Paired seeds at which a plan looks -> the |t| that is a claim there."""
    if name == "20 seeds at once":
        return {CAP: fixed_t(CAP, LEVEL)}
    if name.startswith("e-value"):
        at = EVERY_FIVE if name.endswith("five") else range(SEEDS_TO_CLAIM, CAP + 1)
        return {n: critical_t(n, LEVEL) for n in at}
    return {n: Looks(name, EVERY_FIVE).t_at(n, LEVEL) or np.inf for n in EVERY_FIVE}


PLANS: Final = ("20 seeds at once", "pocock", "obrien-fleming", "e-value, looks every five", "e-value, every seed")


def cost_of(name: str, size: float, sweeps: int, draw: np.random.Generator) -> tuple[float, float]:
    """Share of sweeps with a claim, and mean seeds, where mean / spread of the differences is `size`."""
    drawn = size + draw.standard_normal((sweeps, CAP))
    stopped = np.full(sweeps, CAP)
    claimed = np.zeros(sweeps, dtype=bool)
    for n, bound in bounds_of(name).items():
        t = np.abs(drawn[:, :n].mean(1)) / drawn[:, :n].std(1, ddof=1) * n**0.5
        now = (t > bound) & ~claimed
        stopped[now] = n
        claimed |= now
    return float(claimed.mean()), float(stopped.mean())


def cost_lines(sweeps: int) -> Iterator[str]:
    draw, sizes = np.random.default_rng(23), (0.0, 0.5, 0.8, 1.2, 2.0)
    yield f"| plan, at most {CAP} seeds | {' | '.join(f'effect {size:g}' for size in sizes)} |"
    yield f"| :-- |{' --: |' * len(sizes)}"
    for name in PLANS:
        costs = [cost_of(name, size, sweeps, draw) for size in sizes]
        yield f"| {name} | {' | '.join(f'{percent(power)} %, {seeds:.1f} seeds' for power, seeds in costs)} |"


# The report.


def warned(draw_runs: Draw, arms: int, n: int, sweeps: int, draw: np.random.Generator) -> float:
    """How often a table warns of seeds that do not look normal."""
    found = 0
    for sweep in draw_runs(draw, (sweeps, arms + 1, n)).tolist():
        found += looks_skewed({str(arm): dict(enumerate(row)) for arm, row in enumerate(sweep)}) is not None
    return found / sweeps


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def family_lines(sweeps: int) -> Iterator[str]:
    draw = np.random.default_rng(20)
    heads = [f"{arms} arms, n = {n}" for arms in (3, 12) for n in (5, 10)]
    yield f"| seeds | what is done | {' | '.join(heads)} |"
    yield f"| :-- | :-- |{' --: |' * len(heads)}"
    for name, draw_runs in {**HONEST, **SKEWED_DATA}.items():
        for done, habit in HABITS.items():
            rates = [family_wise(draw_runs, habit, arms, n, sweeps, draw) for arms in (3, 12) for n in (5, 10)]
            yield f"| {name} | {done} | {' | '.join(map(percent, rates))} |"
        rates = [family_wise(draw_runs, crossed, 7, n, sweeps, draw) for n in (5, 10)]
        yield f"| {name} | crossed 2^3, four readouts (7 arms) | {percent(rates[0])} | {percent(rates[1])} | | |"


def warning_lines(sweeps: int) -> Iterator[str]:
    draw = np.random.default_rng(21)
    yield "| seeds | 3 arms, n = 5 | 3 arms, n = 10 | 12 arms, n = 5 | 12 arms, n = 10 |"
    yield "| :-- | --: | --: | --: | --: |"
    for name, draw_runs in {**HONEST, **SKEWED_DATA}.items():
        rates = [warned(draw_runs, arms, n, sweeps, draw) for arms in (3, 12) for n in (5, 10)]
        yield f"| {name} | {' | '.join(map(percent, rates))} |"


def shape_lines(sweeps: int) -> Iterator[str]:
    draw = np.random.default_rng(22)
    both, old = (expect.rises(), expect.saturates()), (expect.rises(), expect.saturates(within=0.5))
    yield "| arms | sd of a run, n | reproduced | contradicted | reproduced with `within=0.5` | under rule 1 |"
    yield "| :-- | :-- | --: | --: | --: | --: |"
    cases: list[tuple[str, Sequence[float], float, int]] = [
        *(("the true shape", TRUE, spread, n) for spread in (0.2, 0.4, 0.8) for n in (5, 10, 20)),
        *((name, means, spread, 10) for name, means in WRONG.items() for spread in (0.1, 0.4)),
        *((name, means, spread, 20) for name, means in REFUTED.items() for spread in (0.2, 0.6)),
    ]
    for name, means, spread, n in cases:
        runs = shapes(means, spread, n, sweeps, draw)
        now, within = verdicts(runs, both), verdicts(runs, old)
        rates = (now["reproduced"], now["contradicted"], within["reproduced"], under_rule_1(runs))
        yield f"| {name} {means} | {spread}, {n} | {' | '.join(map(percent, rates))} |"


def report(sweeps: int, of_shapes: int) -> Iterator[str]:
    yield "# False claims, as simulated"
    yield ""
    yield "Written by `make referee`. Percent of sweeps without any difference in which a table that is read has any claim,"
    yield f"nominal 5, {sweeps:,} sweeps a number, standard error about {100 * (0.0475 / sweeps) ** 0.5:.2f}."
    yield ""
    yield from family_lines(sweeps)
    yield ""
    yield "What a plan for one arm costs: share of sweeps with a claim and mean seeds when it stops, by the true difference in"
    yield f"spreads of the differences; {sweeps:,} sweeps a cell. `--until-significant` is the last line, `--looks` 2 and 3."
    yield ""
    yield from cost_lines(sweeps)
    yield ""
    yield f"How often a table warns that its seeds do not look normal, percent of {of_shapes:,} sweeps:"
    yield ""
    yield from warning_lines(of_shapes)
    yield ""
    yield f'Verdicts on the shape "rises, then saturates", percent of {of_shapes:,} sweeps:'
    yield ""
    yield from shape_lines(of_shapes)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.referee", description=__doc__)
    parser.add_argument("--sweeps", type=int, default=20_000, metavar="N", help="simulated sweeps a rate (20,000)")
    parser.add_argument(
        "--shapes", type=int, default=2_000, metavar="N", help="the same for shapes and warnings (2,000)"
    )
    parser.add_argument("--write", action="store_true", help=f"keep the numbers in {KEPT.name}")
    options = parser.parse_args(argv)
    lines = []
    for line in report(options.sweeps, options.shapes):
        print(line, flush=True)
        lines.append(line)
    if options.write:
        KEPT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
