"""Numbers as text, and the sentences of a table: the answer, the claim, the advice, the notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import polars as pl

from analysis.looks import TITLES, Looks
from analysis.outcomes import DROPPED
from analysis.stats import SEEDS_TO_CLAIM, Comparison
from analysis.table import DIVERGED, READOUT_TITLES, Advice, Cells, Claim, Row, by_arm, dropped_by_hand
from experiments.store import schema
from experiments.store.durations import in_words
from experiments.store.images import ONLY_NAMES, known_by_names
from experiments.store.schema import Manifest
from experiments.store.summary import LEVEL, Summary

MOST_PAIRS: Final = 1000  # paired seeds; advice gives no larger number
NOTHING = "—"
MINUS = "\N{MINUS SIGN}"
LISTED = 6  # names in a sentence; the others are counted


def percent(summary: Summary | None) -> str:
    """`97.2 ± 0.3`, `97.2` from one seed."""
    if summary is None:
        return NOTHING
    return f"{summary.mean:.1f}" if summary.std is None else f"{summary.mean:.1f} ± {summary.std:.1f}"


def _decimals(comparison: Comparison) -> int:
    """1, or 2 where an interval that excludes 0 would otherwise be printed as if it touched 0."""
    if comparison.low is None or comparison.high is None or comparison.low <= 0 <= comparison.high:
        return 1
    return 2 if min(abs(comparison.low), abs(comparison.high)) < 0.05 else 1


def signed(value: float, decimals: int) -> str:
    text = f"{value:+.{decimals}f}"
    return f"{0:.{decimals}f}" if float(text) == 0 else text.replace("-", MINUS)


def difference(comparison: Comparison | None) -> str:
    """`+1.2 [+0.4, +2.0]`, percentage points; without an interval from one pair."""
    if comparison is None:
        return NOTHING
    digits = _decimals(comparison)
    text = signed(comparison.difference, digits)
    if comparison.low is None or comparison.high is None:
        return text
    return f"{text} [{signed(comparison.low, digits)}, {signed(comparison.high, digits)}]"


def verdict(comparison: Comparison | None) -> str:
    """As text: `higher by 1.2 [0.4, 2.0], n=5`, `not separable: +0.1 [0.0, +0.2], n=3`, `no claim: +0.4, n=1`.

    Of seeds that failed `no claim: +0.8 [+0.2, +1.4], n=5, survivors: 5 of 10 failed`, of seeds to come `n=5 of 10 so far`.
    """
    if comparison is None:
        return "no claim: no seed in common"
    if comparison.separable:
        return f"{comparison.verdict} by {_size(comparison)}, n={comparison.n}"
    said = "no claim" if comparison.hint else comparison.verdict
    return f"{said}: {difference(comparison)}, {pairs(comparison)}"


def pairs(comparison: Comparison) -> str:
    """`n=5`, `n=5, survivors: 5 of 10 failed`, `n=5, 1 of 6 without a usable value`, `n=5 of 10 so far`."""
    failed, unusable = comparison.dropped - comparison.unusable, comparison.unusable
    if comparison.dropped:
        lost = f", survivors: {failed} of {comparison.planned} failed" if failed else ""
        return f"n={comparison.n}{lost}" + (
            f", {unusable} of {comparison.planned} without a usable value" if unusable else ""
        )
    return f"n={comparison.n}" if comparison.complete else f"n={comparison.n} of {comparison.planned} so far"


def _size(comparison: Comparison) -> str:
    """Difference and interval as a magnitude in the direction that the verdict names."""
    bounds = sorted(abs(b) for b in (comparison.low, comparison.high) if b is not None)
    digits = _decimals(comparison)
    low, high = (f"{b:.{digits}f}" for b in bounds)
    return f"{abs(comparison.difference):.{digits}f} [{low}, {high}]"


def p_value(p: float | None) -> str:
    if p is None:
        return NOTHING
    if p < 0.001:
        return "<0.001"
    return f"{p:.2f}".rstrip("0").rstrip(".") if p >= 0.1 else f"{p:.3g}"


def p_values(comparison: Comparison | None) -> str:
    """The p that decides: of the paired t test, or the always-valid one, after Holm; alone for an arm of no family.

    None of survivors, nor of a part of the plan: a p there is of no test that was planned.
    """
    if comparison is None or not comparison.complete:
        return NOTHING
    return p_value(comparison.p_t if comparison.p_t_holm is None else comparison.p_t_holm)


def states(unfinished: Mapping[str, int]) -> str:
    """`1 failed, 2 missing`."""
    return ", ".join(f"{n} {state}" for state, n in unfinished.items())


def duration(seconds: float | None) -> str:
    return NOTHING if seconds is None else in_words(seconds, measured=True)


def count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listing(names: Sequence[str], limit: int = LISTED) -> str:
    """`a`, `a and b`, `a, b and c`, `a, b and 7 more`."""
    shown = list(names) if len(names) <= limit else [*names[: limit - 1], f"{len(names) - limit + 1} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def claim_lines(claim: Claim) -> list[str]:
    """The verdict on the claim, then each part with the difference that it rests on."""
    lines = [f'Claim "{claim.says}": {claim.verdict}.']
    for part in claim.parts:
        rests = part.rests_on
        if part.numbers is not None:
            few = (
                f", fewer than {SEEDS_TO_CLAIM}"
                if part.numbers.n < SEEDS_TO_CLAIM
                else f", one-sided p {p_value(part.p)}"
            )
            rests = f"{rests}: {difference(part.numbers)}, n={part.numbers.n}{few}"
        lines.append(f"{part.says}: {part.verdict} ({rests}).")
    return lines


def advice_line(advice: Advice) -> str:
    """The seeds it takes to see the named effect of an arm, and their cost."""
    seen = f"sd {advice.std:.2g}, n={advice.pairs}"
    to = f"To see {_points(advice.effect)} between {advice.arm} and {advice.baseline} ({seen})"
    if advice.needed is None:
        return f"{to} more than {MOST_PAIRS:,} paired seeds would be needed"
    most = f"over {MOST_PAIRS:,}" if advice.at_most is None else f"{advice.at_most:,}"
    least = f"over {MOST_PAIRS:,}" if advice.at_least is None else f"{advice.at_least:,}"
    within = f" ({least} to {most} by the spread's own 95 % interval)" if least != most else ""
    if not advice.more_runs:
        return f"{to} ~{advice.needed:,} paired seeds are enough{within}: as many are there"
    price = "" if advice.more_hours is None else f", +{_hours(advice.more_hours)} {advice.unit}"
    more = f"{count(advice.more_runs, 'more run')}{price}"
    return f"{to} you need ~{advice.needed:,} paired seeds{within}: {more}, added by --until-significant"


def _points(points: float) -> str:
    return "1 point" if points == 1 else f"{points:g} points"


def _hours(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.2g}"


def _clause(compared: Sequence[tuple[str, Comparison]], verdict: str) -> str | None:
    """`A is higher by 1.2 [0.4, 2.0] and B by 0.8 [0.1, 1.5]`."""
    alike = [(arm, c) for arm, c in compared if c.verdict == verdict]
    verb = f"is {verdict.split()[-1]} by"
    return (
        listing([f"{arm} {verb if i == 0 else 'by'} {_size(c)}" for i, (arm, c) in enumerate(alike)], 4)
        if alike
        else None
    )


def _clauses(arms: Sequence[Row], baseline: Row) -> list[str]:
    """The clauses of the answer: the largest difference first, arms that cannot be told apart last."""
    compared = [(row.arm, row.comparison) for row in arms if row.comparison]
    compared.sort(key=lambda pair: -abs(pair[1].difference))
    clauses = [_clause(compared, "higher"), _clause(compared, "lower")]
    alike = [row.arm for row in arms if row.comparison and row.comparison.complete and _open(row.comparison)]
    lost = [row for row in arms if _failed(row)]
    survived = [row.arm for row in lost if _lost_its_own(row)]
    empty = [row.arm for row in lost if row.arm not in survived and _without_a_value(row)]
    unpaired = [row.arm for row in lost if row.arm not in survived and row.arm not in empty]
    coming = [row.arm for row in arms if _is_on_its_way(row) and not _failed(row)]
    few = [row.arm for row in arms if _waits(row) and not _failed(row) and row.arm not in coming]
    clauses += [
        f"{listing(alike)} {'is' if len(alike) == 1 else 'are'} not separable from it" if alike else None,
        f"seeds of {listing(survived)} failed, so there is no claim about {'it' if len(survived) == 1 else 'them'}"
        if survived
        else None,
        f"seeds of {listing(empty)} have no usable value, so there is no claim about {'it' if len(empty) == 1 else 'them'}"
        if empty
        else None,
        f"seeds of {baseline.arm} failed or have no usable value, so there is no claim about {listing(unpaired)}"
        if unpaired
        else None,
        f"{listing(coming)} {'has' if len(coming) == 1 else 'have'} seeds to come; the plan is judged when it is whole"
        if coming
        else None,
        f"{listing(few)} {'has' if len(few) == 1 else 'have'} too few finished seeds for a claim" if few else None,
    ]
    return [clause for clause in clauses if clause]


def _open(comparison: Comparison) -> bool:
    return comparison.verdict == "not separable" or comparison.hint


def _failed(row: Row) -> bool:
    """Whether a planned pair of an arm failed: its own runs, or the baseline's at those seeds."""
    return (
        row.comparison.dropped > 0 if row.comparison else DIVERGED in row.unfinished or schema.FAILED in row.unfinished
    )


