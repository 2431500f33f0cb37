"""Who wrote a file of weights, by marks that only its maker leaves, and what that maker's code does where tensors say nothing.

A mark is a name in the path to the network, tensors beside it, modules that torch noted beside the tensors, or a name of the
network in the file or of the file. Where no mark decides, the fact is asked for: `--set encoder.<field>=`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moco.config import ResNet, ViT
from moco.vit import sincos_positions
from moco.weights.architecture import Seen
from moco.weights.contents import Contents
from moco.weights.names import State

# (width, depth) -> heads. These three sizes have the same heads in every published code: Dosovitskiy et al. (ViT,
# arXiv:2010.11929, table 1), Touvron et al. (DeiT, arXiv:2012.12877, table 1), MAE (models_mae.py), DINO, iBOT, v3.
EVERYWHERE = {(768, 12): 12, (1024, 24): 16, (1280, 32): 16}
V3 = {(384, 12): 12, **EVERYWHERE}  # facebookresearch/moco-v3, vits.py; arXiv:2104.02057, section 5
DEIT = {
    (192, 12): 3,
    (384, 12): 6,
    **EVERYWHERE,
}  # DeiT; timm's vit_* and deit_*; DINO and iBOT (vision_transformer.py)


@dataclass(frozen=True)
class Place:
    """Where in a file a network was found: `path` leads to it, `layout` is how its tensors are named.

    `beside`: the parts of the names of all other tensors in the file.
    """

    path: str
    layout: str
    beside: frozenset[str]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.rstrip(".").split(".")) if self.path else ()

    def has(self, *beside: str) -> bool:
        """Does one of these lie beside the network?"""
        return not self.beside.isdisjoint(beside)


@dataclass(frozen=True)
class Maker:
    """`heads`: of its transformers. `small`: (stem, padding) of its 3 x 3 first convolution, None if its users choose.
    `plain`: a 7 x 7 first convolution is always torchvision's, with its pooling and without anti-aliasing.
    """

    name: str
    heads: dict[tuple[int, int], int]
    small: tuple[str, int] | None = None
    plain: bool = True


Marks = Callable[[Place, Contents], bool]


def _named(*parts: str) -> Marks:
    return lambda place, _: any(part in place.parts for part in parts)


def _last_but(place: Place, *parts: str) -> bool:
    """Does the path end in one of these, above which everything lies beside?"""
    return place.parts[-1:] != () and place.parts[-1] in parts


LIGHTNING = {"pytorch-lightning_version", "hyper_parameters", "callbacks"}  # in files of its trainer

# The first that fits. Sources are the repositories named; each line is what the file's own code builds.
MAKERS: tuple[tuple[Marks, Maker], ...] = (
    (  # facebookresearch/moco, colab/moco_cifar10_demo.ipynb, ModelBase: 3 x 3, stride 1, no pooling
        lambda place, _: place.layout == "notebook" and place.parts[-2:-1] in (("encoder_q",), ("encoder_k",)),
        Maker("the authors' CIFAR-10 notebook", {}, ("small", 1)),
    ),
    (  # open-mmlab/mmselfsup 0.x and OpenSelfSup: encoder_q = Sequential(backbone, neck)
        lambda place, _: place.parts[-2:] in (("encoder_q", "0"), ("encoder_k", "0")),
        Maker("mmselfsup or OpenSelfSup", {}),
    ),
    (
        lambda place, _: _last_but(place, "encoder_q", "encoder_k") and place.parts[-2:-1] == ("module",),
        Maker("the authors' MoCo v1 or v2", {}),
    ),
    (_named("encoder_q", "encoder_k"), Maker("the authors' MoCo v1 or v2, without DistributedDataParallel", {})),
    (
        lambda place, _: _last_but(place, "base_encoder", "momentum_encoder") and place.parts[-2:-1] == ("module",),
        Maker("the authors' MoCo v3", V3),
    ),
    (
        lambda place, _: _last_but(place, "base_encoder", "momentum_encoder"),
        Maker("the authors' MoCo v3, without DistributedDataParallel", V3),
    ),
    (_named("_feature_blocks"), Maker("VISSL", {})),  # facebookresearch/vissl: torchvision's ResNeXt
    # facebookresearch/swav, src/resnet50.py: zero padding of 1 and a convolution of padding 2 are torchvision's padding of 3
    (lambda place, _: place.has("prototypes"), Maker("SwAV or DeepCluster-v2", {})),
    # facebookresearch/mae, models_mae.py: no small size
    (lambda place, _: place.has("mask_token", "decoder_embed"), Maker("MAE", EVERYWHERE)),
    (lambda place, _: place.has("masked_embed"), Maker("iBOT", DEIT)),
    (  # facebookresearch/dino, main_dino.py: MultiCropWrapper(backbone, head) as student and teacher
        lambda place, _: bool({"student", "teacher"} & {*place.parts[:1]}) and place.has("head"),
        Maker("DINO or iBOT", DEIT),
    ),
    # vturrisi/solo-learn, solo/methods/base.py: for CIFAR 3 x 3, stride 1 and a padding of 2, no pooling. Its files are
    # Lightning's, with a projector and a classifier that is trained beside; other Lightning modules have a `backbone`, too.
    (
        lambda place, contents: (
            place.parts in (("state_dict", "backbone"), ("state_dict", "encoder"), ("state_dict", "momentum_backbone"))
            and place.has("classifier")
            and place.has("projector")
            and not LIGHTNING.isdisjoint(map(str, contents.values))
        ),
        Maker("solo-learn", DEIT, ("small", 2)),
    ),
    # facebookresearch/barlowtwins, main.py
    (
        lambda place, _: _last_but(place, "backbone") and place.has("bn") and place.has("projector"),
        Maker("Barlow Twins", {}),
    ),
    # facebookresearch/vicreg, main_vicreg.py; its resnet.py is SwAV's
    (
        lambda place, _: place.parts[-2:] == ("module", "backbone") and place.has("projector"),
        Maker("VICReg", {}),
    ),
    # lightly-ai/lightly, examples: Sequential(*list(resnet.children())[:-1]), the pooling numbered with it
    (
        lambda place, _: place.layout == "numbered" and any("backbone" in part for part in place.parts),
        Maker("lightly", {}),
    ),
    # facebookresearch/simsiam, simsiam/builder.py
    (
        lambda place, _: _last_but(place, "encoder") and place.has("predictor"),
        Maker("SimSiam", {}),
    ),
    (  # lucidrains/byol-pytorch and sthalles/PyTorch-BYOL
        lambda place, _: any(part.startswith(("online_", "target_")) for part in place.parts),
        Maker("BYOL", {}),
    ),
    (  # open-mmlab: mmcls' ResNet_CIFAR is 3 x 3, stride 1, padding 1, no pooling
        lambda place, contents: place.has("neck") and re.search(r"ResNet_CIFAR", contents.said) is not None,
        Maker("mmselfsup, ResNet_CIFAR", {}, ("small", 1)),
    ),
    (lambda place, _: _last_but(place, "backbone") and place.has("neck"), Maker("mmselfsup or OpenSelfSup", {})),
)
TORCHVISION_VIT = Maker("torchvision", EVERYWHERE)
TIMM_NAMES = re.compile(r"(?:^|[/_.-])(?:vit|deit)_(?:tiny|small|base|large|huge)_patch\d+")
DINO_NAMES = re.compile(r"dino_(?:deit|vit)(?:tiny|small|base)\d+|dino_vit")
RESNET_NAMES = re.compile(r"(?:^|[/_.-])(?:wide_)?resne(?:x?)t\d+(?:_\d+x\d+d?|_\d+)?(?=$|[._-])")
ANTI_ALIASED = re.compile(r"(resnet(?:aa|blur)\d+\w*)")


def maker_of(place: Place, contents: Contents, state: State, file_name: str) -> Maker:
    for marks, maker in MAKERS:
        if marks(place, contents):
            return maker
    return _plain_network(place, contents, state, file_name)


def _plain_network(place: Place, contents: Contents, state: State, file_name: str) -> Maker:
    """No maker's wrapper: whose network it is, by its modules, its names, or its values."""
    wrapped = " in DistributedDataParallel" if place.parts[-1:] == ("module",) else ""
    texts = (*contents.names, file_name)
    if place.layout == "torchvision ViT":
        return replace(TORCHVISION_VIT, name=f"a plain network{wrapped}")
    if place.layout == "detectron2":  # its networks may stride in the 1 x 1 convolution; those converted for it do not
        author = contents.values.get("__author__")
        return Maker(f"detectron2{f', {author}' if author else ''}", {}, plain=author in ("MOCO", "torchvision"))
    if place.layout == "timm ViT":
        if has_v3_positions(state):
            return Maker("a plain network with the positions of MoCo v3", V3)
        known = any(TIMM_NAMES.search(text) or DINO_NAMES.search(text) for text in texts)
        return Maker(f"a plain network{wrapped}", DEIT if known else EVERYWHERE)
    return Maker(f"a plain network{wrapped}", {}, None, plain=_is_torchvision_s(place, contents, texts))


