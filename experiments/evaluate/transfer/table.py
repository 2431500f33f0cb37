"""A sweep's records side by side: arms in the plan's order, random initialisation last, missing shown as missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.evaluate.transfer.run import Scores, record_of
from experiments.evaluate.transfer.spec import FOLDER, HEADLINES, Job
from experiments.state.find import Found
from experiments.store import schema
from experiments.store.files import replace_json, replace_text
from experiments.store.summary import paired, summarise, t_interval

NAMES = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy"}


@dataclass(frozen=True)
class Row:
    """`by_seed`: seed -> readouts, of the planned seeds that have them; `label` of the sweep that planned them."""

    arm: str
    planned: int
    by_seed: Mapping[int, Scores]
    label: str | None = None

    def values(self, readout: str) -> dict[int, float]:
        """By seed."""
        found = {seed: scores.get(readout) for seed, scores in self.by_seed.items()}
        return {seed: value for seed, value in found.items() if value is not None}


def rows_of(root: Path, cells: Sequence[Found], job: Job) -> list[Row]:
    """One an arm of a sweep: the same name in two sweeps is two arms."""
    arms: dict[tuple[str | None, str], list[Found]] = {}
    for cell in cells:
        arms.setdefault((cell.label, cell.arm or cell.run_id), []).append(cell)
    return [_row(root, of_arm, *key, job) for key, of_arm in arms.items()]


def _row(root: Path, cells: Sequence[Found], label: str | None, arm: str, job: Job) -> Row:
    found: dict[int, Scores] = {}
    for cell in cells:
        if (root / cell.run_id / schema.ENCODER).exists() and (record := record_of(root / cell.run_id, job)):
            found[cell.seed or 0] = record["scores"]
    return Row(arm, len(cells), found, label)


def title(readout: str) -> str:
    kind, _, rest = readout.partition("_")
    return NAMES.get(readout, f"{kind} {rest.upper()}")


def markdown(label: str, rows: Sequence[Row], job: Job) -> str:
    """The table with its notes; the difference is paired by seed, within a sweep."""
    shown = HEADLINES[job.recipe.task]
    head = ["arm", "n", *map(title, shown), f"{title(shown[0])} minus {schema.RANDOM_INIT}"]
    zero = {row.label: row for row in rows if row.arm == schema.RANDOM_INIT}
    several = len({row.label for row in rows}) > 1
    body = [
        [
            f"{row.arm} ({row.label or 'no sweep'})" if several else row.arm,
            f"{len(row.by_seed)}/{row.planned}",
            *(spread(list(row.values(r).values())) for r in shown),
            against(row, zero.get(row.label), shown[0]),
        ]
        for row in rows
    ]
    recipe = job.recipe
    notes = [
        f"Percent, {job.on} split; mean ± standard deviation over seeds, in brackets the 95 % t interval.",
        "The difference is paired by seed. With fewer than 5 seeds it suggests, it does not show.",
        f"{recipe.iterations} iterations of {recipe.batch} images, {recipe.optimiser} lr {recipe.lr:g}, "
        f"backbone {recipe.backbone}, BatchNorm {recipe.batch_norm}.",
    ]
    text = "\n".join([f"# {label}: {job.words}", "", *aligned([head, *body]), "", *(f"- {note}" for note in notes)])
    return text + "\n"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table that can be read as text, too."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return [padded[0], rule, *padded[1:]]


def spread(values: Sequence[float]) -> str:
    summary, bounds = summarise(values), t_interval(values)
    if summary is None:
        return "—"
    return summary.text(1) + (f" [{bounds[0]:.1f}, {bounds[1]:.1f}]" if bounds else "")


def against(row: Row, zero: Row | None, readout: str) -> str:
    """Over the seeds that both have."""
    if zero is None or row is zero:
        return "—"
    differences = paired(row.values(readout), zero.values(readout))
    summary, bounds = summarise(differences), t_interval(differences)
    if summary is None:
        return "—"
    return f"{summary.mean:+.1f}" + (f" [{bounds[0]:+.1f}, {bounds[1]:+.1f}]" if bounds else "")


def write(root: Path, label: str, rows: Sequence[Row], job: Job) -> Path:
    """The table of a whole sweep, and beside it all readouts as JSON; returns the table's file."""
    folder = root / FOLDER
    folder.mkdir(exist_ok=True)
    file = folder / f"{label}.{job.name}.md"
    arms: dict[str, Any] = {
        row.arm: {"planned": row.planned, "by_seed": {str(s): scores for s, scores in row.by_seed.items()}}
        for row in rows
    }
    replace_json(file.with_suffix(".json"), {"label": label, "job": job.name, "on": job.on, "arms": arms})
    replace_text(file, markdown(label, rows, job))
    return file
