"""Procedural shapes: ten classes drawn from signed distance functions under nuisances, so that augmentation matters.

The digits saturate; here the colour and light of an image say nothing of its class, so augmentation matters. Each
image has one figure of one of two hues on a grey ground, at a random place, size and tilt, under a tilted light, with
noise. No nuisance depends on the class.

N images of a class, S side in pixels; coordinates run from -1 to 1, a figure fills the unit disc before it is scaled.
Distances are negative inside. Formulas after Quilez, "2D distance functions".
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from moco.data.catalog import sets
from moco.data.holdout import hold_out
from moco.data.splits import Arrays
from moco.randomness import generator

HUES = ((1.0, 0.55, 0.2), (0.25, 0.6, 1.0))
BRIGHTNESS = (0.6, 1.0)
GROUND = (0.0, 0.35)
SCALE = (0.55, 0.85)
TILT = 0.3  # radians, uniform in +- this
LIGHT = 0.2  # change of brightness from the centre to each border
NOISE = 0.03  # standard deviation, of a pixel in 0..1

Distance = Callable[[Tensor, Tensor], Tensor]


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    over_x, over_y = x.abs() - half_width, y.abs() - half_height
    outside = torch.hypot(over_x.clamp(min=0), over_y.clamp(min=0))
    return outside + torch.maximum(over_x, over_y).clamp(max=0)


def _disc(x: Tensor, y: Tensor, radius: float = 0.9) -> Tensor:
    return torch.hypot(x, y) - radius


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.7, 0.7)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    """Equilateral: where three half planes meet. Exact inside and at the edges, which is all that a soft edge needs."""
    normals = [(math.sin(angle), math.cos(angle)) for angle in (0.0, 2 * math.pi / 3, -2 * math.pi / 3)]
    return torch.stack([x * across - y * down for across, down in normals]).amax(0) - 0.5


def _star(x: Tensor, y: Tensor, points: int = 5, inner: float = 0.42) -> Tensor:
    """Fold the plane into one half of one point, then take the distance to its edge's line."""
    sector = math.pi / points
    angle = torch.atan2(x, -y)
    folded = torch.remainder(angle + sector, 2 * sector) - sector
    radius = torch.hypot(x, y)
    along, across = radius * folded.cos(), radius * folded.abs().sin()
    edge_x, edge_y = inner * math.cos(sector) - 1.0, inner * math.sin(sector)
    return ((along - 1.0) * edge_y - across * edge_x) / math.hypot(edge_x, edge_y)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.95, 0.28), _box(x, y, 0.28, 0.95))


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.7).abs() - 0.2


def _square_ring(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.52, 0.52).abs() - 0.18


def _letter_h(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x.abs() - 0.48, y, 0.2, 0.75), _box(x, y, 0.5, 0.2))


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(_disc(x, y, 0.95), -_disc(x - 0.45, y, 0.75))


def _half_disc(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(_disc(x, y + 0.4, 0.9), -y - 0.4)


FIGURES: dict[str, Distance] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "square ring": _square_ring,
    "H": _letter_h,
    "crescent": _crescent,
    "half disc": _half_disc,
}


