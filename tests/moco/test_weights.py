"""Weights from and to other tools: the features are the same before and after, and what cannot be mapped is named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from experiments.export.model_card import loading
from moco import checkpoint
from moco.config import Augment, Config, Data, Momentum, ResNet, ViT
from moco.encoders import Encoder, build_encoder
from moco.weights.carried import Carried
from moco.weights.names import to_timm
from moco.weights.read import encoder_of, read
from moco.weights.write import TARGETS, check, export

SMALL = ResNet(depth=18, stem="small")
VIT = ViT(width=192, depth=2, heads=3, patch=8)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def encoder(config: ResNet | ViT) -> Encoder:
    torch.manual_seed(0)
    made = build_encoder(config, 32)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return made.eval()


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def authors_v2(net: Encoder) -> dict[str, object]:
    backbone = net.backbone.state_dict()
    head = {"fc.0.weight": torch.zeros(512, 512), "fc.2.weight": torch.zeros(128, 512)}
    state = prefixed("module.encoder_q.", backbone | head) | prefixed("module.encoder_k.", backbone | head)
    return {"epoch": 200, "arch": "resnet18", "state_dict": state | {"module.queue": torch.zeros(128, 16)}}


def authors_v3(net: Encoder) -> dict[str, object]:
    backbone = net.backbone.state_dict() | {"fc.0.weight": torch.zeros(4, 512)}
    state = prefixed("module.base_encoder.", backbone) | prefixed("module.momentum_encoder.", backbone)
    return {"state_dict": state | {"module.predictor.0.weight": torch.zeros(4, 4)}}


def lightly(net: Encoder) -> dict[str, object]:
    """As its examples build it: a Sequential of the ResNet's children, and projection heads."""
    children = nn.Sequential(*list(net.backbone.children())[:-1]).state_dict()
    state = prefixed("backbone.", children) | prefixed("backbone_momentum.", children)
    return {"state_dict": state | {"projection_head.layers.0.weight": torch.zeros(4, 4)}}


def solo_learn(net: Encoder) -> dict[str, object]:
    backbone = net.backbone.state_dict()
    state = prefixed("backbone.", backbone) | prefixed("momentum_backbone.", backbone)
    heads = {"projector.0.weight": torch.zeros(4, 4), "classifier.weight": torch.zeros(10, 512)}
    return {"state_dict": state | heads, "pytorch-lightning_version": "1.9.0"}


@pytest.mark.parametrize(
    ("layout", "maker"),
    [
        (authors_v2, "the authors' MoCo v1 or v2"),
        (authors_v3, "the authors' MoCo v3"),
        (lightly, "lightly"),
        (solo_learn, "solo-learn"),
        (lambda net: net.backbone.state_dict(), "a plain network"),
    ],
)
def test_a_file_of_each_maker_gives_the_same_features(layout: Callable, maker: str, tmp_path: Path) -> None:
    net = encoder(ResNet(depth=18))
    checkpoint.save(layout(net), tmp_path / "file.pth")
    found = read(tmp_path / "file.pth")
    assert found.maker == maker
    assert found.config == ResNet(depth=18)
    again = encoder_of(found, tmp_path / "file.pth").eval()
    assert torch.equal(again(IMAGES), net(IMAGES))


def test_v3_s_transformer_is_timm_s(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=192, depth=2, num_heads=3, num_classes=0)
    state = prefixed("module.base_encoder.", net.state_dict() | {"head.0.weight": torch.zeros(4, 4)})
    checkpoint.save({"arch": "vit_tiny", "state_dict": state}, tmp_path / "v3.pth")
    with pytest.raises(ValueError, match=r"heads cannot be told from the weights.* add --set encoder\.heads=3"):
        read(tmp_path / "v3.pth")
    found = read(tmp_path / "v3.pth", {"heads": 3})
    assert found.image_size == 32
    torch.testing.assert_close(
        encoder_of(found, tmp_path / "v3.pth").eval()(IMAGES), net.eval()(IMAGES), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("config", [SMALL, ResNet(depth=50, stem="imagenet"), VIT], ids=["resnet18", "resnet50", "vit"])
@pytest.mark.parametrize("target", ["torchvision", "timm", "safetensors"])
def test_the_card_s_lines_load_it_with_the_same_features(target: str, config: ResNet | ViT, tmp_path: Path) -> None:
    net = encoder(config)
    file = export(net.backbone.state_dict(), config, target, tmp_path)
    whole = Config(Data(image_size=32), Augment(), config, key_encoder=Momentum(shuffle=False))
    names = {"torch": torch, "torchvision": torchvision, "timm": timm, "safetensors": safetensors}
    exec(loading(target, str(file), whole), names)
    loaded = names["net"]
    assert isinstance(loaded, nn.Module)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(IMAGES), net(IMAGES), rtol=1e-5, atol=1e-6)


