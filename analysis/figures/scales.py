"""`axis_scale`: the position of each arm on a sweep's axis. `series`: which arms are joined by a line."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from experiments.store.schema import Manifest

AXIS_TITLES: Final = {
    "negatives.size": "number of negatives K",
    "key_encoder.momentum": "momentum m of the key encoder",
    "loss.temperature": "temperature T",
    "train.batch_size": "batch size",
    "train.epochs": "epochs",
    "optim.lr": "learning rate",
    "head.dim": "dimension of the projection",
}
LOGARITHMIC_FROM: Final = 4.0  # largest over smallest value


@dataclass(frozen=True)
class Scale:
    """The axis of a sweep. Positions are computed here rather than by matplotlib, so that every tick is an arm."""

    title: str
    positions: Mapping[str, float]  # arm -> x
    ticks: Mapping[float, str]  # x -> label


def _one_minus(momentum: float) -> float:
    return -math.log10(1 - momentum)


def _placement(axis: str, ascending: Sequence[float]) -> Callable[[float], float]:
    low, high = ascending[0], ascending[-1]
    if axis.endswith("momentum") and low >= 0 and 0.9 < high < 1:
        return _one_minus
    return math.log2 if low > 0 and high / low >= LOGARITHMIC_FROM else float


def axis_scale(manifest: Manifest) -> Scale | None:
    """The axis: log2 where values span a factor of 4, -log10(1 - m) for momenta near 1, else linear. None without one."""
    axis, values = manifest["axis"], manifest["axis_values"]
    if axis is None or len(set(values.values())) < 2:
        return None
    numbers = sorted(set(values.values()))
    place = _placement(axis, numbers)
    positions = {arm: place(value) for arm, value in values.items()}
    ticks = {place(v): f"{v:,.0f}" if v >= 1000 else f"{v:g}" for v in numbers}
    return Scale(AXIS_TITLES.get(axis, axis), positions, ticks)


def _without(config: Any, field: str) -> str:
    """A config as text, without its seed and one field. Arms of one line have the same."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        for key, inner in value.items() if isinstance(value, dict) else ():
            walk(f"{prefix}.{key}".lstrip("."), inner)
        if not isinstance(value, dict):
            flat[prefix] = value

    walk("", config)
    return repr(sorted((k, repr(v)) for k, v in flat.items() if k not in (field, "train.seed")))


def series(manifest: Manifest) -> dict[str, str]:
    """Arm -> name of its line; a single line without a name, unless the sweep also varies something else."""
    on_axis = [arm for arm in manifest["arms"] if arm in manifest["axis_values"]]
    values = [manifest["axis_values"][arm] for arm in on_axis]
    if len(set(values)) == len(values):
        return dict.fromkeys(on_axis, "")
    one_seed = {cell["arm"]: cell["config"] for cell in manifest["cells"]}  # they differ in their seed only
    configs = {arm: _without(config, manifest["axis"] or "") for arm, config in one_seed.items()}
    first = {configs[arm]: arm for arm in reversed(on_axis)}
    return {arm: _line_name(first[configs[arm]]) for arm in on_axis}


def _line_name(arm: str) -> str:
    """`mlp,T=0.2` -> `mlp`: the name without its number."""
    kept = [
        part
        for part in re.split(r"[-,;+/\s]+(?=[A-Za-z]\w*=)|(?<=\d)[,;+/\s]+", arm)
        if not re.fullmatch(r"\w+=[\d.e-]+", part)
    ]
    return " ".join(kept) or arm