def shapes(image_size: int) -> Arrays:
    """4,000 + 1,000 images of side `image_size`, balanced. The test images come from their own seed.

    The same figures at every size; only the pixel noise is drawn per pixel.
    """
    train, train_labels_N = draw("train", sets()["shapes"].train // len(FIGURES), image_size)
    test, test_labels_N = draw("test", sets()["shapes"].test // len(FIGURES), image_size)
    return Arrays(train, train_labels_N, test, test_labels_N, tuple(FIGURES))


def draw(purpose: str, per_class: int, size: int) -> tuple[Tensor, Tensor]:
    """uint8 (10 per_class, 3, S, S) and labels, classes in turn."""
    drawn = [_draw_class(figure, per_class, size, purpose, name) for name, figure in FIGURES.items()]
    return torch.stack(drawn, dim=1).flatten(0, 1), torch.arange(len(FIGURES)).repeat(per_class)


def _draw_class(figure: Distance, count: int, size: int, purpose: str, name: str) -> Tensor:
    random = generator("cpu", "shapes", purpose, name)
    uniform_9N11 = torch.rand(9, count, 1, 1, generator=random)
    noise = generator("cpu", "shapes", purpose, name, "noise")
    step = max(1, 2**17 // size**2)  # planes that stay in a core's cache
    return torch.cat([_draw(figure, uniform_9N11[:, i : i + step], size, noise) for i in range(0, count, step)])


def _draw(figure: Distance, uniform_9N11: Tensor, size: int, noise: torch.Generator) -> Tensor:
    hue, brightness, ground, scale, tilt, shift_x, shift_y, light_x, light_y = uniform_9N11
    centres_S = (torch.arange(size) + 0.5) * (2 / size) - 1
    y_S1, x_1S = centres_S[:, None], centres_S[None, :]
    scale_N11, angle_N11 = _between(scale, SCALE), (2 * tilt - 1) * TILT
    x_NSS = x_1S - (2 * shift_x - 1) * (1 - scale_N11)  # the figure's disc stays inside the image
    y_NSS = y_S1 - (2 * shift_y - 1) * (1 - scale_N11)
    cos_N11, sin_N11 = angle_N11.cos() / scale_N11, angle_N11.sin() / scale_N11
    distance_NSS = figure(x_NSS * cos_N11 + y_NSS * sin_N11, y_NSS * cos_N11 - x_NSS * sin_N11) * scale_N11
    cover_N1SS = (0.5 - distance_NSS * (size / 2)).clamp(0, 1)[:, None]  # one pixel of soft edge
    hue_N311 = torch.tensor(HUES)[(hue.flatten() * len(HUES)).long()][:, :, None, None]
    colour_N311 = hue_N311 * _between(brightness, BRIGHTNESS)[:, None]
    ground_N111 = _between(ground, GROUND)[:, None]
    light_N1SS = 1 + LIGHT * ((2 * light_x - 1) * x_1S + (2 * light_y - 1) * y_S1)[:, None]
    clean_N3SS: Tensor = (ground_N111 + (colour_N311 - ground_N111) * cover_N1SS) * light_N1SS
    noise_N3SS = torch.randn(clean_N3SS.shape, generator=noise)
    return clean_N3SS.add(noise_N3SS, alpha=NOISE).mul(255).round().clamp(0, 255).to(torch.uint8)


def _between(uniform: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = bounds
    return uniform.mul(high - low).add(low)


# The handwritten digits that ship with scikit-learn: 1,797 real 8 x 8 images (UCI, Alpaydin and Kaynak), no download.
#
# N images, S side in pixels.


def digits(classes: int = 10) -> Arrays:
    """The native images, grey in three channels, of the first `classes` digits.

    The 360 test images are stratified and fixed for ever; of fewer classes there are fewer.
    """
    pixels_N1HW, labels_N = _read()
    train, test = hold_out(labels_N, sets()["digits"].test, "digits", "test")
    train, test = (kept[labels_N[kept] < classes] for kept in (train, test))
    images_N3HW = pixels_N1HW.mul(255 / 16).expand(-1, 3, -1, -1)
    return Arrays(
        images_N3HW[train], labels_N[train], images_N3HW[test], labels_N[test], tuple(str(d) for d in range(classes))
    )


def _read() -> tuple[Tensor, Tensor]:
    """float32 (1797, 1, 8, 8) in 0..16, int64 (1797,).

    The file is read straight from the package: importing scikit-learn takes seconds, in every run of a sweep.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "data.name = digits: scikit-learn, which ships them, is not installed; pip install scikit-learn, or use "
            "data.name=shapes"
        )
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if not path.exists():
        return _read_by_import()
    with gzip.open(path, "rt") as lines:
        table = torch.tensor([[float(value) for value in row] for row in csv.reader(lines)])
    return table[:, :64].view(-1, 1, 8, 8), table[:, 64].long()


def _read_by_import() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32)[:, None], torch.tensor(bunch.target)
