"""One record for each metric: key, title, unit, direction, meaning. From them come tables, MLflow's keys and `NAMES.md`.

Metrics of training are defined here. Readouts are defined where they are computed, at `@readout` in `moco/evaluation`, which
this package may not import: `python -m experiments names --write` copies their records to `readouts.json` beside this file.
A run with a readout that the copy lacks has the record in its `results.json`; readers of the run call `learn_plain` with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

When = Literal["at_end", "on_request", "added", "detail", "training"]
FILE: Final = Path(__file__).with_name("readouts.json")


@dataclass(frozen=True)
class Metric:
    """`key` as in the journal and MLflow; for a readout without the split: `linear_top1` stands for `test/linear_top1`.

    `when`: computed at the end of training (at_end), the same if the config asks for it (on_request), by `evaluate` (added),
    or by `evaluate` and shown only in a table that compares it (detail). `curve`: the meaning of `validation/<key>`, if it
    is also measured during training.
    """

    key: str
    title: str
    unit: str  # empty for a number without one
    higher_is_better: bool | None  # None: neither
    meaning: str
    when: When = "training"
    curve: str = ""
    protocol: str = ""  # the name after `evaluate --protocol`


TRAINING: Final = (
    Metric("train/loss", "loss", "nat", False, "InfoNCE, natural log; mean over the steps since the last record"),
    Metric("train/loss_over_chance", "loss over chance", "", False, "loss / log(K + 1): 1 is learning nothing"),
    Metric("train/contrast_top1", "contrast top-1", "%", True, "percent of queries whose own key scores highest"),
    Metric("train/gap", "gap of cosines", "", True, "mean positive cosine minus mean negative cosine"),
    Metric("train/lr", "learning rate", "", None, "learning rate"),
    Metric(
        "features/rank",
        "effective rank",
        "",
        True,
        "effective rank of the queries, exp(entropy of the normalised singular values)",
    ),
    Metric(
        "features/alignment",
        "alignment",
        "",
        False,
        "mean squared distance of two views of one image on the unit sphere (Wang and Isola)",
    ),
    Metric(
        "features/uniformity",
        "uniformity",
        "",
        False,
        "log of the mean Gaussian potential of queries (Wang and Isola); lower is more uniform",
    ),
    Metric("queue/age", "age of keys", "steps", None, "mean age of the keys in the queue, steps"),
    Metric(
        "queue/own_image",
        "own image in the queue",
        "%",
        False,
        "percent of queries whose own image also sits in the queue as a negative",
    ),
    Metric(
        "queue/key_drift",
        "drift of keys",
        "",
        False,
        "1 - cosine of fixed images' keys now and about one queue turnover ago",
    ),
    Metric(
        "speed/images_per_s",
        "images per second",
        "images/s",
        True,
        "images per second since the last record, evaluation excluded",
    ),
    Metric("speed/data_wait", "waiting for data", "", False, "share of that time spent waiting for data"),
)
# Load of the machine during training, recorded in the journal too. MLflow shows `system/` on a page of its own.
SYSTEM: Final = (
    Metric(
        "system/cpu_percent",
        "processor",
        "%",
        None,
        "processor time of the run's processes per second, 100 is one core",
    ),
    Metric(
        "system/memory_mb",
        "memory",
        "MB",
        None,
        "resident memory of the run's processes, MB of 10^6 bytes; shared pages count in each",
    ),
    Metric(
        "system/gpu_percent",
        "GPU",
        "%",
        None,
        "share of time in which a kernel ran on the run's GPU, as the driver says",
    ),
    Metric("system/gpu_memory_mb", "GPU memory", "MB", None, "memory in use on that GPU by all processes, MB"),
    Metric("system/gpu_memory_percent", "GPU memory", "%", None, "the same as a share of the memory that the GPU has"),
    Metric("system/gpu_power_w", "GPU power", "W", None, "power that GPU draws, watts"),
)

# Keys of the known readouts, in the order of the CSV table; `learn` adds to them. Percent of the test split unless stated.
READOUTS: Final[list[str]] = []
AT_END: Final[list[str]] = []  # computed at the end of training, always or if the config asks for them
ON_REQUEST: Final[list[str]] = []  # absent unless the config or `evaluate` asks for them
ADDED: Final[list[str]] = []  # computed by `evaluate` for finished runs
DETAILS: Final[list[str]] = []  # shown only in a table that compares them
TITLES: Final[dict[str, str]] = {}
METRICS: Final[dict[str, str]] = {metric.key: metric.meaning for metric in TRAINING}  # journal key -> meaning
SYSTEM_METRICS: Final[dict[str, str]] = {metric.key: metric.meaning for metric in SYSTEM}
PROTOCOLS: Final[dict[str, str]] = {}  # name -> what it does

_RECORDS: Final[dict[str, Metric]] = {}
_shipped: frozenset[str] = frozenset()


def learn(records: Iterable[Metric]) -> None:
    """Make these readouts known to this process. A readout that is known already stays as it is."""
    for metric in records:
        if metric.key in _RECORDS:
            continue
        _RECORDS[metric.key] = metric
        READOUTS.append(metric.key)
        TITLES[metric.key] = metric.title
        if metric.when in ("at_end", "on_request"):
            AT_END.append(metric.key)
        else:
            ADDED.append(metric.key)
        if metric.when != "at_end":
            ON_REQUEST.append(metric.key)
        if metric.when == "detail":
            DETAILS.append(metric.key)
        if metric.curve:
            METRICS[f"validation/{metric.key}"] = metric.curve
        METRICS[f"test/{metric.key}"] = metric.meaning


def learn_plain(records: object) -> None:
    """`learn` for the JSON in a run's results; anything that is not a valid record is ignored."""
    if isinstance(records, list):
        learn(metric for record in records if isinstance(record, Mapping) if (metric := _metric(record)) is not None)