def _lost_its_own(row: Row) -> bool:
    return any(member.state in DROPPED for member in row.members)


def _without_a_value(row: Row) -> bool:
    """Whether one of the arm's own runs is done without a value of the compared readout."""
    return any(member.state == schema.DONE and member.seed not in row.values for member in row.members)


def _waits(row: Row) -> bool:
    return row.comparison is None or row.comparison.verdict == "no claim"


def _is_on_its_way(row: Row) -> bool:
    """Enough seeds for a claim, but not all that were planned, by a test that is made once."""
    return row.comparison is not None and not row.comparison.complete and row.comparison.n >= SEEDS_TO_CLAIM


def answer(rows: Sequence[Row], metric: str, planned_metric: str | None = None) -> str:
    """The answer in one sentence, with the number of finished runs unless all are. Another readout is exploratory."""
    done, planned = sum(r.n_done for r in rows), sum(r.n_planned for r in rows)
    baseline, arms = rows[0], [row for row in rows if row.role == "arm"]
    reference = baseline.readouts[metric]
    if reference is None:
        return f"No answer yet: the baseline {baseline.arm} has no finished run ({done} of {planned} runs are done)."
    so_far = "" if done == planned else f"So far ({done} of {planned} runs): "
    if planned_metric not in (None, metric):
        so_far = f"Exploratory (the sweep was planned for {READOUT_TITLES[str(planned_metric)]}): {so_far}"
    against = f"against {baseline.arm} ({READOUT_TITLES[metric]} {percent(reference)} %, n={reference.n})"
    sentence = f"{against}, {'; '.join(_clauses(arms, baseline)) or 'there is no other arm'}."
    return so_far + (sentence if so_far else sentence[0].upper() + sentence[1:])


