"""Oracles: the groups of a small transformer written down one by one, a frozen encoder's classifier in a plain loop, bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from moco.config import Config, Data, Evaluation, Head, Momentum, ResNet, Train, ViT
from moco.data.splits import ImageData, Resident, Split
from moco.encoders import build_encoder
from moco.evaluation.few_label import subset
from moco.evaluation.finetune import (
    LAYER_DECAYS,
    RATES,
    RATES_FROZEN,
    WEIGHT_DECAY,
    Setting,
    Tuned,
    batches,
    blocks_of,
    fine_tune,
    layer_of,
    optimiser_of,
    parameter_groups,
    settings,
)
from moco.evaluation.frozen import fingerprint
from moco.model import build_query
from moco.randomness import generator

TINY = ViT(width=12, depth=3, heads=3, patch=4, position="learned", freeze_patch_projection=False)
RESNET = ResNet(depth=8, width=4, stem="small")
CPU = torch.device("cpu")

BLOCK = ("self_attention.in_proj_weight", "self_attention.out_proj.weight", "mlp.0.weight", "mlp.3.weight")
BLOCK_NOT_DECAYED = (
    "ln_1.weight",
    "ln_1.bias",
    "self_attention.in_proj_bias",
    "self_attention.out_proj.bias",
    "ln_2.weight",
    "ln_2.bias",
    "mlp.0.bias",
    "mlp.3.bias",
)


def names_of(group: dict, network: nn.Module) -> set[str]:
    by_id = {id(parameter): name for name, parameter in network.named_parameters()}
    return {by_id[id(parameter)] for parameter in group["params"]}


def test_the_groups_of_a_transformer_are_these() -> None:
    """Three blocks: embedding d^4, blocks d^3, d^2, d^1, last LayerNorm and classifier d^0 (MAE's lr_decay.py)."""
    network = Tuned(build_encoder(TINY, 8), 5, seed=0)
    groups = parameter_groups(network, lr=1e-3, decay=0.5, weight_decay=0.05)
    at = "encoder.backbone."
    embedding = {at + "class_token", at + "encoder.pos_embedding", at + "conv_proj.bias"}
    expected = [("layer 0", 1 / 16, 0.05, {at + "conv_proj.weight"}), ("layer 0, not decayed", 1 / 16, 0.0, embedding)]
    for block in range(3):
        here = f"{at}encoder.layers.encoder_layer_{block}."
        share = 0.5 ** (3 - block)
        expected.append((f"layer {block + 1}", share, 0.05, {here + name for name in BLOCK}))
        expected.append((f"layer {block + 1}, not decayed", share, 0.0, {here + name for name in BLOCK_NOT_DECAYED}))
    end = {at + "encoder.ln.weight", at + "encoder.ln.bias", "classifier.bias"}
    expected += [("layer 4", 1.0, 0.05, {"classifier.weight"}), ("layer 4, not decayed", 1.0, 0.0, end)]
    found = [(g["name"], g["lr"] / 1e-3, g["weight_decay"], names_of(g, network)) for g in groups]
    assert found == [(n, pytest.approx(share), decay, names) for n, share, decay, names in expected]
    in_groups = [name for *_, names in found for name in names]
    assert sorted(in_groups) == sorted(name for name, _ in network.named_parameters())


def test_a_conv_stem_is_the_embedding_and_frozen_parameters_are_in_no_group() -> None:
    stem = ViT(width=16, depth=3, heads=2, patch=4, stem="conv", freeze_patch_projection=False)
    encoder = build_encoder(stem, 16)
    assert blocks_of(encoder) == 2  # the stem takes the place of one
    assert {layer_of(name, 2) for name, _ in encoder.named_parameters() if "conv_proj" in name} == {0}
    kept = build_encoder(replace(TINY, freeze_patch_projection=True), 8)
    grouped = {name for g in parameter_groups(kept, 1.0, 0.5, 0.1) for name in names_of(g, kept)}
    assert grouped == {name for name, p in kept.named_parameters() if p.requires_grad}
    assert "backbone.conv_proj.weight" not in grouped


def test_a_resnet_is_tuned_as_ever_and_a_transformer_with_and_without_decay() -> None:
    resnet, vit = build_encoder(RESNET, 8), build_encoder(TINY, 8)
    assert settings(resnet, frozen=False) == [Setting(lr) for lr in RATES]
    assert settings(vit, frozen=False) == [Setting(lr, decay) for lr in RATES for decay in LAYER_DECAYS]
    assert settings(vit, frozen=True) == settings(resnet, frozen=True) == [Setting(lr) for lr in RATES_FROZEN]
    network = Tuned(resnet, 3, seed=0)
    (group,) = optimiser_of(network, Setting(1e-3)).param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-3, WEIGHT_DECAY)
    assert list(map(id, group["params"])) == list(map(id, network.parameters()))


