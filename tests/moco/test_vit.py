"""The vision transformer against a plain one written here, against torchvision's tables, and against closed forms.

B images, S side, G patches along a side, P = G x G, T tokens, D width, H heads.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torchvision.models import vit_b_16

from moco.config import ViT
from moco.encoders import Encoder, build_encoder
from moco.randomness import generator

SMALL = ViT(width=24, depth=3, heads=3, patch=4)


def built(config: ViT, image_size: int, seed: int = 0) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_encoder(config, image_size)


def images(batch: int, side: int) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=generator("cpu", "vit", batch, side))


def layer_norm(x_TD: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred_TD = x_TD - x_TD.mean(1, keepdim=True)
    deviation_T1 = (centred_TD.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return centred_TD / deviation_T1 * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(x_TD: Tensor, weights: dict[str, Tensor], name: str, heads: int) -> Tensor:
    width = x_TD.shape[1]
    per_head = width // heads
    query, key, value = (x_TD @ weights[f"{name}.in_proj_weight"].T + weights[f"{name}.in_proj_bias"]).split(width, 1)
    mixed = []
    for head in range(heads):
        own = slice(head * per_head, (head + 1) * per_head)
        scores_TT = query[:, own] @ key[:, own].T / math.sqrt(per_head)
        shares_TT = scores_TT.exp() / scores_TT.exp().sum(1, keepdim=True)
        mixed.append(shares_TT @ value[:, own])
    return torch.cat(mixed, 1) @ weights[f"{name}.out_proj.weight"].T + weights[f"{name}.out_proj.bias"]


def patches(image_3SS: Tensor, size: int) -> Tensor:
    """(P, 3 x size x size), row by row."""
    steps = range(0, image_3SS.shape[1], size)
    return torch.stack([image_3SS[:, r : r + size, c : c + size].flatten() for r in steps for c in steps])


def plain_vit(image_3SS: Tensor, weights: dict[str, Tensor], config: ViT) -> Tensor:
    """Dosovitskiy et al. (arXiv:2010.11929), equations 1 to 4, one image at a time."""
    x = patches(image_3SS, config.patch) @ weights["conv_proj.weight"].flatten(1).T + weights["conv_proj.bias"]
    if config.pool == "cls":
        x = torch.cat([weights["class_token"][0], x])
    x = x + weights["encoder.pos_embedding"][0]
    for number in range(config.depth):
        block = f"encoder.layers.encoder_layer_{number}"
        x = x + attention(layer_norm(x, weights, f"{block}.ln_1"), weights, f"{block}.self_attention", config.heads)
        h = (
            layer_norm(x, weights, f"{block}.ln_2") @ weights[f"{block}.mlp.0.weight"].T
            + weights[f"{block}.mlp.0.bias"]
        )
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        x = x + h @ weights[f"{block}.mlp.3.weight"].T + weights[f"{block}.mlp.3.bias"]
    return layer_norm(x, weights, "encoder.ln")[0] if config.pool == "cls" else x.mean(0)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize(("side", "patch"), [(16, 2), (16, 4), (32, 4), (64, 8), (224, 16)])
@pytest.mark.parametrize("training", [True, False], ids=("train", "eval"))
def test_features_are_those_of_a_plain_transformer(side: int, patch: int, pool: str, training: bool) -> None:
    config = ViT(width=24, depth=2, heads=4, patch=patch, position="learned", pool=pool)  # type: ignore[arg-type]
    encoder = built(config, side).double().train(training)
    assert isinstance(encoder.backbone, nn.Module)
    with torch.no_grad():
        for p in encoder.parameters():  # biases too, so that a forgotten one shows
            p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype, generator=generator("cpu", "shake", *p.shape)))
        batch = images(2, side).double()
        expected = torch.stack([plain_vit(image, encoder.backbone.state_dict(), config) for image in batch])
        torch.testing.assert_close(encoder(batch), expected, rtol=1e-9, atol=1e-9)
    assert encoder.feature_dim == 24


def test_vit_base_has_torchvisions_keys_and_loads_its_weights() -> None:
    theirs = vit_b_16(weights=None).eval()
    theirs.heads = nn.Identity()
    ours = built(ViT(width=768, depth=12, heads=12, patch=16), 224).eval()
    shapes = {name: value.shape for name, value in ours.backbone.state_dict().items()}
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}
    ours.backbone.load_state_dict(theirs.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(ours(images(1, 224)), theirs(images(1, 224)), rtol=1e-4, atol=1e-4)


def test_positions_are_waves_by_definition() -> None:
    """v3: half the width for the row, half for the column; sines, then cosines, of periods 2 pi 10000^(i / quarter)."""
    side, width = 5, 24
    table = built(ViT(width=width, depth=1, heads=1, patch=4), 4 * side).backbone.encoder.pos_embedding  # type: ignore[union-attr]
    assert isinstance(table, nn.Parameter)
    assert not table.requires_grad
    assert table[0, 0].tolist() == [0.0] * width
    quarter = width // 4
    for row in range(side):
        for column in range(side):
            expected = []
            for place in (row, column):
                angles = [place / 10_000 ** (i / quarter) for i in range(quarter)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            assert table[0, 1 + row * side + column].tolist() == pytest.approx(expected, abs=1e-7)


def test_without_positions_the_order_of_patches_does_not_matter() -> None:
    batch = images(2, 16)
    swapped = batch.clone()
    swapped[:, :, :4], swapped[:, :, 12:] = batch[:, :, 12:], batch[:, :, :4]  # the first and the last row of patches
    for position, same in (("none", True), ("sincos", False), ("learned", False)):
        encoder = built(replace(SMALL, position=position), 16)  # type: ignore[arg-type]
        with torch.no_grad():
            assert torch.allclose(encoder(batch), encoder(swapped), atol=1e-5) is same


def is_uniform(values: Tensor, bound: float) -> bool:
    """Kolmogorov-Smirnov against the uniform law in [-bound, bound]."""
    flat = values.detach().flatten().double().numpy()
    assert abs(flat).max() <= bound
    return bool(stats.kstest(flat, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3)


def test_initial_weights_are_v3s() -> None:
    """Bounds by the papers' formulas (vits.py): each of the three attention matrices is one of D x D."""
    width, patch = 96, 4
    net = built(ViT(width=width, depth=2, heads=3, patch=patch), 32, seed=1).backbone
    weights = dict(net.named_parameters())
    assert is_uniform(weights["conv_proj.weight"], math.sqrt(6 / (3 * patch**2 + width)))
    for block in ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"):
        for matrix in weights[f"{block}.self_attention.in_proj_weight"].split(width):
            assert is_uniform(matrix, math.sqrt(6 / (2 * width)))
        assert is_uniform(weights[f"{block}.self_attention.out_proj.weight"], math.sqrt(6 / (2 * width)))
        assert is_uniform(weights[f"{block}.mlp.0.weight"], math.sqrt(6 / (5 * width)))
        assert is_uniform(weights[f"{block}.mlp.3.weight"], math.sqrt(6 / (5 * width)))
    assert all(not p.any() for name, p in weights.items() if name.endswith("bias"))
    assert stats.kstest(weights["class_token"].detach().flatten().numpy() / 1e-6, "norm").pvalue > 1e-3
    norms = [p for name, p in weights.items() if ".ln" in name and name.endswith("weight")]
    assert len(norms) == 5
    assert all(torch.equal(p, torch.ones(width)) for p in norms)