# Notes.


def seeds(numbers: Sequence[int]) -> str:
    """`seed 3`, `seeds 3 and 4`."""
    return f"seed{'s' if len(numbers) > 1 else ''} {listing([str(s) for s in numbers], 8)}"


def _unfinished(arm: str, cells: Cells) -> str | None:
    """`K=256: 2 of 5 done; seed 3 failed (out of memory), seed 4 running`."""
    rest = [cell for cell in cells if cell["state"] != schema.DONE]
    if not rest:
        return None
    groups: dict[tuple[str, str], list[int]] = {}
    for cell in rest:
        state, reason, diverged = cell["state"], cell["reason"], cell["diverged"]
        with_reason = state in (schema.FAILED, schema.LOST, schema.CANCELLED, schema.PRUNED)
        groups.setdefault((DIVERGED if diverged else state, _shorten(reason) if with_reason else ""), []).append(
            cell["seed"]
        )
    parts = [
        f"{seeds(numbers)} {state}{f' ({reason})' if reason else ''}" for (state, reason), numbers in groups.items()
    ]
    return f"{arm}: {len(cells) - len(rest)} of {len(cells)} done; {', '.join(parts)}"


def _shorten(reason: str, limit: int = 90) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _mixed(cells: pl.DataFrame, column: str, noun: str) -> str | None:
    """A note on runs of different commits (or hardware); None where all are the same."""
    arms: dict[str, list[str]] = {}
    for arm, names in cells.select("arm", column).iter_rows():
        for name in names:
            arms.setdefault(name, []).append(arm)
    if len(arms) < 2:
        return None
    parts = [f"{name} ({_where(arms_of)})" for name, arms_of in arms.items()]
    return f"Mixed {noun}: {listing(parts)}"


def _where(arms: Iterable[str]) -> str:
    return listing([f"{arm} x{n}" if n > 1 else arm for arm, n in Counter(arms).items()], 4)


def interval(low: float, high: float) -> str:
    """`[+0.4, +2.0]`, with a second decimal where a bound that is not 0 would be printed as 0."""
    digits = 2 if 0 < min(abs(low), abs(high)) < 0.05 else 1
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def _which_images(rows: Sequence[Row]) -> str | None:
    """What the two intervals are about, where there are two."""
    found = [row.over_images for row in rows if row.over_images]
    if not found:
        return None
    return (
        f"The difference's own interval, and every claim, is about other seeds on these {found[0].images:,} test images; "
        f"the one over seeds and images is about other images, too (crossed random effects, {100 * LEVEL:g} %, for one arm)"
    )


