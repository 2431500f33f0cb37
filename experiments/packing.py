"""How many runs should share one GPU: from what finished runs of the same kind took of theirs. `--dry-run` prints it.

Memory decides how many fit, the load how many are worth it: runs on one GPU take turns, so the runs per hour can grow
until a kernel always runs, and no further.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

from experiments.estimate import Past, kind_of
from experiments.run_directory import RunDirectory
from experiments.sweep import Cell

FILL = 90.0  # percent of the GPU's memory that runs together may take
LEAST_GAIN = 0.1  # for which one more run is worth it
LOOK_AT = 10  # runs
LOAD, MEMORY = "system/gpu_percent", "system/gpu_memory_percent"


@dataclass(frozen=True)
class Advice:
    """`runs` on one GPU. Percent of it that one run takes, alone: `memory` at most, `load` in the median."""

    runs: int
    memory: float
    load: float
    seen: int

    @property
    def gain(self) -> float:
        """Runs per hour against one after the other, at the very most."""
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
    """Of runs of the cells' kind that had one GPU for themselves; None without any whose GPU could be asked.

    `gpu_kind`: what the site calls its GPUs. Shares of another GPU's memory say nothing: of several the last seen counts.
    """
    kinds = {kind_of(cell.config) for cell in cells}
    alone = [past for past in pasts if past.kind in kinds and past.gpus == 1 and past.pack == 1 and not past.timed]
    alone = [past for past in alone if not gpu_kind or gpu_kind.lower() in past.hardware.lower()]
    alone = [past for past in alone if past.hardware == alone[-1].hardware]
    seen = [both for past in islice(alone, LOOK_AT) if (both := _of_run(past))]
    if not seen:
        return None
    memory, load = max(memory for memory, _ in seen), max(1.0, median(load for _, load in seen))
    fitting, worth = int(FILL / max(memory, 1.0)), math.ceil(100.0 / load - LEAST_GAIN)
    return Advice(max(1, min(fitting, worth)), memory, load, len(seen))


def _of_run(past: Past) -> tuple[float, float] | None:
    """Most memory and median load, in percent, of its journal."""
    systems = (record.get("system", {}) for record in RunDirectory(past.path).records())
    looks = [look for look in systems if LOAD in look and MEMORY in look]
    if not looks:
        return None
    return max(look[MEMORY] for look in looks), median(look[LOAD] for look in looks)
