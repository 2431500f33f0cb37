"""`python -m experiments export`: a run's encoder as files for other tools, with a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.export.model_card import card_of
from experiments.store import schema
from moco.config import Classifier, Config
from moco.config.plain import from_plain

if TYPE_CHECKING:
    from moco.weights.carried import Carried


@dataclass(frozen=True)
class Exported:
    """`paths`: the files in the order of their targets, the card last. `refused`: target -> why it was not written."""

    paths: list[Path]
    refused: dict[str, str]


def export(run: Path, targets: Sequence[str], out: Path) -> Exported:
    """Write the encoder for each target that can take it, and the card. Each file carries the run's config.

    Raises ValueError for a run that is not done, an unknown target, and if no target has such a network.
    """
    from moco import checkpoint
    from moco.weights.write import TARGETS, check
    from moco.weights.write import export as write

    weights = run / schema.ENCODER
    if not weights.exists():
        raise ValueError(f"{run}: the run is not done, there is no {schema.ENCODER} yet")
    saved = checkpoint.load(weights)
    config: Config = from_plain(Config, saved["config"])
    refused: dict[str, str] = {}
    targets = list(dict.fromkeys(targets))
    for target in targets:
        if target not in TARGETS:
            raise ValueError(f"--to {target}: there is no such target, the choices are {', '.join(TARGETS)}")
        try:
            check(config.encoder, target)
        except ValueError as error:
            refused[target] = str(error)
    if len(refused) == len(targets):
        raise ValueError("; ".join(refused.values()))
    state = {name.removeprefix("backbone."): tensor for name, tensor in saved["encoder"].items()}
    folder, carried = out / run.name, carried_of(config, saved)
    files = {
        target: write(state, config.encoder, target, folder, carried) for target in targets if target not in refused
    }
    card = folder / "MODEL_CARD.md"
    card.write_text(card_of(run, config, files), encoding="utf-8")
    return Exported([*files.values(), card], refused)


def carried_of(config: Config, saved: Mapping[str, Any]) -> Carried:
    """The projection head goes along where the run's own kNN is on its output."""
    from moco.weights.carried import Carried

    on_head = config.evaluation.knn_features == "projection" and not isinstance(config.head, Classifier)
    return Carried(config, saved["head"] if on_head else None)
