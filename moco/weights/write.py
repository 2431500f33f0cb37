"""An encoder for the tools people use next: torchvision, timm, detectron2, the authors' linear probe, safetensors.

Each file is made under the names of its reader and says in its model card how to load it there.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file

from moco import checkpoint
from moco.config import ResNet, ViT
from moco.weights.carried import Carried, to_text
from moco.weights.contents import CARRIED
from moco.weights.names import State, to_detectron2, to_timm

Writer = Callable[[State, ResNet | ViT, str | None, Path], None]

# (depth, groups, width of a group) -> torchvision's name, which `main_lincls.py` takes as `-a`
NAMES = {
    **{(depth, 1, 64): f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    (50, 32, 4): "resnext50_32x4d",
    (101, 32, 8): "resnext101_32x8d",
    (101, 64, 4): "resnext101_64x4d",
    (50, 1, 128): "wide_resnet50_2",
    (101, 1, 128): "wide_resnet101_2",
}


def name_of(config: ResNet) -> str | None:
    """torchvision's name of a ResNet; None if it has none."""
    return NAMES.get((config.depth, config.groups, config.width_per_group))


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
    if target == "lincls":
        _check_lincls(config)


def _check_lincls(config: ResNet | ViT) -> None:
    if isinstance(config, ViT):
        raise ValueError("export to lincls: the authors' main_lincls.py reads ResNets; choose timm or torchvision")
    if config.stem != "imagenet":
        raise ValueError(
            f"export to lincls: the authors' main_lincls.py builds the 7 x 7 stem, this one is {config.stem}; "
            "choose torchvision, timm or safetensors"
        )
    if name_of(config) is None:
        raise ValueError(
            f"export to lincls: torchvision has no name for depth {config.depth} with {config.groups} groups of "
            f"{config.width_per_group}; choose torchvision, timm or safetensors"
        )


def _with_note(state: State, carried: str | None) -> State:
    """As torch saves a state dict, with the note among what it keeps beside the tensors; `load_state_dict` passes over it."""
    if carried is None:
        return state
    noted = OrderedDict(state)
    noted._metadata = OrderedDict({CARRIED: carried})  # type: ignore[attr-defined]
    return noted


def _note(carried: str | None) -> dict[str, str]:
    return {} if carried is None else {CARRIED: carried}


def to_torchvision_file(state: State, config: ResNet | ViT, carried: str | None, path: Path) -> None:
    checkpoint.save(_with_note(state, carried), path)


def to_timm_file(state: State, config: ResNet | ViT, carried: str | None, path: Path) -> None:
    checkpoint.save(_with_note(to_timm(state), carried), path)


def to_detectron2_file(state: State, config: ResNet | ViT, carried: str | None, path: Path) -> None:
    """With the author and the heuristics flag: without them detectron2 drops the BatchNorm statistics (moco#45)."""
    arrays = {name: tensor.numpy() for name, tensor in to_detectron2(state).items()}
    with path.open("wb") as file:
        pickle.dump({"model": arrays, "__author__": "MOCO", "matching_heuristics": True, **_note(carried)}, file)


def to_lincls_file(state: State, config: ResNet | ViT, carried: str | None, path: Path) -> None:
    """As `main_moco.py` of facebookresearch/moco saves. `main_lincls.py` reads what begins with `module.encoder_q.` in its
    `state_dict`, and later compares its own weights with it (`sanity_check`)."""
    assert isinstance(config, ResNet)
    weights = {f"module.encoder_q.{name}": tensor for name, tensor in state.items()}
    checkpoint.save({"epoch": 0, "arch": name_of(config), "state_dict": weights, **_note(carried)}, path)


def to_safetensors_file(state: State, config: ResNet | ViT, carried: str | None, path: Path) -> None:
    save_file(state, path, metadata={"format": "pt", **_note(carried)})


TARGETS: dict[str, tuple[str, Writer]] = {
    "torchvision": (".pth", to_torchvision_file),
    "timm": (".pth", to_timm_file),
    "detectron2": (".pkl", to_detectron2_file),
    "lincls": (".pth.tar", to_lincls_file),
    "safetensors": (".safetensors", to_safetensors_file),
}


def check(config: ResNet | ViT, target: str) -> None:
    """Raises ValueError for a target that does not exist, and for one whose reader has no such network."""
    if target not in TARGETS:
        raise ValueError(f"export to {target}: there is no such target, the choices are {', '.join(TARGETS)}")
    exportable(config, target)


def export(state: State, config: ResNet | ViT, target: str, folder: Path, carried: Carried | None = None) -> Path:
    """`state`: the backbone's, under torchvision's names. `carried`: what the file says of the run, which its tensors do not
    tell. Raises ValueError for what `target` cannot take."""
    check(config, target)
    suffix, write = TARGETS[target]
    path = folder / f"encoder-{target}{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write(tensors, config, to_text(carried) if carried else None, path)
    return path
