"""Oracles: the protocol as a loop over hand-written gradients, torch's MultiStepLR, images that no crop can change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import moco.evaluation.paper_probe as module
from moco.config import Augment, Config, Data, Momentum, Train
from moco.data.splits import Resident, Split
from moco.evaluation.features import Crops, Labelled
from moco.evaluation.frozen import BackboneMovedError, fingerprint
from moco.evaluation.paper_probe import crop_and_flip, learning_rate, loading, paper_probe, random_crops, v3
from moco.randomness import generator

CLASSES = 40


def epoch_features(epoch: int) -> Labelled:
    """600 images: two full batches and a short one."""
    g = generator("cpu", "epoch", epoch)
    labels_N = torch.randint(0, CLASSES, (600,), generator=g)
    features_ND = torch.randn(600, 4, generator=g, dtype=torch.float64) + torch.eye(CLASSES, 4)[labels_N]
    return Labelled(features_ND * 0.05, labels_N)


def plain_loop(epochs: int, seed: int, milestones: tuple[int, int]) -> tuple[Tensor, Tensor]:
    weight_CD = torch.empty(CLASSES, 4, dtype=torch.float64)
    weight_CD.normal_(0.0, 0.01, generator=generator("cpu", seed, "paper probe weights"))
    bias_C, velocity_C = torch.zeros(2, CLASSES, dtype=torch.float64)
    velocity_CD = torch.zeros_like(weight_CD)
    for epoch in range(epochs):
        lr = 30.0 if epoch < milestones[0] else 3.0 if epoch < milestones[1] else 0.3
        labelled = epoch_features(epoch)
        order_N = torch.randperm(600, generator=generator("cpu", seed, "paper probe order", epoch))
        for rows_B in (order_N[:256], order_N[256:512], order_N[512:]):
            inputs_BD, labels_B = labelled.features_ND[rows_B], labelled.labels_N[rows_B]
            exponentials_BC = (inputs_BD @ weight_CD.T + bias_C).exp()
            error_BC = exponentials_BC / exponentials_BC.sum(1, keepdim=True) - torch.eye(CLASSES)[labels_B]
            velocity_CD = 0.9 * velocity_CD + error_BC.T @ inputs_BD / len(rows_B)
            velocity_C = 0.9 * velocity_C + error_BC.mean(0)
            weight_CD, bias_C = weight_CD - lr * velocity_CD, bias_C - lr * velocity_C
    return weight_CD, bias_C


def test_the_probe_is_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milestones are moved forward: in this small problem lr 30 makes the biases oscillate, and after 20 epochs rounding
    errors have grown to 1e-11, after 60 to 1.
    """
    monkeypatch.setattr(module, "MILESTONES", (3, 6))
    layer = paper_probe(Crops(nn.BatchNorm1d(3), epoch_features), CLASSES, seed=4, epochs=8)
    weight_CD, bias_C = plain_loop(epochs=8, seed=4, milestones=(3, 6))
    torch.testing.assert_close(layer.weight.detach(), weight_CD, rtol=0, atol=1e-11)
    torch.testing.assert_close(layer.bias.detach(), bias_C, rtol=0, atol=1e-11)


def test_the_schedule_is_that_of_torch() -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=30.0)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimiser, [60, 80], gamma=0.1)
    for epoch in range(100):
        assert learning_rate(epoch) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-12)
        optimiser.step()
        steps.step()


def test_a_backbone_that_moves_stops_the_probe_in_the_first_epoch() -> None:
    backbone = nn.BatchNorm1d(4).double().train()
    asked = []

    def moving(epoch: int) -> Labelled:
        asked.append(epoch)
        labelled = epoch_features(epoch)
        return Labelled(backbone(labelled.features_ND).detach(), labelled.labels_N)

    with pytest.raises(BackboneMovedError, match="running_mean, running_var"):
        paper_probe(Crops(backbone, moving), CLASSES, seed=0)
    assert asked == [0]


class MeanColour(nn.Module):
    """Features: the mean of each channel. Its BatchNorm is the identity in eval mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, eps=0.0)
        self.start = fingerprint(self)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        means_B3: Tensor = self.norm(images_B3SS).mean((2, 3))
        return means_B3


def split_of(images_N3SS: Tensor) -> Split:
    positions = torch.arange(len(images_N3SS))
    return Split(Resident(images_N3SS), positions * 7, positions)


def config(flip: float = 0.5) -> Config:
    recipe = Augment(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), flip=flip, blur=1.0, noise=0.3, rotation=40.0)
    return Config(Data(image_size=8), recipe, key_encoder=Momentum(shuffle=False), train=Train(seed=11))


@pytest.mark.parametrize("count", [40, 600])
def test_images_of_one_colour_come_back_with_their_own_labels(count: int) -> None:
    """Crops and flips leave them alone, jitter, blur or noise would not; every image once, in eval mode."""
    colours_N = torch.arange(count) % 251
    images_N3SS = colours_N[:, None, None, None].expand(-1, 3, 8, 8).to(torch.uint8)
    encoder = MeanColour().train()
    crops = random_crops(encoder, split_of(images_N3SS), config(), torch.device("cpu"))
    for epoch in range(2):
        labelled = crops.epoch_features(epoch)
        assert torch.equal(labelled.labels_N.sort().values, torch.arange(count) * 7)
        expected_N = colours_N[labelled.labels_N // 7].float() / 255
        torch.testing.assert_close(labelled.features_ND, expected_N[:, None].expand(-1, 3), rtol=0, atol=1e-5)
    assert encoder.training
    assert fingerprint(encoder) == encoder.start


def test_crops_are_new_each_epoch_and_the_same_for_a_seed() -> None:
    images_N3SS = torch.randint(0, 256, (30, 3, 8, 8), generator=generator("cpu", "crops"), dtype=torch.uint8)

    def by_label(epoch: int) -> Tensor:
        crops = random_crops(MeanColour(), split_of(images_N3SS), config(), torch.device("cpu"))
        labelled = crops.epoch_features(epoch)
        return labelled.features_ND[labelled.labels_N.argsort()]

    assert torch.equal(by_label(0), by_label(0))
    assert not bool((by_label(0) == by_label(1)).all(1).any())


def test_the_recipe_is_the_papers_in_the_sets_normalisation() -> None:
    recipe = crop_and_flip(config().augment)
    plain = Augment(crop_scale=(0.08, 1.0), grey=0.0, jitter_probability=0.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert recipe == plain
    assert crop_and_flip(config(flip=0.0).augment).flip == 0.0


@pytest.mark.parametrize(("images", "left_out"), [(7, 0), (255, 0), (1_300, 0), (509 * 521, 0), (521, 1)])
def test_few_images_are_left_out_of_an_epoch(images: int, left_out: int) -> None:
    """1,300 = 5 x 260; 509 divides the fourth; 521 is a prime, and 2 x 260 comes next to it."""
    assert images % loading(config(), images).train.batch_size == left_out


@pytest.mark.parametrize(
    ("images", "transformer", "first", "batch"),
    [(5_000, False, 0.4, 1024), (5_000, True, 12.0, 1024), (512, False, 0.2, 512)],
)
def test_v3_s_schedule_is_torch_s_cosine_over_90_epochs(
    images: int, transformer: bool, first: float, batch: int
) -> None:
    recipe = v3(images, transformer=transformer)
    assert (recipe.batch, recipe.epochs) == (batch, 90)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=first)
    steps = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 90)
    for epoch in range(90):
        assert recipe.rate(epoch) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        optimiser.step()
        steps.step()