EXPORTED: tuple[ResNet | ViT, ...] = (
    SMALL,
    ResNet(depth=18),
    ResNet(depth=18, stem="strided"),
    ResNet(depth=8, width=4, stem="strided"),
    VIT,
    replace(VIT, heads=6),
    replace(VIT, position="learned"),
    replace(VIT, pool="mean"),
    replace(VIT, stem="conv", depth=3, freeze_patch_projection=False),
)


@pytest.mark.parametrize("config", EXPORTED, ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_exported_and_read_again_is_the_original_to_the_bit(target: str, config: ResNet | ViT, tmp_path: Path) -> None:
    """Stem, heads and pooling come from the config in the file; detectron2 has no counters of BatchNorm."""
    net = encoder(config)
    own = Config(Data(image_size=32), Augment(), config, key_encoder=Momentum(shuffle=False))
    try:
        check(config, target)
    except ValueError:
        return
    file = export(net.backbone.state_dict(), config, target, tmp_path, Carried(own))
    found = read(file)
    assert found.config == config
    assert found.carried is not None
    assert found.carried.config == own
    again = encoder_of(found, file).eval()
    original = net.backbone.state_dict()
    for name, tensor in again.backbone.state_dict().items():
        assert torch.equal(tensor, original[name]), name
    assert torch.equal(again(IMAGES), net(IMAGES))


def test_an_export_takes_no_fields_of_the_encoder(tmp_path: Path) -> None:
    own = Config(Data(image_size=32), Augment(), SMALL, key_encoder=Momentum(shuffle=False))
    file = export(encoder(SMALL).backbone.state_dict(), SMALL, "timm", tmp_path, Carried(own))
    with pytest.raises(ValueError, match=r"encoder\.stem: would change nothing"):
        read(file, {"stem": "strided"})


@pytest.mark.parametrize("side", [16, 48])
def test_positions_are_resampled_as_timm_does(side: int, tmp_path: Path) -> None:
    """Oracle: timm's own network of the other size, filled by timm's own resampling."""
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 0}
    net = timm.models.VisionTransformer(img_size=32, **sizes)
    checkpoint.save(net.state_dict(), tmp_path / "vit.pth")
    found = read(tmp_path / "vit.pth", {"heads": 4}).at(side)
    theirs = timm.models.VisionTransformer(img_size=side, **sizes)
    positions = resample_abs_pos_embed(net.pos_embed.detach(), [side // 8, side // 8])
    theirs.load_state_dict({**net.state_dict(), "pos_embed": positions})
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    ours = encoder_of(found, tmp_path / "vit.pth").eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="patches of 8 pixels do not divide"):
        found.at(30)


def test_the_waves_of_v3_are_made_anew_for_another_size(tmp_path: Path) -> None:
    """Oracle: the positions that a network of the other size starts with."""
    config = ViT(width=64, depth=1, heads=2, patch=8)
    checkpoint.save(
        {"module.base_encoder." + n: t for n, t in to_timm(encoder(config).backbone.state_dict()).items()},
        tmp_path / "v3.pth",
    )
    found = read(tmp_path / "v3.pth", {"heads": 2}).at(48)
    wanted = build_encoder(config, 48).backbone.state_dict()["encoder.pos_embedding"]
    torch.testing.assert_close(found.state["encoder.pos_embedding"], wanted, rtol=0, atol=1e-6)
    assert "made anew" in found.words


def test_lincls_is_what_the_authors_script_loads(tmp_path: Path) -> None:
    """The lines of main_lincls.py (facebookresearch/moco): rename, load, and compare after the first epoch."""
    net = encoder(ResNet(depth=50))
    file = export(net.backbone.state_dict(), ResNet(depth=50), "lincls", tmp_path)
    saved = torch.load(file, weights_only=True)
    model = getattr(torchvision.models, saved["arch"])()
    prefix = "module.encoder_q."
    inside = {name.removeprefix(prefix): t for name, t in saved["state_dict"].items() if name.startswith(prefix)}
    message = model.load_state_dict({n: t for n, t in inside.items() if not n.startswith("fc")}, strict=False)
    assert set(message.missing_keys) == {"fc.weight", "fc.bias"}
    assert not message.unexpected_keys
    for name, tensor in model.state_dict().items():
        assert name in ("fc.weight", "fc.bias") or torch.equal(tensor, saved["state_dict"][prefix + name])
    model.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(IMAGES), net(IMAGES), rtol=1e-5, atol=1e-6)


