"""On which device, and how fast, cells are trained that leave it open: one decision for all of them, before any starts."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.plan.sweep import Cell, total_steps
from moco.speed import Way, decide


def way_of_cells(cells: Sequence[Cell], *, gpus: int, processes: int | None = None) -> Way:
    """`gpus`: for each run, of its profile, or those of this machine. `processes` of a run: by default one for each GPU."""
    configs = [cell.config for cell in cells]
    if all(config.train.device == "cpu" for config in configs):
        gpus = 0
    steps = [total_steps(config) for config in configs]
    return decide(configs, steps, gpus=gpus, processes=processes or max(1, gpus))


def takes_gpus(cells: Sequence[Cell], *, gpus: int, processes: int | None = None) -> bool:
    """Whether any of the cells would be trained on one of the GPUs."""
    way = way_of_cells(cells, gpus=gpus, processes=processes)
    return gpus > 0 and any(way.of(cell.config).train.device != "cpu" for cell in cells)
