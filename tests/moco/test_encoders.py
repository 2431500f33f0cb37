"""ResNets and their kinds against torchvision's named models, and all encoders under reduced precision.

B images, S side, D features.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

from moco.config import Head, ResNet, ViT
from moco.encoders import Encoder, build_encoder, build_head
from moco.losses import info_nce
from moco.randomness import generator

KINDS = {
    "resnext50_32x4d": ResNet(depth=50, groups=32, width_per_group=4),
    "wide_resnet50_2": ResNet(depth=50, width_per_group=128),
}


def built(config: ResNet | ViT, image_size: int) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_encoder(config, image_size)


def images(batch: int, side: int) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=generator("cpu", "encoder", batch, side))


def torchvisions(name: str, **options: bool) -> resnet.ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: resnet.ResNet = getattr(resnet, name)(**options)
    net.fc = nn.Identity()
    return net


@pytest.mark.parametrize("name", KINDS)
def test_wide_and_grouped_are_torchvisions_named_models(name: str) -> None:
    """Same names and shapes, same weights under the same seed, same features."""
    ours, theirs = built(KINDS[name], 64).eval(), torchvisions(name).eval()
    table = {key: value.shape for key, value in ours.backbone.state_dict().items()}
    assert table == {key: value.shape for key, value in theirs.state_dict().items()}
    with torch.inference_mode():
        features = ours(images(2, 64))
        assert torch.equal(features, theirs(images(2, 64)))
    assert ours.feature_dim == 2048 == features.shape[1]


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_init_residual_is_torchvisions(depth: int) -> None:
    ours = built(ResNet(depth=depth, zero_init_residual=True), 64).backbone.state_dict()  # type: ignore[arg-type]
    theirs = torchvisions(f"resnet{depth}", zero_init_residual=True).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    last = "bn2.weight" if depth == 18 else "bn3.weight"
    zeroed = {key for key, value in ours.items() if key.endswith("weight") and not value.any()}
    assert zeroed == {key for key in ours if key.endswith(last)}


def test_zero_init_residual_of_the_narrow_net_leaves_only_the_shortcuts() -> None:
    """Closed form: stem, then two strided 1 x 1 convolutions with BatchNorm and ReLU, then the mean."""
    net = built(ResNet(depth=8, stem="small", width=4, zero_init_residual=True), 16).double()
    weights, x = net.backbone.state_dict(), images(3, 16).double()

    def normalised(x: Tensor) -> Tensor:
        centred = x - x.mean((0, 2, 3), keepdim=True)
        return torch.relu(centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt())

    expected = normalised(F.conv2d(x, weights["0.weight"], padding=1))
    for block in (4, 5):
        expected = normalised(F.conv2d(expected, weights[f"{block}.downsample.0.weight"], stride=2))
    torch.testing.assert_close(net(x), expected.mean((2, 3)), rtol=1e-9, atol=1e-9)


SMALL_ONES = {
    "resnet": ResNet(depth=8, stem="small", width=8, batch_norm_splits=2),
    "vit": ViT(width=48, depth=4, heads=3, patch=4),
    "vit, conv stem": ViT(width=48, depth=4, heads=3, patch=4, stem="conv", freeze_patch_projection=False),
    "vit, mean": ViT(width=48, depth=4, heads=3, patch=4, pool="mean"),
}


def loss_and_gradient(config: ResNet | ViT, precision: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """InfoNCE in the batch of two noisy copies, through encoder and head; the gradient of all weights in one row."""
    encoder = built(config, 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(encoder, build_head(Head((32,), 16, norm=True, last_norm=True), encoder.feature_dim))
    first = images(16, 16)
    second = first + 0.1 * torch.randn(first.shape, generator=generator("cpu", "noise"))
    with torch.autocast("cpu", precision, enabled=precision is not None):
        queries, keys = (F.normalize(net(view).float(), dim=1) for view in (first, second))
    loss = info_nce(queries @ keys.T, torch.eye(16, dtype=torch.bool), 0.2)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", SMALL_ONES)
@pytest.mark.parametrize(
    ("precision", "bits", "cosine"), [(torch.bfloat16, 8, 0.95), (torch.float16, 11, 0.99)], ids=("bf16", "fp16")
)
def test_reduced_precision_is_close_and_the_loss_is_float32(
    name: str, precision: torch.dtype, bits: int, cosine: float
) -> None:
    """Loss within 8 roundings (2^-bits) of float32's. A gradient jumps where rounding moves a unit across ReLU's corner, so
    that its direction alone is held."""
    exact, exact_gradient = loss_and_gradient(SMALL_ONES[name], None)
    loss, gradient = loss_and_gradient(SMALL_ONES[name], precision)
    assert loss.dtype == gradient.dtype == torch.float32
    assert abs(loss - exact).item() < 8 * 2.0**-bits * exact.item()
    assert not torch.equal(gradient, exact_gradient)
    assert F.cosine_similarity(gradient, exact_gradient, dim=0).item() > cosine
