"""What an export of this suite says of itself: the run's config, and its projection head if its own readouts need it.

One text, in the place that each format has for notes, where other tools do not look: the metadata of safetensors, the
`_metadata` that torch keeps beside a state dict, a key of its own in detectron2's and the authors' files.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from moco.config import Config
from moco.config.plain import from_plain, to_plain
from moco.weights.names import State


@dataclass(frozen=True, eq=False)
class Carried:
    config: Config
    head: State | None = None


def to_text(carried: Carried) -> str:
    head = None
    if carried.head is not None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in carried.head.items()}
        head = base64.b64encode(safetensors.torch.save(tensors)).decode()
    return json.dumps({"config": to_plain(carried.config), "head": head})


def from_text(text: str, path: Path) -> Carried:
    """Raises ValueError, with the path, if it is damaged or of a config that this version cannot read."""
    try:
        values = json.loads(text)
        if not isinstance(values, Mapping):
            raise ValueError("not a dict")
        head = safetensors.torch.load(base64.b64decode(values["head"])) if values["head"] else None
        return Carried(from_plain(Config, values["config"]), head)
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path}: what it says of its own config cannot be read ({error}); export the run again"
        ) from None
