"""Oracle: the encoder's own output, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from moco.augment import normalise
from moco.config import Augment
from moco.evaluation.features import Labelled, evaluating, extract, filled

RECIPE = Augment(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


@dataclass(frozen=True)
class Pictures:
    images_N3SS: Tensor

    def __len__(self) -> int:
        return len(self.images_N3SS)

    def take(self, indices_B: Tensor) -> Tensor:
        return self.images_N3SS[indices_B]


def encoder() -> nn.Sequential:
    """BatchNorm and dropout: eval mode matters."""
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers)


def pictures(count: int) -> Pictures:
    return Pictures(torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8))


@pytest.mark.parametrize("batch_size", [4, 5, 100])
def test_features_are_the_encoders_in_eval_mode(batch_size: int) -> None:
    net, images = encoder().train(), pictures(13)
    net(normalise(images.images_N3SS, RECIPE))  # statistics that are not 0 and 1
    got_ND = extract(net, images, RECIPE, "cpu", batch_size)
    net.eval()
    with torch.no_grad():
        expected_ND = torch.cat([net(normalise(image[None], RECIPE)) for image in images.images_N3SS])
    torch.testing.assert_close(got_ND, expected_ND, rtol=0, atol=1e-6)
    assert not got_ND.requires_grad


def test_every_submodule_gets_its_former_mode_back_even_after_an_error() -> None:
    net = encoder().train()
    net[1].eval()
    with pytest.raises(KeyError, match="False, False, False, False, False, False"), evaluating(net):
        raise KeyError([part.training for part in net.modules()])
    assert [part.training for part in net.modules()] == [True, True, False, True, True, True]


def test_features_of_a_half_precision_encoder_are_float32() -> None:
    batches = torch.randn(10, 3, dtype=torch.bfloat16)
    assert torch.equal(filled(batches.split(4), 10), batches.float())


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^0 images: .* at least one image$"):
        extract(encoder(), pictures(0), RECIPE, "cpu")


def test_features_and_labels_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="3 features and 2 labels"):
        Labelled(torch.zeros(3, 1), torch.zeros(2, dtype=torch.int64))
