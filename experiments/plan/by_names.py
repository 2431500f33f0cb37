"""Runs of a folder from before its contents were compared: which of them still count, and what is said of them.

A folder was known by names and sizes, and such a run keeps its identity. It counts for the same command where no file has
changed since it began, which the disk's times prove; else it is named, with the setting that counts it all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from experiments.plan.sweep import Plan
from experiments.store.run import RunDirectory
from moco.config import Config, Data
from moco.data.catalog import FOLDER, known_by, known_by_names, last_change_ns, resolve, shown

ONLY_NAMES = "names and sizes of the images were compared, their contents were not"


def with_runs_of_before(make: Callable[[Config], Plan], base: Config, root: Path) -> Plan:
    """The plan of `base`, or the same plan under the identities of before if finished or begun runs there still count.

    What was found is a warning of the plan.
    """
    if base.data.name != FOLDER:
        return make(base)
    if base.data.fingerprint:
        planned = make(base)
        warned = [f"{base.data.fingerprint}: {ONLY_NAMES}"] if known_by(base.data.fingerprint) == "names" else []
        return replace(planned, warnings=(*planned.warnings, *warned))

    def planned_for(data: Data) -> Plan:
        return make(replace(base, data=data))

    data = resolve(base.data)
    chosen, warning = choose(data, lambda each: [cell.run_id for cell in planned_for(each).cells()], root)
    planned = planned_for(chosen)
    return replace(planned, warnings=(*planned.warnings, *([warning] if warning else [])))


def choose(data: Data, runs_of: Callable[[Data], Iterable[str]], root: Path) -> tuple[Data, str | None]:
    """Resolved data of `folder`, with the fingerprint of before if runs with it are in the store and no file has changed since
    the first of them began; and what to say of them. Runs of today's kind go before those. `runs_of`: the run ids for data."""
    if data.name != FOLDER or known_by(data.fingerprint) == "names":
        return data, None
    try:
        before = known_by_names(data)
        began = [moment for name in runs_of(before) if (moment := _began_ns(RunDirectory(root / name))) is not None]
    except ValueError:  # a class has no file that was listed then, or the arms hold today's fingerprint: no such runs
        return data, None
    if not began:
        return data, None
    count = f"{len(began)} {'run' if len(began) == 1 else 'runs'}"
    newer = any(_began_ns(RunDirectory(root / name)) is not None for name in runs_of(data))
    if last_change_ns(data) < min(began) and not newer:
        return before, f"{count} of before contents were compared count: no file has changed since they began"
    first = datetime.fromtimestamp(min(began) / 1e9, UTC).isoformat(timespec="minutes")
    why = "there are newer ones that compared them" if newer else "files may have changed since"
    return data, (
        f"{count} of {shown(data.root)} from before contents were compared (the first of {first}) do not count: {why}; "
        f"--set data.fingerprint={before.fingerprint} counts them, by names and sizes only"
    )


def _began_ns(run: RunDirectory) -> int | None:
    """When the first attempt began, in nanoseconds since 1970; None if none did, or if the record is damaged."""
    try:
        times = [line["time"] for line in run.attempts() if line["event"] == "start"]
        return int(datetime.fromisoformat(times[0]).timestamp() * 1e9) if times else None
    except (ValueError, KeyError):
        return None