def test_detectron2_s_names_are_those_of_the_authors_script(tmp_path: Path) -> None:
    """convert-pretrain-to-detectron2.py of facebookresearch/moco, key by key for one block; the flags beside them."""
    net = encoder(ResNet(depth=50))
    file = export(net.backbone.state_dict(), ResNet(depth=50), "detectron2", tmp_path)
    saved = pickle.loads(file.read_bytes())
    assert saved["__author__"] == "MOCO"
    assert saved["matching_heuristics"] is True
    model = saved["model"]
    for name, ours in {
        "stem.conv1.weight": "conv1.weight",
        "stem.conv1.norm.running_mean": "bn1.running_mean",
        "res2.0.conv1.weight": "layer1.0.conv1.weight",
        "res2.0.conv3.norm.bias": "layer1.0.bn3.bias",
        "res2.0.shortcut.weight": "layer1.0.downsample.0.weight",
        "res5.2.conv2.norm.running_var": "layer4.2.bn2.running_var",
        "res3.0.shortcut.norm.weight": "layer2.0.downsample.1.weight",
    }.items():
        assert torch.equal(torch.from_numpy(model[name]), net.backbone.state_dict()[ours]), name
    floats = [name for name in net.backbone.state_dict() if not name.endswith("num_batches_tracked")]
    assert len(model) == len(floats)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def half(net: Encoder) -> dict[str, object]:
    state = net.backbone.state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith("layer4.1.")} | {
        "layer4.1.conv1.weight": state["layer4.1.conv1.weight"]
    }


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path, net: path.write_bytes(b"PK\x03\x04 cut off"), "not a readable checkpoint"),
        (lambda path, net: torch.save({"state_dict": Code()}, path), "not a readable checkpoint"),
        (lambda path, net: checkpoint.save({"epoch": 3}, path), "holds no weights"),
        (lambda path, net: checkpoint.save({"features.0.weight": torch.zeros(3)}, path), "neither a ResNet nor a ViT"),
        (lambda path, net: checkpoint.save(half(net), path), r"missing \(layer4\.1\.bn1\.weight"),
    ],
    ids=["truncated", "code", "no weights", "another network", "half"],
)
def test_a_file_that_cannot_be_read_says_why(write: Callable, words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    write(path, encoder(SMALL))
    with pytest.raises(ValueError, match=words) as error:
        encoder_of(read(path), path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("config", "target", "words"),
    [
        (ResNet(depth=8), "timm", "no ResNet-8"),
        (VIT, "detectron2", "for ResNets"),
        (ViT(width=192, depth=2, heads=3, patch=8, pool="mean"), "timm", "no conv stem and no mean"),
        (SMALL, "lincls", "the 7 x 7 stem, this one is small"),
        (VIT, "lincls", "reads ResNets"),
        (ResNet(depth=50, width_per_group=96), "lincls", "torchvision has no name"),
        (SMALL, "onnx", "the choices are torchvision, timm, detectron2, lincls, safetensors"),
    ],
)
def test_what_a_tool_cannot_take_is_refused(config: ResNet | ViT, target: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        export(encoder(config).backbone.state_dict(), config, target, tmp_path)
