"""Estimates from the finished runs of this store, scaled by steps; without such runs there is no estimate.

estimate, costs         seconds on this machine; device-hours for each kind of hardware
disk_need, disk_free    bytes
advise                  how many runs should share one GPU
known                   finished runs and calibrations, from which all of these are made
"""

from __future__ import annotations

import math
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

from experiments.launch.way import takes_gpus
from experiments.plan.configs import config_of
from experiments.plan.sweep import Cell, total_steps
from experiments.store import schema
from experiments.store.files import read_json
from experiments.store.hardware import is_gpu
from experiments.store.run import RunDirectory
from moco.config import Config

OVERHEAD_STEPS = 50  # start and readouts of a run take as long as so many steps
MOST_READ = 300  # finished runs, so that a plan is printed at once in a store of thousands
COMPARABLE = ("data", "encoder", "evaluation")  # groups of a config that, with the batch size, determine the pace
FILL = 90.0  # percent of a GPU's memory that runs which share it may take
LEAST_GAIN = 0.1  # in runs per hour, relative to one run, for which one more run on a GPU is worth it
RUNS_FOR_ADVICE = 10
LOAD, MEMORY = "system/gpu_percent", "system/gpu_memory_percent"

Kind = tuple[object, ...]  # two runs with the same one have a comparable pace


@dataclass(frozen=True)
class Past:
    """A finished run or a calibration. `pace`: seconds for each unit of `work`."""

    kind: Kind
    pace: float
    hardware: str
    gpus: int
    path: Path
    pack: int = 1  # runs that shared its GPU
    timed: bool = False  # 20 steps of `--calibrate`, no whole run


@dataclass(frozen=True)
class Cost:
    """Hours of all cells, one after the other, on that hardware; `unknown` cells are not included."""

    hardware: str
    hours: float
    runs: int  # finished runs that it is estimated from
    timed: int  # calibrations that it is estimated from
    unknown: int

    @property
    def source(self) -> str:
        """What it is estimated from, in words."""
        steps = "timed steps, readouts not counted" if self.timed else ""
        runs = f"{self.runs} finished runs of this kind" if self.runs else ""
        return " and ".join(filter(None, [runs, steps]))


def work(config: Config) -> float:
    """The cost of a run, in steps."""
    return total_steps(config) + OVERHEAD_STEPS


def kind_of(config: Config) -> Kind:
    return (*(getattr(config, group) for group in COMPARABLE), config.train.batch_size)


def estimate(root: Path, cells: Iterable[Cell], slots: int) -> tuple[float, int] | None:
    """(seconds on that many slots, number of finished runs it is estimated from); None without any."""
    to_run = list(cells)
    if not to_run:
        return None
    pasts = _best(past for past in known(root) if past.kind == kind_of(to_run[0].config))
    paces = [past.pace for past in pasts]
    if not paces:
        return None
    return median(paces) * sum(work(cell.config) for cell in to_run) / min(slots, len(to_run)), sum(
        not past.timed for past in pasts
    )


def costs(
    pasts: Sequence[Past], cells: Sequence[Cell], *, gpus: int, gpu_kind: str | None, pack: int = 1
) -> list[Cost]:
    """One cost for each hardware on which runs of these kinds have finished, the highest first.

    `gpus`: of one run, which `pack` runs share; only past runs with the same numbers are used. `gpu_kind`: the site's name
    of the GPU.
    """
    on_gpu = takes_gpus(cells, gpus=gpus)
    same = [p for p in pasts if (max(1, p.gpus), p.pack) == (max(1, gpus), pack)]
    like = [p for p in same if is_gpu(p.hardware) == on_gpu] or ([] if on_gpu else same)
    named = [p for p in like if gpu_kind and gpu_kind.lower() in p.hardware.lower()] if on_gpu else []
    by_hardware: dict[str, list[Past]] = defaultdict(list)
    for past in named or like:
        by_hardware[past.hardware].append(past)
    found = [_cost(hardware, runs, cells) for hardware, runs in by_hardware.items()]
    return sorted((cost for cost in found if cost.source), key=lambda cost: -cost.hours)


def _cost(hardware: str, pasts: Sequence[Past], cells: Sequence[Cell]) -> Cost:
    by_kind: dict[Kind, list[Past]] = defaultdict(list)
    for past in pasts:
        by_kind[past.kind].append(past)
    best = {kind: _best(runs) for kind, runs in by_kind.items()}
    here = [cell for cell in cells if kind_of(cell.config) in best]
    seconds = sum(median(p.pace for p in best[kind_of(cell.config)]) * work(cell.config) for cell in here)
    used = [past for kind in {kind_of(cell.config) for cell in here} for past in best[kind]]
    timed = sum(past.timed for past in used)
    return Cost(hardware, seconds / 3600, len(used) - timed, timed, len(cells) - len(here))