def _is_torchvision_s(place: Place, contents: Contents, texts: tuple[str, ...]) -> bool:
    """timm's anti-aliased ResNets (resnetaa50, resnetblur50) have the tensors of the plain ones. torch notes the names of all
    modules beside a state dict: torchvision's have `relu`, timm's have `act1`."""
    inside = {name.removeprefix(place.path) for name in contents.modules if name.startswith(place.path)}
    if "layer1.0.act1" in inside:
        return any(RESNET_NAMES.search(text) for text in texts)
    if "layer1.0.relu" in inside:
        return True
    old = not any(name.endswith("num_batches_tracked") for name in contents.tensors)  # torch < 0.4.1, before timm's
    return old or bool(place.parts) or any(RESNET_NAMES.search(text) for text in texts)


def has_v3_positions(state: State) -> bool:
    """v3's positions are fixed waves of its own order of rows and columns (vits.py), with zeros for the class token."""
    positions_1TD: Tensor = state["encoder.pos_embedding"]
    tokens, width = positions_1TD.shape[1:]
    side = round((tokens - 1) ** 0.5)
    if width % 4 or side * side != tokens - 1 or positions_1TD[0, 0].any():
        return False
    waves_PD = sincos_positions(side, width)
    return bool(torch.allclose(positions_1TD[0, 1:].double(), waves_PD.double(), atol=1e-4))


