"""Files of weights as their makers write them: read with the writer's features to 1e-4, or refused in a line with the remedy.

None is read wrongly. Oracle of each file: the network that wrote it, on the same images.
"""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from moco.weights.names import to_detectron2
from moco.weights.read import encoder_of, read
from tests.moco.weights.networks import (
    Notebook,
    SwAV,
    features,
    from_timm,
    resnet,
    small_resnet,
    torchvision_vit,
    vit,
)

Save = Callable[[Any, Path], None]


@dataclass(frozen=True)
class File:
    """`content`: what is saved. `net`: whose features are right; None for a file that is refused, with `words`.

    `told`, `prefix`, `branch`: what the user adds. `name` of the file. `says`: in the line that is printed.
    """

    content: Callable[[], Any]
    net: Callable[[], nn.Module] | None = None
    words: str = ""
    told: Mapping[str, object] = field(default_factory=dict)
    prefix: str | None = None
    branch: str | None = None
    name: str = "file.pth"
    save: Save = torch.save
    says: str = ""


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what torch notes beside a state dict: as it is after somebody renamed the keys."""
    return dict(state)


def bare(net: nn.Module) -> dict[str, Tensor]:
    return plain(net.state_dict())


def other(net: nn.Module) -> dict[str, Tensor]:
    """Another encoder of the same shapes: a key encoder or a teacher."""
    return {name: 0.9 * tensor if tensor.is_floating_point() else tensor for name, tensor in net.state_dict().items()}


MLP = {"0.weight": torch.ones(4, 512), "0.bias": torch.ones(4), "2.weight": torch.ones(4, 4)}


def v2(module: str = "module.", wrap: str = "") -> dict[str, Any]:
    net = resnet()
    query, key = (under(f"{module}{wrap}encoder_{x}.{wrap}", s) for x, s in (("q", bare(net)), ("k", other(net))))
    heads = under(f"{module}{wrap}encoder_q.{wrap}fc.", MLP)
    return {
        "arch": "resnet18",
        "epoch": 200,
        "state_dict": {**query, **heads, **key, f"{module}queue": torch.ones(4, 8)},
    }


def v3(net: nn.Module, arch: str) -> dict[str, Any]:
    query, key = under("module.base_encoder.", bare(net)), under("module.momentum_encoder.", other(net))
    head = under("module.base_encoder.head.", MLP) | under("module.predictor.", MLP)
    return {"arch": arch, "state_dict": query | key | head, "optimizer": {"state": {0: {"mu": torch.ones(3)}}}}


def notebook() -> dict[str, Any]:
    query, key = Notebook(0), Notebook(1)
    state = under("encoder_q.", query.state_dict()) | under("encoder_k.", key.state_dict())
    return {"epoch": 200, "state_dict": state | {"queue": torch.ones(128, 8), "queue_ptr": torch.zeros(1)}}


def swav() -> dict[str, Tensor]:
    heads = under("module.projection_head.", MLP) | {"module.prototypes.weight": torch.ones(4, 4)}
    return under("module.", bare(swav_net().inner)) | heads


_SWAV: list[SwAV] = []


def swav_net() -> SwAV:
    if not _SWAV:
        _SWAV.append(SwAV())
    return _SWAV[0]


def dino(net: nn.Module, *, masked: bool = False) -> dict[str, Any]:
    head = under("head.", MLP) | {"head.last_layer.weight_g": torch.ones(4)}
    extra = {"backbone.masked_embed": torch.ones(1, 192)} if masked else {}
    teacher = under("backbone.", bare(net)) | head | extra
    student = under("module.backbone.", other(net)) | under("module.", head)
    args = argparse.Namespace(arch="vit_tiny", lr=0.1)
    return {"student": student, "teacher": teacher, "epoch": 9, "args": args, "dino_loss": {"center": torch.ones(1, 4)}}


def mae(net: nn.Module) -> dict[str, Any]:
    decoder = {"mask_token": torch.ones(1, 1, 4), "decoder_pos_embed": torch.ones(1, 5, 4)}
    return {"model": bare(net) | decoder | under("decoder_embed.", MLP), "scaler": {"scale": 1.0}}


class Lightly(nn.Module):
    """The MoCo example of lightly's documentation, with its own projection head."""

    def __init__(self) -> None:
        from lightly.models.modules import MoCoProjectionHead

        super().__init__()
        self.backbone = nn.Sequential(*list(resnet().children())[:-1])
        self.projection_head = MoCoProjectionHead(512, 512, 128)
        self.backbone_momentum = nn.Sequential(*list(resnet(seed=1).children())[:-1])