def _method(manifest: Manifest, rows: Sequence[Row], metric: str) -> str:
    arms = [row for row in rows if row.role == "arm"]
    sequential = any(row.comparison.sequential for row in arms if row.comparison)
    difference = f"Difference in {READOUT_TITLES[metric]}: paired by seed, "
    head = f"Percent on the test split; ± standard deviation over seeds. {difference}"
    dropped = dropped_by_hand(manifest)
    family = f"Holm over the {count(len(arms) + len(dropped), 'planned arm')}"
    family += f" ({listing(dropped)} among them, though taken out by hand)" if dropped else ""
    looks = Looks.of(manifest)
    if looks is not None:
        return (
            f"{head}with an interval and a p that allow for the planned looks at {listing([str(n) for n in looks.at])} pairs "
            f"(bounds of {TITLES[looks.kind]}); p after {family}. A claim needs a look, all its pairs, and that p under "
            "0.05, at the last look that was reached: what an early look claims, a later one can take back; clauses of the "
            "claim and effects are judged by the e-value of a t test, which holds at any number of seeds."
        )
    if sequential:
        return (
            f"{head}with an interval and a p that hold at whatever number of seeds one stops (e-value of a t test), for seeds "
            f"were added after results had been seen; p after {family}. "
            f"A claim needs {SEEDS_TO_CLAIM} pairs, none of them failed, and that p under 0.05."
        )
    return (
        f"{head}95 % t interval; p of the paired t test after {family}. "
        f"A claim needs {SEEDS_TO_CLAIM} pairs, all that were planned, and that p under 0.05."
    )


def _partial(rows: Sequence[Row], metric: str) -> list[str]:
    """The seeds that are in no difference, and the baseline over the seeds of an arm that has fewer."""
    lines = []
    for row in rows:
        if row.apart and row.comparison:
            lines.append(
                f"{row.arm}: {row.comparison.n} of its {row.n_done} finished seeds have a finished baseline to pair with; "
                f"apart from its row, {count(row.apart.n, 'other seed')} {percent(row.apart)}"
            )
        if row.role == "arm" and row.baseline_there:
            lines.append(
                f"{row.arm}: over its {count(row.baseline_there.n, 'pair')} {rows[0].arm} has {percent(row.baseline_there)}, "
                f"over all its {rows[0].n_done} seeds {percent(rows[0].readouts[metric])}"
            )
    return lines


def image_lines(manifest: Manifest, done: pl.DataFrame) -> list[str]:
    """What happened to the image files, each line once, and whether the folder's contents were compared."""
    lines = [line[:1].upper() + line[1:] for line in done["images"].unique(maintain_order=True) if line]
    lines = [
        *lines[:LISTED],
        *([f"And {len(lines) - LISTED} more, in {schema.IMAGES} of each run"] if len(lines) > LISTED else []),
    ]
    return [*lines, *([ONLY_NAMES] if known_by_names(cell["config"] for cell in manifest["cells"]) else [])]


def _shortfalls(done: pl.DataFrame) -> list[str]:
    """`kNN-200: all 120 training images vote, fewer than 200 (3 of 5 runs)`."""
    found = Counter(done["shortfalls"].explode().drop_nulls().to_list())
    return [line if n == done.height else f"{line} ({n} of {count(done.height, 'run')})" for line, n in found.items()]


def notes(manifest: Manifest, cells: pl.DataFrame, rows: Sequence[Row], metric: str) -> tuple[str, ...]:
    """Footnotes: method, what is unfinished, what is mixed, where the published numbers are from, what was damaged."""
    done = cells.filter(state=schema.DONE)
    changed = done.filter(pl.col("commits").list.eval(pl.element().str.contains("+", literal=True)).list.any()).height
    damaged = len(cells["problems"].explode().drop_nulls())
    untrained = any(row.role == "random init" for row in rows)
    published = any(row.published is not None for row in rows)
    lines: list[str | None] = [
        _method(manifest, rows, metric),
        _which_images(rows),
        f"{schema.RANDOM_INIT}: the encoder before any training, what each readout gives for free"
        if untrained
        else None,
        *(_unfinished(arm, part) for arm, part in by_arm(cells, [row.arm for row in rows]).items()),
        *_partial(rows, metric),
        _mixed(done, "commits", "commits"),
        _mixed(done, "hardware", "hardware"),
        f"{count(changed, 'run')} had uncommitted changes, kept as {schema.DIFF} in its directory" if changed else None,
        f"Published: {manifest['published_source']}. The scale differs: compare the shape, not the height"
        if published
        else None,
        *image_lines(manifest, done),
        *_shortfalls(done),
        f"{count(damaged, 'damaged file')} left out, named when the table was made" if damaged else None,
    ]
    return tuple(line.rstrip(".") + "." for line in lines if line)