def anti_aliased(place: Place, contents: Contents, file_name: str) -> str | None:
    """What says that the network is one of timm's anti-aliased ResNets, which this suite does not have; None if nothing."""
    for text in (*contents.names, file_name):
        if found := ANTI_ALIASED.search(text):
            return found[1]
    if f"{place.path}maxpool.1" in contents.modules:
        return "a pooling of several modules (resnetblur50 has one)"
    return None


@dataclass(frozen=True)
class Decided:
    """`padding`: of the first convolution, None is torchvision's. `assumed`: what the maker's code decided, in words."""

    config: ResNet | ViT
    padding: int | None = None
    assumed: tuple[str, ...] = ()


def decide(seen: Seen, maker: Maker, place: Place, told: dict[str, object]) -> Decided:
    """What tensors leave open, by what the user told (`encoder.<field>`), else by what the maker is known to do.

    Raises ValueError, with what to add, where neither says it, and for something told that tensors decide.
    """
    unused = sorted(set(told) - set(_open(seen)))
    if unused:
        name = unused[0]
        value = getattr(seen.config, name, None)
        why = f"the tensors say {value}" if value is not None else "this network has no such field"
        takes = ", ".join(f"encoder.{field}" for field in _open(seen)) or "nothing"
        raise ValueError(
            f"--set encoder.{name}={told[name]}: would change nothing, {why}; of this file {takes} can be set"
        )
    if isinstance(seen.config, ViT):
        return _transformer(seen.config, maker, told)
    return _resnet(seen, seen.config, maker, place, told)


def _open(seen: Seen) -> tuple[str, ...]:
    return ("heads",) if isinstance(seen.config, ViT) else ("stem",)


def _transformer(config: ViT, maker: Maker, told: dict[str, object]) -> Decided:
    if "heads" in told:
        return Decided(
            replace(config, heads=int(str(told["heads"]))), assumed=(f"{told['heads']} heads, as --set says",)
        )
    heads = maker.heads.get((config.width, config.depth))
    if heads is None:
        raise ValueError(
            f"a ViT of width {config.width} and depth {config.depth}: its heads cannot be told from the weights, and "
            f"nothing in the file says them; add --set encoder.heads={_example(config.width)} (or what it was trained with)"
        )
    whose = (
        "as every published ViT of that width and depth has" if maker.heads is EVERYWHERE else "as its maker's code has"
    )
    return Decided(replace(config, heads=heads), assumed=(f"{heads} heads, {whose}",))


def _example(width: int) -> int:
    return max(1, width // 64)


def _resnet(seen: Seen, config: ResNet, maker: Maker, place: Place, told: dict[str, object]) -> Decided:
    if seen.kernel == 7:
        return _large_stem(config, maker, place, told)
    if "stem" in told:
        if told["stem"] == "imagenet":
            raise ValueError("--set encoder.stem=imagenet: its first convolution is 3 x 3; choose small or strided")
        return Decided(replace(config, stem=told["stem"]), assumed=(f"the {told['stem']} stem, as --set says",))  # type: ignore[arg-type]
    if maker.small is None:
        raise ValueError(
            "its first convolution is 3 x 3, and nothing in the file says what is around it; add --set encoder.stem=small "
            "(stride 1, padding 1, no pooling, as for CIFAR) or encoder.stem=strided (stride 2, padding 1, no pooling)"
        )
    stem, padding = maker.small
    return Decided(
        replace(config, stem=stem),  # type: ignore[arg-type]
        None if padding == 1 else padding,
        (f"a first convolution of stride 1 and padding {padding} without pooling, as its maker's code has",),
    )


def _large_stem(config: ResNet, maker: Maker, place: Place, told: dict[str, object]) -> Decided:
    if told.get("stem") not in (None, "imagenet"):
        raise ValueError(f"--set encoder.stem={told['stem']}: its first convolution is 7 x 7; only imagenet has that")
    if place.layout == "notebook":
        raise ValueError(
            "a 7 x 7 first convolution without the pooling that numbers would leave a place for: not known here"
        )
    if not maker.plain and "stem" not in told and place.layout == "detectron2":
        raise ValueError(
            "detectron2's ResNets stride in the 1 x 1 convolution unless MODEL.RESNETS.STRIDE_IN_1X1 is False; if it was, as "
            "for weights of torchvision or MoCo, add --set encoder.stem=imagenet"
        )
    if not maker.plain and "stem" not in told:
        raise ValueError(
            "a ResNet without a mark of its maker: timm's anti-aliased ones (resnetaa50, resnetblur50) have the same tensors "
            "and give other features; if it is an ordinary one, as torchvision's, add --set encoder.stem=imagenet"
        )
    return Decided(config, assumed=("stride, padding and pooling as torchvision's ResNet has them, no anti-aliasing",))