def _metric(record: Mapping[str, Any]) -> Metric | None:
    try:
        metric = Metric(**record)
    except TypeError:
        return None
    texts = (metric.key, metric.title, metric.unit, metric.meaning, metric.when, metric.curve, metric.protocol)
    return metric if all(isinstance(text, str) for text in texts) else None


def unit_of(readout: str) -> str:
    """`%` of an accuracy; empty for a number without a unit, and for a readout that is not known."""
    return _RECORDS[readout].unit if readout in _RECORDS else ""


def readouts_of(protocol: str) -> list[Metric]:
    """The known readouts of a protocol, the main one first."""
    return [metric for metric in _RECORDS.values() if metric.protocol == protocol]


def unshipped(keys: Iterable[str]) -> list[dict[str, Any]]:
    """The records of those readouts that `readouts.json` lacks. A run that has such readouts stores them in its results."""
    return [asdict(_RECORDS[key]) for key in keys if key in _RECORDS and key not in _shipped]


def relearn(records: Iterable[Metric], protocols: Mapping[str, str]) -> None:
    """Replace all known readouts by the records of the code. Known keys keep their order, new ones come last."""
    places = {key: place for place, key in enumerate(READOUTS)}
    ordered = sorted(records, key=lambda metric: places.get(metric.key, len(places)))
    for known in (READOUTS, AT_END, ON_REQUEST, ADDED, DETAILS):
        known.clear()
    for key in [key for key in METRICS if key.startswith(("test/", "validation/"))]:
        del METRICS[key]
    for by_name in (TITLES, PROTOCOLS, _RECORDS):
        by_name.clear()
    PROTOCOLS.update(protocols)
    learn(ordered)


def as_json() -> str:
    """The content of `readouts.json` for all known readouts."""
    readouts = [asdict(metric) for metric in _RECORDS.values()]
    return json.dumps({"protocols": PROTOCOLS, "readouts": readouts}, indent=1, ensure_ascii=False) + "\n"


def _read_shipped() -> frozenset[str]:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    PROTOCOLS.update(content["protocols"])
    learn(Metric(**record) for record in content["readouts"])
    return frozenset(READOUTS)


_shipped = _read_shipped()
