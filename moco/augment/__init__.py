"""Batched two-view augmentation of uint8 images on their device, with parameters of its own for every sample."""

from moco.augment.draws import Draws, Rows, View, crop_boxes, draws
from moco.augment.views import augment, normalise, one_view, two_views, two_views_of_crops

__all__ = [
    "Draws",
    "Rows",
    "View",
    "augment",
    "crop_boxes",
    "draws",
    "normalise",
    "one_view",
    "two_views",
    "two_views_of_crops",
]
