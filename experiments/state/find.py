"""Find runs by any of their names: sweep, arm, run id or its beginning, run directory, job, MLflow run."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.run.cluster import array_of
from experiments.store import schema
from experiments.store.manifests import all_manifests, former_names
from experiments.store.named import named, nearest
from experiments.store.run import RunDirectory
from experiments.store.schema import Manifest
from experiments.store.search_record import split_trial

SHORTEST_PREFIX = 4  # characters of a run id
Tracked = Callable[
    [Path, str], str | None
]  # runs root, id in the user's MLflow -> run id (`tracking.lookup.run_id_of`)
ANY = (
    "a sweep or search (name or label), an arm, a trial (search_moco#12), a run id or its beginning, a run directory, "
    "a Slurm job, an MLflow run id"
)


@dataclass(frozen=True)
class Found:
    """A run, with the first sweep that planned it; arm and seed are those of that sweep.

    `past`: why it stands in no table, of an arm that the sweep had once; else None.
    """

    run_id: str
    label: str | None
    arm: str | None
    seed: int | None
    past: str | None = None

    @property
    def name(self) -> str:
        if self.arm is None:
            return self.run_id
        return f"{self.arm} seed {self.seed}"


def find(root: Path, text: str, arm: str | None = None, *, tracked: Tracked | None = None) -> list[Found]:
    """All runs that `text` names; with `arm`, only those of that arm. `tracked`: for ids that the embedded MLflow lacks.

    Raises ValueError if there is none, with the nearest name.
    """
    if arm is None and (trial := split_trial(text)) is not None and (there := sweeps_named(root, trial[0])):
        if "study" not in there[0]:
            raise ValueError(
                f"{text}: {trial[0]} is a sweep, which has arms, not numbered trials; {_arms_of(there[0])}"
            )
        text, arm = trial
    everything = list(_known(root))
    found = (
        _of_sweep(root, text)
        or [run for run in everything if _matches(root, run, text)]
        or _of_former_name(root, text)
        or _of_the_past(root, text)
        or _of_mlflow(root, text, tracked)
    )
    if not found:
        near = _near(root, text, everything)
        raise ValueError(f"{text}: no sweep, arm, run, job or MLflow run of that name in {root}{near}")
    return found if arm is None else _of_arm(root, found, text, arm)


def sweeps_named(root: Path, name: str) -> list[Manifest]:
    """By label, else by name, the newest first."""
    return named(all_manifests(root), name)


def _of_arm(root: Path, found: Sequence[Found], text: str, arm: str) -> list[Found]:
    chosen = [run for run in found if run.arm is not None and _is_called(run.arm, arm)]
    past = [run for manifest in sweeps_named(root, text)[:1] for run in past_of(manifest)]
    chosen = chosen or [run for run in past if run.arm is not None and _is_called(run.arm, arm)]
    if not chosen:
        arms = list(dict.fromkeys(run.arm for run in found if run.arm))
        raise ValueError(f"{arm}: no such arm in {text}; its arms are {', '.join(arms) or 'none'}")
    return chosen


def _is_called(name: str, text: str) -> bool:
    """`random-init` stands for the name with a space."""
    return text in (name, name.replace(" ", "-"))


def _arms_of(manifest: Manifest) -> str:
    return f"its arms are {', '.join(manifest['arms']) or 'none'}"


def _of_sweep(root: Path, text: str) -> list[Found]:
    return [run for manifest in sweeps_named(root, text)[:1] for run in cells_of(manifest)]


def _of_former_name(root: Path, text: str) -> list[Found]:
    """The runs of an arm that had this name before."""
    return [
        run
        for manifest in all_manifests(root)
        for run in cells_of(manifest)
        if run.arm is not None and text in former_names(manifest, run.arm)
    ]


def _of_the_past(root: Path, text: str) -> list[Found]:
    """The runs of an arm that was dropped, or that its sweep has no more: they count in no table, and are on the disk."""
    return [run for manifest in all_manifests(root) for run in past_of(manifest) if run.arm == text]


def past_of(manifest: Manifest) -> list[Found]:
    """The runs of arms that a sweep once had, each once."""
    runs = {
        run: Found(run, manifest["label"], one["arm"], int(seed), one["why"])
        for one in manifest.get("past", [])
        for seed, run in one["runs"].items()
    }
    return list(runs.values())


def cells_of(manifest: Manifest) -> list[Found]:
    """The planned runs of a sweep."""
    return [Found(c["run_id"], manifest["label"], c["arm"], c["seed"]) for c in manifest["cells"]]


def _known(root: Path) -> Iterator[Found]:
    """Every planned run, then directories of runs that no sweep planned; each run once."""
    seen: set[str] = set()
    for manifest in all_manifests(root):
        for run in cells_of(manifest):
            if run.run_id not in seen:
                seen.add(run.run_id)
                yield run
    for path in sorted(root.glob(f"*/{schema.CONFIG}")):
        if path.parent.name not in seen:
            yield Found(path.parent.name, None, None, None)


def _matches(root: Path, run: Found, text: str) -> bool:
    if text == run.arm or (len(text) >= SHORTEST_PREFIX and run.run_id.startswith(text)):
        return True
    if Path(text).name == run.run_id and Path(text).absolute().parent == root:
        return True
    if not re.fullmatch(r"\d+(_\d+)?", text):
        return False
    directory = RunDirectory(root / run.run_id)
    jobs = {(directory.status() or {}).get("job"), *(line.get("job") for line in directory.attempts())}
    return any(job and text in (job, array_of(job)) for job in jobs)


def _of_mlflow(root: Path, text: str, tracked: Tracked | None) -> list[Found]:
    """By an id of the embedded MLflow, else of the user's own. MLflow's ids have 32 hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        return []
    run_ids = _embedded(root / schema.MLFLOW_DATABASE, text)
    if not run_ids and tracked is not None:
        run_ids = {tracked(root, text) or ""}
    return [run for run in _known(root) if run.run_id in run_ids]


def mlflow_runs(root: Path, run_id: str) -> list[str]:
    """Ids of a run in the embedded MLflow, one for each sweep or search that the run belongs to."""
    database = root / schema.MLFLOW_DATABASE
    if not database.exists():
        return []
    query = (
        "select tags.run_uuid from tags join runs on runs.run_uuid = tags.run_uuid "
        "where key = 'moco.run_id' and value = ? and lifecycle_stage = 'active'"
    )
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return sorted({found for (found,) in connection.execute(query, (run_id,))})
    return []


def _embedded(database: Path, mlflow_id: str) -> set[str]:
    if not database.exists():
        return set()
    query = "select value from tags where run_uuid = ? and key = 'moco.run_id'"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return {value for (value,) in connection.execute(query, (mlflow_id,))}


def _near(root: Path, text: str, known: Sequence[Found]) -> str:
    names = {m[key] for m in all_manifests(root) for key in ("name", "label")} | {run.arm for run in known if run.arm}
    names |= {one["arm"] for manifest in all_manifests(root) for one in manifest.get("past", [])}
    if (near := nearest(text, sorted(names))) is not None:
        return f"; did you mean {near}?"
    return (
        f"; the sweeps are {', '.join(m['label'] for m in all_manifests(root))}" if names else ": it holds no sweep yet"
    )
