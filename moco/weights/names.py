"""The same tensors under the names of each tool. torchvision's names are the ones in the middle.

A translation takes a state dict and gives one; what it has no name for is an error that lists the keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

State = dict[str, Tensor]
Translation = Callable[[Mapping[str, Tensor]], State]

# Children of torchvision's ResNet without its classifier, in order: what lightly's Sequential numbers. The authors' CIFAR-10
# notebook leaves the max pool out before it numbers them.
RESNET_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool")
NOTEBOOK_CHILDREN = tuple(name for name in RESNET_CHILDREN if name != "maxpool")

# timm's names of a ViT's tensors (moco-v3 trains timm's) and torchvision's, block by block.
VIT_TENSORS = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj.weight": "conv_proj.weight",
    "patch_embed.proj.bias": "conv_proj.bias",
    "norm.weight": "encoder.ln.weight",
    "norm.bias": "encoder.ln.bias",
}
VIT_BLOCK = {
    "norm1.weight": "ln_1.weight",
    "norm1.bias": "ln_1.bias",
    "attn.qkv.weight": "self_attention.in_proj_weight",
    "attn.qkv.bias": "self_attention.in_proj_bias",
    "attn.proj.weight": "self_attention.out_proj.weight",
    "attn.proj.bias": "self_attention.out_proj.bias",
    "norm2.weight": "ln_2.weight",
    "norm2.bias": "ln_2.bias",
    "mlp.fc1.weight": "mlp.0.weight",
    "mlp.fc1.bias": "mlp.0.bias",
    "mlp.fc2.weight": "mlp.3.weight",
    "mlp.fc2.bias": "mlp.3.bias",
}

# torchvision's ResNet to detectron2's, whose checkpointer reads the authors' detection files so.
DETECTRON2 = (
    *((rf"^layer{stage}\.", f"res{stage + 1}.") for stage in (1, 2, 3, 4)),
    *((rf"\bbn{number}\.", f"conv{number}.norm.") for number in (1, 2, 3)),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
)

FROM_DETECTRON2 = (
    *((rf"^res{stage + 1}\.", f"layer{stage}.") for stage in (1, 2, 3, 4)),
    *((rf"\bconv{number}\.norm\.", f"bn{number}.") for number in (1, 2, 3)),
    (r"\bshortcut\.norm\.", "downsample.1."),
    (r"\bshortcut\.", "downsample.0."),
)


def from_timm(state: Mapping[str, Tensor]) -> State:
    stem = _conv_stem_names(state)
    names = VIT_TENSORS | {old: new for new, old in stem.items()}
    return translated(state, lambda name: _vit_name(name, names, r"blocks\.(\d+)\.(.*)", VIT_BLOCK, TORCHVISION_BLOCK))


def _conv_stem_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """torchvision's names of a conv stem -> those of facebookresearch/moco-v3 (vits.py, ConvStem): convolution, BatchNorm and
    ReLU in turns, and a last 1 x 1 convolution, numbered through."""
    numbers = [int(match[1]) for name in state if (match := re.match(r"patch_embed\.proj\.(\d+)\.", name))]
    ours = [int(match[1]) for name in state if (match := re.match(r"conv_proj\.conv_bn_relu_(\d+)\.", name))]
    stages = max(numbers) // 3 if numbers else max(ours, default=-1) + 1
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {}
    for stage in range(stages):
        names[f"conv_proj.conv_bn_relu_{stage}.0.weight"] = f"patch_embed.proj.{3 * stage}.weight"
        for part in norms:
            names[f"conv_proj.conv_bn_relu_{stage}.1.{part}"] = f"patch_embed.proj.{3 * stage + 1}.{part}"
    for part in ("weight", "bias") if stages else ():
        names[f"conv_proj.conv_last.{part}"] = f"patch_embed.proj.{3 * stages}.{part}"
    return names


def to_timm(state: Mapping[str, Tensor]) -> State:
    """A ViT's tensors; a ResNet has the same names there."""
    if "conv_proj.weight" not in state:
        return dict(state)
    tensors, block = ({new: old for old, new in names.items()} for names in (VIT_TENSORS, VIT_BLOCK))
    pattern = r"encoder\.layers\.encoder_layer_(\d+)\.(.*)"
    return translated(state, lambda name: _vit_name(name, tensors, pattern, block, "blocks.{}.{}"))


TORCHVISION_BLOCK = "encoder.layers.encoder_layer_{}.{}"


def _vit_name(name: str, tensors: Mapping[str, str], pattern: str, block: Mapping[str, str], form: str) -> str | None:
    if name in tensors:
        return tensors[name]
    match = re.fullmatch(pattern, name)
    if match is None or match[2] not in block:
        return None
    return form.format(match[1], block[match[2]])


def from_numbered(state: Mapping[str, Tensor], children: tuple[str, ...] = RESNET_CHILDREN) -> State:
    """`nn.Sequential(*list(resnet.children())[:-1])`, as lightly's examples wrap a ResNet."""

    def name_of(name: str) -> str | None:
        number, _, rest = name.partition(".")
        place = int(number) if number.isdigit() else len(children)
        return f"{children[place]}.{rest}" if place < len(children) else None

    return translated(state, name_of)


def from_notebook(state: Mapping[str, Tensor]) -> State:
    """The authors' CIFAR-10 notebook (facebookresearch/moco, colab/moco_cifar10_demo.ipynb, ModelBase)."""
    return from_numbered(state, NOTEBOOK_CHILDREN)


def from_detectron2(state: Mapping[str, Tensor]) -> State:
    def name_of(name: str) -> str:
        first = name.removeprefix("stem.")
        for pattern, new in FROM_DETECTRON2:
            first = re.sub(pattern, new, first)
        return first

    return translated(state, name_of)


def to_detectron2(state: Mapping[str, Tensor]) -> State:
    """A ResNet's tensors without the counters of BatchNorm, which detectron2 has not."""

    def name_of(name: str) -> str:
        first = name if name.startswith("layer") else f"stem.{name}"
        for pattern, new in DETECTRON2:
            first = re.sub(pattern, new, first)
        return first

    return translated({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, name_of)


def translated(state: Mapping[str, Tensor], name_of: Callable[[str], str | None]) -> State:
    """Raises ValueError with the keys that have no name there."""
    names = {name: name_of(name) for name in state}
    unknown = [name for name, new in names.items() if new is None]
    if unknown:
        raise ValueError(f"no name for {listed(unknown)} in the other layout")
    return {new: state[name] for name, new in names.items() if new is not None}


def listed(keys: list[str], most: int = 8) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
