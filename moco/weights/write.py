"""An encoder for the tools people use next: torchvision, timm, detectron2, safetensors.

Each file is made under the names of its reader and says in its model card how to load it there.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from moco import checkpoint
from moco.config import ResNet, ViT
from moco.weights.names import State, to_detectron2, to_timm

Writer = Callable[[State, Path], None]


def exportable(config: ResNet | ViT, target: str) -> None:
    """Raises ValueError where the reader has no such network."""
    if target == "safetensors":
        return
    if isinstance(config, ResNet) and config.depth == 8:
        raise ValueError(f"export to {target}: there is no ResNet-8 outside this suite; choose safetensors")
    if target == "detectron2" and isinstance(config, ViT):
        raise ValueError("export to detectron2: its layout of the authors is for ResNets; choose timm or torchvision")
    if target == "timm" and isinstance(config, ViT) and (config.stem == "conv" or config.pool == "mean"):
        raise ValueError("export to timm: its ViT has no conv stem and no mean without a LayerNorm; choose torchvision")


def to_torchvision_file(state: State, path: Path) -> None:
    checkpoint.save(state, path)


def to_timm_file(state: State, path: Path) -> None:
    checkpoint.save(to_timm(state), path)


def to_detectron2_file(state: State, path: Path) -> None:
    """With the author and the heuristics flag: without them detectron2 drops the BatchNorm statistics (moco#45)."""
    arrays = {name: tensor.numpy() for name, tensor in to_detectron2(state).items()}
    with path.open("wb") as file:
        pickle.dump({"model": arrays, "__author__": "MOCO", "matching_heuristics": True}, file)


def to_safetensors_file(state: State, path: Path) -> None:
    save_file(state, path, metadata={"format": "pt"})


TARGETS: dict[str, tuple[str, Writer]] = {
    "torchvision": (".pth", to_torchvision_file),
    "timm": (".pth", to_timm_file),
    "detectron2": (".pkl", to_detectron2_file),
    "safetensors": (".safetensors", to_safetensors_file),
}


def export(state: State, config: ResNet | ViT, target: str, folder: Path) -> Path:
    """`state`: the backbone's, under torchvision's names. Raises ValueError for what `target` cannot take."""
    if target not in TARGETS:
        raise ValueError(f"export to {target}: there is no such target, the choices are {', '.join(TARGETS)}")
    exportable(config, target)
    suffix, write = TARGETS[target]
    path = folder / f"encoder-{target}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    write({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path)
    return path