class Lightning(nn.Module):
    """A user's module: torch notes the names of all modules beside its tensors."""

    def __init__(self, name: str, net: nn.Module) -> None:
        super().__init__()
        setattr(self, name, net)
        self.classifier = nn.Linear(512, 10)


def solo_learn(padding: int) -> dict[str, Any]:
    net = small_resnet(padding=padding)
    state = under("backbone.", bare(net)) | under("momentum_backbone.", other(net))
    heads = {"classifier.weight": torch.ones(10, 512), "projector.0.weight": torch.ones(4, 4)}
    return {"state_dict": state | heads, "pytorch-lightning_version": "1.9.0"}


def byol_lucidrains() -> dict[str, Tensor]:
    net = resnet()
    online = under("net.", bare(net)) | under("online_encoder.net.", bare(net))
    return online | under("online_encoder.projector.", MLP) | under("target_encoder.net.", other(net))


def byol_sthalles() -> dict[str, Any]:
    online = nn.Sequential(*list(resnet().children())[:-1]).state_dict()
    target = nn.Sequential(*list(resnet(seed=1).children())[:-1]).state_dict()
    return {
        "online_network_state_dict": under("encoder.", online) | under("projetion.", MLP),
        "target_network_state_dict": under("encoder.", target) | under("projetion.", MLP),
        "optimizer_state_dict": {"state": {}},
    }


def vissl() -> dict[str, Any]:
    trunk = under("_feature_blocks.", bare(resnet()))
    model = {"trunk": trunk, "heads": under("0.clf.", MLP)}
    return {"phase_idx": 99, "classy_state_dict": {"base_model": {"model": model}}, "loss": np.float64(0.5)}


def uncounted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def pickled(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def safe(content: Mapping[str, Tensor], path: Path) -> None:
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)


def legacy(content: Any, path: Path) -> None:
    """As torch before 1.6 wrote it."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


def detectron2(net: nn.Module) -> dict[str, Any]:
    arrays = {name: tensor.numpy() for name, tensor in to_detectron2(net.state_dict()).items()}
    return {"model": arrays, "__author__": "MOCO", "matching_heuristics": True}


def mmselfsup() -> dict[str, Any]:
    net = resnet()
    query = under("encoder_q.0.", bare(net)) | under("encoder_q.1.mlp.", MLP) | under("backbone.", bare(net))
    meta = {"mmcv_version": "1.4", "config": "backbone = dict(type='ResNet', depth=18)"}
    return {"meta": meta, "state_dict": query | under("encoder_k.0.", other(net)) | {"queue": torch.ones(4, 8)}}


def mmselfsup_neck(said: str) -> dict[str, Any]:
    net = small_resnet() if "CIFAR" in said else resnet()
    return {"meta": {"config": said}, "state_dict": under("backbone.", bare(net)) | under("neck.", MLP)}


class EasyDict(dict):  # type: ignore[type-arg]
    """Some library's."""


def rounded(net: nn.Module) -> nn.Module:
    """To half precision and back."""
    import copy

    return copy.deepcopy(net).half().float()


R18, SMALL = resnet, small_resnet
TINY = vit


def tiny_v3() -> nn.Module:
    return vit(384, 12, 12, 16, v3=True)


