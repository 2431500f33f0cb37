"""A search in MLflow: what is added to a sweep's parent run and to its trials' runs.

All of it is made from the search's record (`schema.SearchRecord` in RUNS/searches/), without optuna:

    parent   tag moco.study; tags best.<config field> and importance.<config field>; metrics study/<metric> (a point for
             each finished trial, at its number) and study/best; the record as artifact search.json
    trial    tags moco.study and moco.trial on the run, its state `pruned` if it was; a note with the command that
             trains the same point again
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.store import schema
from experiments.store.schema import SearchRecord, TrialRecord
from experiments.store.search_record import by_field, finished, ranked, record_path
from experiments.tracking.mirror import MAX_TAG, Artifact, Mirror, Point, milliseconds, stamp
from experiments.tracking.notes import MAX_NOTE, cell_text, reproduce

BEST_SHOWN = 10  # trials in the note's table


def study_parent(runs_root: Path, record: SearchRecord, parent: Mirror) -> Mirror:
    """The parent run of a search, from that of a sweep: with the best values and importances so far."""
    path = record_path(runs_root, record["label"])
    tags = {**parent.tags, **study_tags(record), "mlflow.note.content": study_note(record)}
    return replace(
        parent,
        name=f"search {record['name']}",
        tags=tags,
        points=study_points(record),
        artifacts=(Artifact("search.json", stamp(path), lambda: json.dumps(record, indent=1) + "\n"),),
    )


def study_tags(record: SearchRecord) -> dict[str, str]:
    """The study's name, the best trial's values, and the importances for the first metric."""
    best = ranked(record)[:1]
    tags = {"moco.study": record["study"]}
    if best:
        tags |= {"moco.trial": str(best[0]["number"])}
        tags |= {f"best.{name}": value for name, value in best[0]["settings"].items()}
    shares = importances(record)
    tags |= {f"importance.{name}": f"{share:.3f}" for name, share in shares.items()}
    return {key: value[:MAX_TAG] for key, value in tags.items()}


def importances(record: SearchRecord) -> dict[str, float]:
    """Of the first metric, by config field: records of earlier versions have the sampler's own names, which MLflow refuses."""
    return by_field(record["importances"].get(record["metrics"][0], {}), record["space"])


def study_points(record: SearchRecord) -> tuple[Point, ...]:
    """The values of each finished trial and the best so far of the first metric, in the order in which trials ended."""
    sign = -1.0 if record["directions"][0] == "maximize" else 1.0
    best: float | None = None
    made: list[Point] = []
    for trial in sorted((t for t in finished(record) if t.get("ended")), key=lambda t: (t["ended"] or "", t["number"])):
        values = trial.get("values") or []
        at, number = milliseconds(trial["ended"] or ""), trial["number"]
        made += [Point(f"study/{m}", v, at, number) for m, v in zip(record["metrics"], values, strict=False)]
        if values:
            best = values[0] if best is None or sign * values[0] < sign * best else best
            made.append(Point("study/best", best, at, number))
    return tuple(made)


def study_note(record: SearchRecord) -> str:
    """The question, the command, the best trials and the importances."""
    goals = ", ".join(f"{way} `{metric}`" for metric, way in zip(record["metrics"], record["directions"], strict=True))
    done = len(finished(record))
    parts = [
        record["question"],
        f"{goals[:1].upper()}{goals[1:]}; {done} of {record['budget']} trials, sampler {record['sampler']}, "
        f"pruner {record['pruner']}.",
        reproduce(record["command"], None, None),
        f"Stopped: {record['failure']}" if record["failure"] else "",
        _best_table(record, ranked(record)[:BEST_SHOWN]),
        _importance_table(record),
        f"Histories and slices: `python -m analysis search {shlex.quote(record['name'])}`.",
    ]
    return "\n\n".join(part for part in parts if part)[:MAX_NOTE]


def _best_table(record: SearchRecord, best: Sequence[TrialRecord]) -> str:
    if not best:
        return ""
    fields = list(record["space"])
    rows = [["trial", *record["metrics"], *fields], ["---"] * (1 + len(record["metrics"]) + len(fields))]
    for trial in best:
        values = [f"{value:.4g}" for value in trial["values"] or []]
        rows.append([str(trial["number"]), *values, *(trial["settings"].get(name, "") for name in fields)])
    return "\n".join("| " + " | ".join(map(cell_text, row)) + " |" for row in rows)


def _importance_table(record: SearchRecord) -> str:
    shares = importances(record)
    if not shares:
        return ""
    lines = [f"| {cell_text(name)} | {share:.2f} |" for name, share in shares.items()]
    return "\n".join([f"| field | importance for {record['metrics'][0]} |", "|---|---|", *lines])


def trial_note(record: SearchRecord, cell: schema.Cell, mirror: Mirror) -> str:
    """The trial's values or state, and the command that trains its point again."""
    trial = next(t for t in record["trials"] if t.get("run_id") == cell["run_id"])
    values = ", ".join(f"`{m}` **{v:.4g}**" for m, v in zip(record["metrics"], trial.get("values") or [], strict=False))
    chosen = [f"{name}={value}" for name, value in trial["settings"].items()]
    command = ["python", "-m", "experiments", "pretrain", "--baseline", record["base"], *(["--set"] if chosen else [])]
    parts = [
        record["question"],
        f"Trial **{trial['number']}** of study `{record['study']}`: {values or trial['state']}.",
        f"Why: {trial['reason']}" if trial.get("reason") else "",
        reproduce(shlex.join([*command, *chosen]), mirror.tags.get("moco.commit"), mirror.tags.get("moco.uncommitted")),
    ]
    return "\n\n".join(part for part in parts if part)[:MAX_NOTE]