def test_a_frozen_projection_has_no_gradient_and_all_else_has() -> None:
    for frozen in (True, False):
        encoder = built(replace(SMALL, freeze_patch_projection=frozen), 16)
        encoder(images(2, 16)).square().sum().backward()
        without = {name for name, p in encoder.named_parameters() if p.grad is None}
        projection = {"backbone.conv_proj.weight", "backbone.conv_proj.bias"}
        assert without == {"backbone.encoder.pos_embedding"} | (projection if frozen else set())


@pytest.mark.parametrize(("patch", "widths"), [(4, [12, 24]), (16, [3, 6, 12, 24])])
def test_the_conv_stem_takes_the_place_of_the_projection_and_of_a_block(patch: int, widths: list[int]) -> None:
    config = replace(SMALL, patch=patch, stem="conv", freeze_patch_projection=False)
    encoder = built(config, 32).double().eval()
    net, weights = encoder.backbone, encoder.backbone.state_dict()
    x = batch = images(2, 32).double()
    for number, width in enumerate(widths):
        x = F.conv2d(x, weights[f"conv_proj.conv_bn_relu_{number}.0.weight"], stride=2, padding=1)
        assert x.shape[1] == width
        x = torch.relu(x / math.sqrt(1 + 1e-5))  # BatchNorm as it starts
    x = F.conv2d(x, weights["conv_proj.conv_last.weight"], weights["conv_proj.conv_last.bias"])
    tokens = net._process_input(batch)  # type: ignore[operator]
    torch.testing.assert_close(tokens, x.flatten(2).transpose(1, 2), rtol=1e-9, atol=1e-9)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len(widths)
    assert not any("bias" in name for name in weights if name.startswith("conv_proj.conv_bn_relu") and ".0." in name)
    assert len(net.encoder.layers) == SMALL.depth - 1  # type: ignore[union-attr, arg-type]


def test_variants_of_one_seed_share_the_weights_they_share() -> None:
    base = built(SMALL, 16).backbone.state_dict()
    variants = (
        replace(SMALL, pool="mean"),
        replace(SMALL, position="learned"),
        replace(SMALL, freeze_patch_projection=False),
        replace(SMALL, stem="conv", freeze_patch_projection=False),
        replace(SMALL, depth=5),
    )
    for config in variants:
        other = built(config, 16).backbone.state_dict()
        shared = [name for name in base if name in other and name != "encoder.pos_embedding"]
        assert len(shared) > 20
        assert all(torch.equal(base[name], other[name]) for name in shared)
    blocks = [base[f"encoder.layers.encoder_layer_{n}.mlp.0.weight"] for n in range(2)]
    assert not torch.equal(*blocks)
    assert not torch.equal(base["conv_proj.weight"], built(SMALL, 16, seed=1).backbone.state_dict()["conv_proj.weight"])


def test_each_block_attends_through_the_fused_kernel() -> None:
    encoder, batch = built(SMALL, 16), images(2, 16)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        encoder(batch)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert calls["aten::scaled_dot_product_attention"] == SMALL.depth
    assert "aten::softmax" not in calls


def test_a_patch_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^encoder.patch = 4 and data.image_size = 30: the patch must divide the image$"
    ):
        built(SMALL, 30)
