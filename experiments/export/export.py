"""`python -m experiments export`: a run's encoder as files for other tools, with a model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.export.model_card import card_of
from experiments.store import schema
from moco.config import Config
from moco.config.plain import from_plain


def export(run: Path, targets: Sequence[str], out: Path) -> list[Path]:
    """Write the encoder for each target, and the card. Returns the paths, the card last.

    Raises ValueError for a run that is not done, an unknown target, and a target that has no such network.
    """
    from moco import checkpoint
    from moco.weights.write import TARGETS, exportable
    from moco.weights.write import export as write

    weights = run / schema.ENCODER
    if not weights.exists():
        raise ValueError(f"{run}: the run is not done, there is no {schema.ENCODER} yet")
    saved = checkpoint.load(weights)
    config: Config = from_plain(Config, saved["config"])
    for target in targets:
        if target not in TARGETS:
            raise ValueError(f"--to {target}: there is no such target, the choices are {', '.join(TARGETS)}")
        exportable(config.encoder, target)
    state = {name.removeprefix("backbone."): tensor for name, tensor in saved["encoder"].items()}
    folder = out / run.name
    files = [write(state, config.encoder, target, folder) for target in targets]
    card = folder / "MODEL_CARD.md"
    card.write_text(card_of(run, config, dict(zip(targets, files, strict=True))))
    return [*files, card]