def conv_v3() -> nn.Module:
    return vit(384, 11, 12, 16, v3=True, conv_stem=True)


def dino_small() -> nn.Module:
    return vit(384, 12, 6, 16)


READ: dict[str, File] = {
    # the authors
    "v2, as its checkpoints": File(v2, R18, says="the authors' MoCo v1 or v2: ResNet-18"),
    "v2 of one GPU": File(lambda: v2(""), R18, says="without DistributedDataParallel"),
    "v2, its key encoder": File(v2, lambda: shifted(R18()), branch="key"),
    "v2, compiled whole": File(lambda: v2("_orig_mod.module."), R18),
    "v2, compiled inside": File(lambda: v2("module.", "_orig_mod."), R18),
    "v2, compiled and in DistributedDataParallel": File(lambda: v2("module._orig_mod."), R18),
    "v2, a compiled stage": File(
        lambda: {n.replace("layer1.", "layer1._orig_mod."): t for n, t in v2()["state_dict"].items()}, R18
    ),
    "v2 with a Namespace": File(lambda: v2() | {"args": argparse.Namespace(lr=0.03)}, R18),
    "v2 with numpy scalars": File(lambda: v2() | {"best": np.float64(61.2), "n": np.int64(3)}, R18),
    "v2 with a library's dict": File(lambda: v2() | {"cfg": EasyDict(lr=0.1, deep=EasyDict(a=1))}, R18),
    "v2 with a path and an object": File(lambda: v2() | {"at": Path("x"), "o": SimpleNamespace(a=1)}, R18),
    "v2, old torch format with a Namespace": File(lambda: v2() | {"args": argparse.Namespace()}, R18, save=legacy),
    "v2 without counters": File(lambda: {"state_dict": uncounted(v2()["state_dict"])}, R18),
    "v2, the file of its linear probe": File(
        lambda: {"arch": "resnet18", "state_dict": under("module.", bare(R18()) | under("fc.", MLP))}, R18
    ),
    "the CIFAR notebook": File(notebook, Notebook, says="notebook: ResNet-18 with the small stem"),
    "the CIFAR notebook, its key encoder": File(notebook, lambda: Notebook(1), branch="key"),
    "v3, ResNet": File(lambda: v3(R18(), "resnet18"), R18, says="the authors' MoCo v3: ResNet-18"),
    "v3, ViT-S": File(lambda: v3(tiny_v3(), "vit_small"), tiny_v3, says="12 heads"),
    "v3, ViT-S with the conv stem": File(lambda: v3(conv_v3(), "vit_conv_small"), conv_v3, says="conv stem"),
    "v3, ViT-S alone, by its waves": File(lambda: bare(tiny_v3()), tiny_v3, says="the positions of MoCo v3"),
    # others' wrappers
    "SwAV": File(swav, swav_net),
    "Barlow Twins": File(
        lambda: {
            "model": under("module.backbone.", bare(R18()))
            | under("module.projector.", MLP)
            | {"module.bn.running_mean": torch.ones(4)}
        },
        R18,
        says="Barlow Twins",
    ),
    "VICReg": File(
        lambda: {"model": under("module.backbone.", bare(R18())) | under("module.projector.", MLP)}, R18, says="VICReg"
    ),
    "SimSiam": File(
        lambda: {
            "state_dict": under("module.encoder.", bare(R18()) | under("fc.", MLP)) | under("module.predictor.", MLP)
        },
        R18,
        says="SimSiam",
    ),
    "BYOL of lucidrains": File(byol_lucidrains, R18, says="BYOL"),
    "BYOL of sthalles": File(byol_sthalles, R18, says="BYOL"),
    "BYOL of sthalles, its target": File(byol_sthalles, lambda: resnet(seed=1), branch="key"),
    "VISSL": File(vissl, R18, says="VISSL"),
    "mmselfsup, MoCo": File(mmselfsup, R18, says="mmselfsup"),
    "mmselfsup, a backbone with its neck": File(lambda: mmselfsup_neck("type='ResNet', style='pytorch'"), R18),
    "mmselfsup, ResNet_CIFAR": File(lambda: mmselfsup_neck("type='ResNet_CIFAR'"), SMALL, says="the small stem"),
    "lightly": File(lambda: {"state_dict": Lightly().state_dict()}, R18, says="lightly: ResNet-18"),
    "lightly, its momentum encoder": File(
        lambda: {"state_dict": Lightly().state_dict()}, lambda: resnet(seed=1), branch="teacher"
    ),
    "solo-learn on CIFAR": File(lambda: solo_learn(2), lambda: small_resnet(padding=2), says="padding 2"),
    "Lightning's model.": File(lambda: {"state_dict": Lightning("model", R18()).state_dict()}, R18),
    "Lightning's net.": File(lambda: {"state_dict": Lightning("net", R18()).state_dict()}, R18),
    "Lightning's encoder.": File(lambda: {"state_dict": Lightning("encoder", R18()).state_dict()}, R18),
    "two wrappers": File(lambda: {"state_dict": under("model.module.encoder.", bare(R18()))}, R18),
    "one of two networks, by its prefix": File(
        lambda: under("left.", bare(R18())) | under("right.", bare(resnet(seed=1))),
        lambda: resnet(seed=1),
        prefix="right",
    ),
    "the larger of two networks": File(
        lambda: under("big.", bare(resnet("resnet34"))) | under("small.", bare(R18())), lambda: resnet("resnet34")
    ),
    # transformers
    "DINO, the teacher": File(lambda: dino(TINY()), TINY, says="3 heads"),
    "DINO, the student": File(lambda: dino(TINY()), lambda: shifted(TINY()), branch="student"),
    "iBOT": File(lambda: dino(TINY(), masked=True), TINY, says="iBOT"),
    "DINO's ViT-S by the name of its file": File(
        lambda: bare(dino_small()), dino_small, name="dino_deitsmall16_pretrain.pth", says="6 heads"
    ),
    "DeiT-S by the name of its file": File(
        lambda: {"model": bare(dino_small())}, dino_small, name="deit_small_patch16_224-cd65a155.pth", says="6 heads"
    ),
    "timm's ViT-S by args.model": File(
        lambda: {"state_dict": bare(dino_small()), "args": argparse.Namespace(model="vit_small_patch16_224")},
        dino_small,
    ),
    "a ViT whose heads are told": File(lambda: bare(dino_small()), dino_small, told={"heads": 6}),
    "a ViT of no maker, told": File(
        lambda: bare(vit(64, 2, 4)), lambda: vit(64, 2, 4), told={"heads": 4}, says="4 heads, as --set says"
    ),
    "a ViT with positions of patches only": File(
        lambda: bare(vit(64, 2, 4, no_embed_class=True)), lambda: vit(64, 2, 4, no_embed_class=True), told={"heads": 4}
    ),
    "torchvision's ViT, told": File(
        lambda: bare(torchvision_vit(64, 2, 4)), lambda: torchvision_vit(64, 2, 4), told={"heads": 4}
    ),
    "MAE, told": File(lambda: mae(vit(64, 2, 4)), lambda: vit(64, 2, 4), told={"heads": 4}, says="MAE"),
    "in half precision": File(
        lambda: {n: t.half() if t.is_floating_point() else t for n, t in v2()["state_dict"].items()},
        lambda: rounded(R18()),
    ),
    # plain networks
    "torchvision's ResNet-50": File(lambda: resnet("resnet50").state_dict(), lambda: resnet("resnet50")),
    "torchvision's ResNet-50 by its name": File(
        lambda: bare(resnet("resnet50")), lambda: resnet("resnet50"), name="resnet50-0676ba61.pth"
    ),
    "torchvision's old file without counters": File(lambda: uncounted(bare(R18())), R18),
    "torchvision's ResNeXt": File(
        lambda: resnet("resnext50_32x4d").state_dict(), lambda: resnet("resnext50_32x4d"), says="32 groups of 4"
    ),
    "a plain ResNet that is told to be one": File(
        lambda: bare(R18()), R18, told={"stem": "imagenet"}, save=safe, name="model.safetensors"
    ),
    "timm's ResNet-18 by its arch": File(
        lambda: {"arch": "resnet18", "state_dict": from_timm("resnet18").state_dict()}, lambda: from_timm("resnet18")
    ),
    "a small stem that is told": File(lambda: bare(SMALL()), SMALL, told={"stem": "small"}),
    "a strided stem that is told": File(
        lambda: bare(small_resnet(stride=2)), lambda: small_resnet(stride=2), told={"stem": "strided"}
    ),
    "detectron2's pickle": File(lambda: detectron2(R18()), R18, save=pickled, name="file.pkl", says="detectron2, MOCO"),
    "in double precision": File(
        lambda: v2()["state_dict"] | {k: t.double() for k, t in v2()["state_dict"].items() if "encoder_q" in k}, R18
    ),
    "an ordered dict": File(lambda: {"state_dict": OrderedDict(under("module.encoder_q.", bare(R18())))}, R18),
}


