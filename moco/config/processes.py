"""What a config must be for a run that is spread over several processes. Imports no torch: asked before anything starts."""

from __future__ import annotations

from moco.config.checked import require
from moco.config.contrast import InfoNCE
from moco.config.network import ViT
from moco.config.run import Config


def check_processes(config: Config, count: int) -> None:
    """Raises ValueError if `count` processes cannot compute what one would."""
    if count == 1:
        return
    batch, parts, over = config.train.batch_size, config.train.accumulate, f"over {count} processes"
    cut = f" in {parts} parts (train.accumulate)" if parts > 1 else ""
    require(
        batch % (count * parts) == 0,
        f"train.batch_size = {batch} {over}{cut}: must divide equally; choose a multiple of {count * parts}",
    )
    splits = config.encoder.batch_norm_splits
    require(
        isinstance(config.encoder, ViT) or splits == 1 or splits % (count * parts) == 0,
        f"encoder.batch_norm_splits = {splits} {over}{cut}: each process normalises whole parts; choose a multiple of "
        f"{count * parts}, or 1 for one BatchNorm over all (SyncBN)",
    )
    symmetric = isinstance(config.loss, InfoNCE) and config.loss.symmetric
    require(
        not (symmetric and getattr(config.key_encoder, "shuffle", False)),
        f"loss.symmetric = True and key_encoder.shuffle = True {over}: each view would have to be rendered on two of them; "
        "set key_encoder.shuffle=false, or use one process",
    )
