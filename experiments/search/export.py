"""`export`: the Optuna study as the search's record, plain JSON, which status, tables, figures and MLflow read."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from experiments.search.study import AGAIN_OF, END, SOURCE, Held, Study, held_of
from experiments.store import schema
from experiments.store.files import now, replace_text
from experiments.store.schema import SearchRecord, TrialRecord
from experiments.store.search_record import by_field, front, ranked, read_record
from moco.config.plain import to_plain

STATES = {
    TrialState.COMPLETE: schema.DONE,
    TrialState.PRUNED: schema.PRUNED,
    TrialState.FAIL: schema.FAILED,
    TrialState.RUNNING: schema.RUNNING,
    TrialState.WAITING: schema.QUEUED,
}
FEWEST_FOR_IMPORTANCE = 4  # done trials


def export(study: Study, *, final: bool = False, failure: str | None = None) -> SearchRecord:
    """Write the record. The study's lock must be held. `final`: with the importances, which take a second."""
    record = read_record(study.path) or study.record
    known = {t["number"]: t for t in record["trials"] if t["state"] not in (schema.RUNNING, schema.QUEUED)}
    trials = [known.get(frozen.number) or _trial(study, frozen) for frozen in study.trials()]
    record = SearchRecord(**{**record, "trials": trials, "failure": failure, "updated": now()})
    record["ranking"] = [trial["number"] for trial in ranked(record)]
    record["front"] = [trial["number"] for trial in front(record)]
    if final:
        record["importances"] = importances(study, record)
    replace_text(
        study.path, json.dumps(record, separators=(",", ":")) + "\n"
    )  # compact: written at each step of each trial
    return record


def _trial(study: Study, frozen: FrozenTrial) -> TrialRecord:
    held, facts = held_of(frozen), frozen.user_attrs.get(END, {})
    made = TrialRecord(
        number=frozen.number,
        state=STATES[frozen.state],
        values=list(frozen.values) if frozen.state == TrialState.COMPLETE else None,
        reported={str(epoch): value for epoch, value in frozen.intermediate_values.items()},
        constraints=dict(frozen.constraints),
        hours=facts.get("hours"),
        memory_gb=facts.get("memory_gb"),
        reason=facts.get("reason"),
        diverged=facts.get("diverged", False),
        source=frozen.user_attrs.get(SOURCE, "drawn"),
        again_of=frozen.user_attrs.get(AGAIN_OF),
        started=_utc(frozen.datetime_start),
        ended=_utc(frozen.datetime_complete),
    )
    return TrialRecord(**{**made, **_run(study, frozen, held)})  # type: ignore[typeddict-item]


def _run(study: Study, frozen: FrozenTrial, held: Held | None) -> dict[str, Any]:
    """The fields about the trial's run; empty for a waiting trial, which has none yet."""
    if held is None:
        return {}
    config = frozen.user_attrs.get("config") or to_plain(study.config(held.settings))
    return {"run_id": held.run_id, "settings": held.settings, "config": config, "job": held.job, "host": held.host}


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _value(index: int) -> Callable[[FrozenTrial], float]:
    return lambda frozen: frozen.values[index]


def importances(study: Study, record: SearchRecord) -> dict[str, dict[str, float]]:
    """PED-ANOVA's share of each config field, for each metric. Empty where too few trials are done."""
    done = [t for t in study.trials() if t.state == TrialState.COMPLETE]
    if len(done) < FEWEST_FOR_IMPORTANCE:
        return {}
    found: dict[str, dict[str, float]] = {}
    for index, metric in enumerate(record["metrics"]):
        try:
            shares = optuna.importance.get_param_importances(study.study, target=_value(index))
        except (ValueError, RuntimeError):  # all trials equal in it
            continue
        found[metric] = by_field(
            {name: round(share, 6) for name, share in shares.items() if share == share}, record["space"]
        )
    return found