def shifted(net: nn.Module) -> nn.Module:
    """The network that `other` gives the tensors of."""
    import copy

    moved = copy.deepcopy(net)
    moved.load_state_dict(other(net))
    return moved


REFUSED: dict[str, File] = {
    "timm's resnetaa50, by its modules": File(
        lambda: from_timm("resnetaa50").state_dict(),
        words="the same tensors and give other features; .* encoder.stem=imagenet",
    ),
    "timm's resnetaa50, by its arch": File(
        lambda: {"arch": "resnetaa50", "state_dict": bare(from_timm("resnetaa50"))}, words="anti-aliased ResNet"
    ),
    "timm's resnetaa50 as safetensors": File(
        lambda: bare(from_timm("resnetaa50")), words="encoder.stem=imagenet", save=safe, name="model.safetensors"
    ),
    "timm's resnetaa50 by the name of its file": File(
        lambda: bare(from_timm("resnetaa50")), words="anti-aliased ResNet", name="resnetaa50_a1h-4cf422b3.pth"
    ),
    "timm's resnetblur50": File(lambda: from_timm("resnetblur50").state_dict(), words="pooling of several modules"),
    "timm's resnet50d": File(lambda: from_timm("resnet50d").state_dict(), words="conv1.0.weight"),
    "timm's seresnet50": File(lambda: from_timm("seresnet50").state_dict(), words="unknown .*se.fc1"),
    "a ViT-S of nobody": File(lambda: bare(dino_small()), words="add --set encoder.heads=6"),
    "a ViT of width 192 and another depth": File(lambda: bare(vit(192, 2, 3)), words="add --set encoder.heads=3"),
    "torchvision's ViT of width 384": File(lambda: bare(torchvision_vit(384, 2, 6)), words="add --set encoder.heads"),
    "a ViT with a mean of its tokens": File(
        lambda: bare(vit(64, 2, 4, global_pool="avg")), words="missing .encoder.ln.weight", told={"heads": 4}
    ),
    "DeiT, distilled": File(
        lambda: bare(from_timm("deit_tiny_distilled_patch16_224")), words="more tokens|dist_token", told={"heads": 3}
    ),
    "a ViT with registers": File(lambda: bare(vit(64, 2, 4, reg_tokens=4)), words="more tokens", told={"heads": 4}),
    "a ViT with scaled layers": File(
        lambda: bare(vit(64, 2, 4, init_values=0.1)), words="ls1.gamma", told={"heads": 4}
    ),
    "a ViT without biases": File(
        lambda: bare(vit(64, 2, 4, qkv_bias=False)), words="missing .*in_proj_bias", told={"heads": 4}
    ),
    "a 3 x 3 stem of nobody": File(lambda: bare(SMALL()), words="encoder.stem=small .* encoder.stem=strided"),
    "lightly with a 3 x 3 stem": File(
        lambda: under("backbone.", nn.Sequential(*list(SMALL().children())[:-1]).state_dict()),
        words="encoder.stem=small",
    ),
    "a 3 x 3 stem in a user's module": File(
        lambda: {"state_dict": Lightning("backbone", SMALL()).state_dict(), "callbacks": {}}, words="encoder.stem=small"
    ),
    "a detector of detectron2": File(
        lambda: {"model": under("backbone.bottom_up.", to_detectron2(bare(R18())))}, words="STRIDE_IN_1X1"
    ),
    "another activation in a numbered network": File(
        lambda: under(
            "backbone.", nn.Sequential(*list(R18().children())[:-1]).state_dict() | {"2.weight": torch.ones(1)}
        ),
        words="2 beside it may be part",
    ),
    "features after a further layer": File(
        lambda: bare(vit(64, 2, 4)) | under("pre_logits.fc.", {"weight": torch.ones(4, 64)}),
        words="pre_logits beside it",
        told={"heads": 4},
    ),
    "a stem told against the tensors": File(lambda: bare(SMALL()), words="is 3 x 3", told={"stem": "imagenet"}),
    "a depth that tensors tell": File(v2, words="would change nothing, the tensors say 18", told={"depth": 50}),
    "heads of a ResNet": File(v2, words="would change nothing", told={"heads": 4}),
    "two networks of one size": File(
        lambda: under("left.", bare(R18())) | under("right.", bare(resnet(seed=1))),
        words="choose with --prefix: left., right.",
    ),
    "a prefix that is not there": File(
        v2, words="no network there; there are state_dict.module.encoder_q.", prefix="trunk"
    ),
    "a branch that is not there": File(
        lambda: {"state_dict": under("backbone.", bare(R18()))}, words="there is none", branch="key"
    ),
    "half of a network": File(
        lambda: {n: t for n, t in v2()["state_dict"].items() if "layer4.1.bn2" not in n}, words="missing .*layer4.1.bn2"
    ),
    "one grey channel": File(
        lambda: under("module.encoder_q.", bare(R18()) | {"conv1.weight": torch.ones(64, 1, 7, 7)}),
        words="of another shape",
    ),
    "something strange beside it": File(
        lambda: under("module.encoder_q.", bare(R18()) | {"attention.weight": torch.ones(4)}), words="add --prefix"
    ),
    "mmselfsup in caffe's style": File(lambda: mmselfsup_neck("type='ResNet', style='caffe'"), words="style='caffe'"),
    "another network": File(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4)).state_dict(), words="neither a ResNet nor a ViT"
    ),
    "a whole module": File(lambda: R18(), words="save net.state_dict"),
    "no weights": File(lambda: {"epoch": 3}, words="holds no weights"),
}


def test_the_table_is_as_long_as_promised() -> None:
    assert len(READ) >= 45
    assert len(READ) + len(REFUSED) >= 60


@pytest.mark.parametrize("name", READ)
def test_read_with_the_features_of_its_writer(name: str, tmp_path: Path) -> None:
    file = READ[name]
    assert file.net is not None
    net = file.net()
    file.save(file.content(), tmp_path / file.name)
    found = read(tmp_path / file.name, file.told, file.prefix, file.branch)
    torch.testing.assert_close(features(encoder_of(found, tmp_path / file.name)), features(net), rtol=1e-4, atol=1e-4)
    assert features(net).std() > 0.01
    assert file.says in found.words
    assert "assumed: " in found.words


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_a_line_that_names_the_remedy(name: str, tmp_path: Path) -> None:
    file = REFUSED[name]
    file.save(file.content(), tmp_path / file.name)
    with pytest.raises(ValueError, match=file.words) as error:
        read(tmp_path / file.name, file.told, file.prefix, file.branch)
    assert str(error.value).startswith(str(tmp_path / file.name))
    assert "\n" not in str(error.value)