def test_among_equals_the_lower_rate_then_the_plainer_decay() -> None:
    equals = [Setting(3e-3, 1.0), Setting(1e-3, 0.75), Setting(1e-3, 1.0)]
    assert max(equals, key=lambda one: one.preference) == Setting(1e-3, 1.0)


def image_data() -> ImageData:
    def split(count: int, key: str) -> Split:
        labels_N = torch.arange(count) % 3
        noise_N3SS = torch.randint(0, 120, (count, 3, 8, 8), generator=generator("cpu", key))
        noise_N3SS[torch.arange(count), labels_N] += 60
        return Split(Resident(noise_N3SS.to(torch.uint8)), labels_N, torch.arange(count))

    train = split(60, "train")
    return ImageData(train, split(15, "validation"), split(24, "test"), train, ("cat", "dog", "eel"))


def config(encoder: ResNet | ViT) -> Config:
    return Config(
        Data(image_size=8),
        encoder=encoder,
        head=Head(dim=6),
        train=Train(seed=2),
        key_encoder=Momentum(shuffle=False),
        evaluation=Evaluation(finetune_epochs=3, finetune_per_class=6),
    )


@pytest.mark.parametrize("encoder", [RESNET, TINY], ids=["resnet", "vit"])
def test_frozen_the_encoder_stays_to_the_bit_and_the_classifier_is_that_of_a_plain_loop(encoder: ResNet | ViT) -> None:
    cfg, data = config(encoder), image_data()
    query = build_query(cfg, 3)
    before = fingerprint(query)
    tuned = fine_tune(query.encoder, data, cfg, CPU, frozen=True)
    rows = subset(data.train.labels_N, 6, 2, 0)
    curves = {lr: plain_loop(query.encoder, data, cfg, rows, lr) for lr in RATES_FROZEN}
    lr = max(curves, key=lambda rate: (curves[rate][0][-1], -rate))
    curve, test = curves[lr]
    assert (tuned.setting, list(tuned.curve), tuned.test.top1) == (Setting(lr), curve, test)
    assert fingerprint(query) == before


def plain_loop(encoder: nn.Module, data: ImageData, cfg: Config, rows: torch.Tensor, lr: float) -> tuple[list, float]:
    """Features of the same views from the encoder in eval mode; AdamW and its cosine written out on them."""
    encoder.eval()
    layer = Tuned(build_query(cfg, 3).encoder, 3, 2).classifier
    weights = [layer.weight.detach().clone(), layer.bias.detach().clone()]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    curve, step = [], 0
    for epoch in range(3):
        rate = lr * (1 + torch.cos(torch.tensor(torch.pi * epoch / 3, dtype=torch.float64)).item()) / 2
        for images_B3SS, labels_B in batches(data.train, rows, cfg, epoch, CPU):
            step += 1
            with torch.no_grad():
                features_BD = encoder(images_B3SS)
            error_BC = (features_BD @ weights[0].T + weights[1]).softmax(1) - F.one_hot(labels_B, 3)
            gradients = [error_BC.T @ features_BD / len(labels_B), error_BC.mean(0)]
            for w, g, m, v in zip(weights, gradients, first, second, strict=True):
                w *= 1 - rate * WEIGHT_DECAY
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                w -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        curve.append(top1(encoder, weights, data.validation, cfg))
    return curve, top1(encoder, weights, data.test, cfg)


@torch.no_grad()
def top1(encoder: nn.Module, weights: list[torch.Tensor], split: Split, cfg: Config) -> float:
    mean, std = (torch.tensor(part)[:, None, None] for part in (cfg.augment.mean, cfg.augment.std))
    images_N3SS = (split.images.take(torch.arange(len(split))).float() / 255 - mean) / std
    predicted_N = (encoder(images_N3SS) @ weights[0].T + weights[1]).argmax(1)
    return 100.0 * (predicted_N == split.labels_N).double().mean().item()


def test_all_of_the_encoder_moves_when_it_is_not_frozen_and_the_one_that_was_given_stays() -> None:
    encoder = build_query(config(RESNET), 3).encoder
    before = fingerprint(encoder)
    network = Tuned(encoder, 3, seed=2).train()
    start = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimiser = optimiser_of(network, Setting(1e-3))
    images_B3SS, labels_B = next(batches(image_data().train, torch.arange(16), config(RESNET), 0, CPU))
    for _ in range(2):  # the first step moves the small classifier, and with it what the encoder gets
        optimiser.zero_grad()
        F.cross_entropy(network(images_B3SS), labels_B).backward()
        optimiser.step()
    assert [name for name, p in network.named_parameters() if torch.equal(p, start[name])] == []
    assert fingerprint(encoder) == before
