"""Vision transformers as MoCo v3 trains them: torchvision's, with v3's positions, initial weights, stem and readouts.

B images, S side in pixels, P patches, G patches along a side (P = G x G), T tokens (P, and the class token if there is
one), D width, H heads of d each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import ConvStemConfig

from moco.config import ViT
from moco.randomness import generator

LONGEST_WAVE = 10_000.0  # patches, over 2 pi


class SelfAttention(nn.MultiheadAttention):
    """torch's weights straight to the fused kernel, in training and evaluation alike.

    torch's own forward copies query, key and value first and takes another road in evaluation: a sixth slower to train on
    one CPU core, a tenth slower to evaluate (width 192, 65 tokens).
    """

    def forward(self, query: Tensor, *_: Tensor, **__: bool) -> tuple[Tensor, None]:  # type: ignore[override]
        batch, tokens, width = query.shape
        projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        heads_3BHTd = projected.view(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed_BHTd = F.scaled_dot_product_attention(*heads_3BHTd)
        mixed_BTD: Tensor = self.out_proj(mixed_BHTd.transpose(1, 2).reshape(batch, tokens, width))
        return mixed_BTD, None


class MeanPooled(VisionTransformer):  # type: ignore[misc]  # torchvision has no types
    """The mean of the patch tokens as they leave the last block: neither class token nor last LayerNorm.

    v3 (arXiv:2104.02057, section 6): 76.5 with a class token, 76.3 so, 69.7 with the LayerNorm before the mean.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.class_token = None
        self.encoder.pos_embedding = nn.Parameter(self.encoder.pos_embedding.detach()[:, 1:].clone())
        self.encoder.ln = nn.Identity()

    def forward(self, images_B3SS: Tensor) -> Tensor:
        tokens_BPD: Tensor = self.encoder(self._process_input(images_B3SS))
        return tokens_BPD.mean(1)


def build_vit(config: ViT, image_size: int, norm: Callable[[int], nn.Module]) -> VisionTransformer:
    """Images (B, 3, S, S) to features (B, D): the class token after the last LayerNorm, or the mean of the patches.

    `norm` makes the BatchNorms of a conv stem. Frozen positions and patch projections need no gradient. Raises ValueError
    for a patch that does not divide the image.
    """
    if image_size % config.patch:
        raise ValueError(
            f"encoder.patch = {config.patch} and data.image_size = {image_size}: the patch must divide the image"
        )
    seed = int(torch.randint(2**62, ()))  # first of all: what the constructor draws depends on the variant
    convolutional = config.stem == "conv"
    net = (VisionTransformer if config.pool == "cls" else MeanPooled)(
        image_size=image_size,
        patch_size=config.patch,
        num_layers=config.depth - convolutional,  # the stem takes the place of one block
        num_heads=config.heads,
        hidden_dim=config.width,
        mlp_dim=4 * config.width,
        num_classes=1,
        conv_stem_configs=conv_stem(config, norm) if convolutional else None,
    )
    net.heads = nn.Identity()
    for block in net.encoder.layers:
        block.self_attention = SelfAttention(config.width, config.heads, batch_first=True)
    initialise(net, seed)
    fill_positions(net, config)
    if config.freeze_patch_projection:
        net.conv_proj.requires_grad_(False)
    return net


def conv_stem(config: ViT, norm: Callable[[int], nn.Module]) -> list[ConvStemConfig]:
    """3 x 3 convolutions of stride 2 down to the size of a patch, doubling to the full width; torchvision adds the 1 x 1.

    Xiao et al. (arXiv:2106.14881), as facebookresearch/moco-v3 has it for patches of 16.
    """
    halvings = int(math.log2(config.patch))
    widths = [config.width >> (halvings - 1 - number) for number in range(halvings)]
    return [ConvStemConfig(width, kernel_size=3, stride=2, norm_layer=norm) for width in widths]


@torch.no_grad()
def initialise(net: VisionTransformer, seed: int) -> None:
    """v3's weights (facebookresearch/moco-v3, vits.py), each module's from its own name, so that variants share theirs.

    All Linears are Xavier's, uniform within sqrt(6 / (inputs + outputs)): query, key and value matrices each for itself, the
    patch projection as the Linear of 3 x p x p pixels that it is. Biases are 0. A conv stem has torch's own initial weights.
    """
    for name, module in net.named_modules():
        draw = generator("cpu", seed, name)
        if isinstance(module, nn.MultiheadAttention):
            for matrix_DD in module.in_proj_weight.chunk(3):
                nn.init.xavier_uniform_(matrix_DD, generator=draw)
        elif isinstance(module, nn.Conv2d) and module is not net.conv_proj:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(draw.initial_seed())
                module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1), generator=draw)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    draw = generator("cpu", seed, "tokens")
    nn.init.normal_(net.encoder.pos_embedding, std=0.02, generator=draw)  # torchvision's, where they are learned
    if net.class_token is not None:
        nn.init.normal_(net.class_token, std=1e-6, generator=draw)


@torch.no_grad()
def fill_positions(net: VisionTransformer, config: ViT) -> None:
    """Fixed waves or none, instead of learned positions. The class token has the position 0."""
    if config.position == "learned":
        return
    positions_TD = net.encoder.pos_embedding.requires_grad_(False).zero_()[0]
    if config.position == "sincos":
        grid_PD = sincos_positions(net.image_size // net.patch_size, config.width)
        positions_TD[-len(grid_PD) :] = grid_PD


def sincos_positions(side: int, width: int) -> Tensor:
    """(G * G, D): for the patch in row r and column c, [sin r f, cos r f, sin c f, cos c f], a quarter of the width each.

    Frequencies f_i = 10000^(-i / (D / 4)). The authors call the first half the width's: a square image cannot tell.
    """
    frequencies_Q = LONGEST_WAVE ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    waves_GQ = torch.arange(side, dtype=torch.float64)[:, None] * frequencies_Q
    line_GH = torch.cat((waves_GQ.sin(), waves_GQ.cos()), dim=1)
    rows_PH, columns_PH = line_GH.repeat_interleave(side, dim=0), line_GH.repeat(side, 1)
    return torch.cat((rows_PH, columns_PH), dim=1)