def _best(pasts: Iterable[Past]) -> list[Past]:
    """The finished runs, which include readouts, if there are any; else the calibrations."""
    candidates = list(pasts)
    return [past for past in candidates if not past.timed] or candidates


def known(root: Path) -> Iterator[Past]:
    """Finished runs, then calibrations."""
    yield from finished(root)
    yield from calibrations(root)


def calibrations(root: Path) -> Iterator[Past]:
    for file in sorted((root / schema.CALIBRATION_FOLDER).glob(f"*/{schema.PACE}")):
        try:
            pace, config = read_json(file) or {}, config_of(RunDirectory(file.parent))
        except ValueError:  # written by another version
            continue
        yield Past(kind_of(config), pace["seconds_per_step"], pace["hardware"], pace["gpus"], file.parent, timed=True)


def disk_need(pasts: Sequence[Past], cells: Sequence[Cell]) -> int | None:
    """Bytes that the cells will take, by the largest of ten runs of each kind; None if a kind has no finished run."""
    kinds = {kind_of(cell.config) for cell in cells}
    sizes = {
        kind: [_size(p.path) for p in islice((p for p in pasts if p.kind == kind and not p.timed), 10)]
        for kind in kinds
    }
    if not all(sizes.values()):
        return None
    return sum(max(sizes[kind_of(cell.config)]) for cell in cells)


def disk_free(root: Path) -> int:
    """Free bytes on the disk where `root` is or will be."""
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def finished(root: Path) -> Iterator[Past]:
    """Finished runs. Untrained ones are left out, because they have no pace of training."""
    paths = (path.parent for path in root.glob(f"[0-9a-f]*/{schema.RESULTS}"))
    for path in islice(paths, MOST_READ):
        run = RunDirectory(path)
        try:
            results, config = run.results() or {}, config_of(run)
            where = read_json(path / schema.ENVIRONMENT) or {}
            hardware = [line["hardware"] for line in run.attempts() if line.get("hardware")]
        except ValueError:  # damaged, or written by another version
            continue
        if "seconds" in results and config.train.epochs:
            name = hardware[-1] if hardware else where.get("hardware", "unknown hardware")
            yield Past(
                kind_of(config),
                results["seconds"] / work(config),
                name,
                where.get("gpus", 1),
                path,
                where.get("pack", 1),
            )


@dataclass(frozen=True)
class Advice:
    """How many `runs` should share one GPU. `memory`, `load`: percent of the GPU that one run takes alone.

    Memory limits how many fit. Load limits how many are worth it: runs on one GPU take turns, so the runs per hour grow
    only until some kernel always runs.
    """

    runs: int
    memory: float  # maximum
    load: float  # median
    seen: int  # finished runs that it is estimated from

    @property
    def gain(self) -> float:
        """Upper bound of the runs per hour, relative to running them one after the other."""
        return min(self.runs, 100.0 / self.load)

    def __str__(self) -> str:
        one = (
            f"one run takes {self.memory:.0f} % of a GPU's memory and keeps it busy {self.load:.0f} % of the time "
            f"(by {self.seen} finished runs)"
        )
        if self.runs == 1:
            return f"{one}: --pack would gain nothing"
        return f"{one}: --pack {self.runs} gives up to {self.gain:.1f} times as many runs an hour"


def advise(pasts: Iterable[Past], cells: Sequence[Cell], gpu_kind: str | None = None) -> Advice | None:
    """From finished runs of the cells' kinds that had one GPU for themselves; None if there are none with GPU metrics.

    `gpu_kind`: the site's name of the GPU. Percentages of different GPUs do not compare, so only runs on the same GPU as the
    last one are used.
    """
    kinds = {kind_of(cell.config) for cell in cells}
    alone = [past for past in pasts if past.kind in kinds and past.gpus == 1 and past.pack == 1 and not past.timed]
    alone = [past for past in alone if not gpu_kind or gpu_kind.lower() in past.hardware.lower()]
    alone = [past for past in alone if past.hardware == alone[-1].hardware]
    seen = [both for past in islice(alone, RUNS_FOR_ADVICE) if (both := _memory_and_load(past))]
    if not seen:
        return None
    memory, load = max(memory for memory, _ in seen), max(1.0, median(load for _, load in seen))
    fitting, worth = int(FILL / max(memory, 1.0)), math.ceil(100.0 / load - LEAST_GAIN)
    return Advice(max(1, min(fitting, worth)), memory, load, len(seen))


def _memory_and_load(past: Past) -> tuple[float, float] | None:
    """Maximum memory and median load in percent, from its journal; None without GPU metrics."""
    systems = (record.get("system", {}) for record in RunDirectory(past.path).records())
    samples = [sample for sample in systems if LOAD in sample and MEMORY in sample]
    if not samples:
        return None
    return max(sample[MEMORY] for sample in samples), median(sample[LOAD] for sample in samples)


def bytes_in_words(size: float) -> str:
    """`512 bytes`, `24 kB`, `1.5 GB`; units are powers of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit in ("bytes", "kB") else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
