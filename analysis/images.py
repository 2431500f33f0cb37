"""`over_images`: the interval of a paired difference over seeds and test images.

All runs of a sweep answer the same test images. The interval over seeds says what other seeds would give on these images;
about other images of the same kind it says nothing. Here both are samples. The difference of arm and baseline at a seed
on an image, 100 points, 0 or -100, is (two-way crossed random effects; Searle, Casella and McCulloch, Variance Components,
1992, section 4.3)

    d_SI = mean + seed_S + image_I + rest_SI

With S seeds, I images and the mean squares M of the analysis of variance,

    var(mean of d) = M_seeds / (S I) + (M_images - M_rest) / (S I)

is an unbiased estimate of a part that other seeds change and a part that other images change. The half-width is the root
of the sum of squares of the two parts' own half-widths, Student's t with S - 1 and with I - 1 degrees of freedom (Howe,
JASA 1974; Zou and Donner, Statistics in Medicine 2008, call it MOVER): never narrower than the interval over seeds. In
simulations it covers 95.5 to 97 % with five seeds, 95 to 96 % with ten, 97 % with three; Satterthwaite's single t, which
was tried, 93 to 95 % with three.

Pairing by image takes out how hard an image is for both; what stays is how much its answer depends on the arm.

S seeds, I images.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from experiments.store.summary import LEVEL

FEWEST_SEEDS: Final = 3  # with two, the spread over seeds has one degree of freedom
SAME: Final = 1e-6  # points: a readout and the share of its hits differ by rounding only

Images = npt.NDArray[np.float64]
Cells = Sequence[Mapping[str, Any]]  # rows of a frame of `frame.cell_types`


@dataclass(frozen=True)
class OverImages:
    """A difference in points with its interval over seeds and images, and the standard error that each of both brings."""

    seeds: int
    images: int
    difference: float
    low: float
    high: float
    error_of_seeds: float
    error_of_images: float


def crossed_interval(differences_SI: Images, level: float = LEVEL) -> OverImages | None:
    """Of differences in points at each seed on each image. None below `FEWEST_SEEDS` seeds or two images.

    A spread under that of rounding to whole images is taken to be that: one image, uniform, has the standard deviation
    100 / (I sqrt(12)) in every seed's mean.
    """
    seeds, images = differences_SI.shape
    if seeds < FEWEST_SEEDS or images < 2:
        return None
    mean = float(differences_SI.mean())
    of_seed_S, of_image_I = differences_SI.mean(1), differences_SI.mean(0)
    rest_SI = differences_SI - of_seed_S[:, None] - of_image_I + mean
    m_seeds = images * float(of_seed_S.var(ddof=1))
    m_images = seeds * float(of_image_I.var(ddof=1))
    m_rest = float((rest_SI**2).sum()) / ((seeds - 1) * (images - 1))
    rounding = (100 / images) ** 2 / 12
    by_seeds = max(m_seeds / images, rounding) / seeds
    by_images = max(0.0, (m_images - m_rest) / seeds) / images
    half = math.sqrt(_t(seeds, level) ** 2 * by_seeds + _t(images, level) ** 2 * by_images)
    return OverImages(
        seeds=seeds,
        images=images,
        difference=mean,
        low=max(-100.0, mean - half),
        high=min(100.0, mean + half),
        error_of_seeds=math.sqrt(by_seeds),
        error_of_images=math.sqrt(by_images),
    )


def _t(n: int, level: float) -> float:
    """Two-sided quantile of Student's t of a mean of n values."""
    return float(stdtrit(n - 1, (1 + level) / 2))


def _hits(cell: Mapping[str, Any], readout: str) -> tuple[str, Images] | None:
    """Which images they are, and 1 or 0 for each. None where the run has none, or where they do not add up to its readout."""
    found = json.loads(cell["hits"]).get(readout) if cell["hits"] else None
    if found is None or cell[readout] is None:
        return None
    try:
        bits = np.unpackbits(np.frombuffer(b64decode(found["bits"], validate=True), dtype=np.uint8))
    except ValueError:
        return None
    images = found["images"]
    if not 0 < images <= len(bits) < images + 8:
        return None
    hits_I = bits[:images].astype(np.float64)
    if abs(100 * hits_I.mean() - cell[readout]) > SAME:
        return None
    return f"{images} {found['labels']}", hits_I


def over_images(arm: Cells, baseline: Cells, readout: str) -> OverImages | None:
    """Paired by seed and image. None unless every pair of seeds with this readout has hits, all on the same images."""
    by_seed = [{cell["seed"]: cell for cell in cells if cell[readout] is not None} for cells in (arm, baseline)]
    pairs = [
        (_hits(by_seed[0][s], readout), _hits(by_seed[1][s], readout)) for s in sorted(by_seed[0].keys() & by_seed[1])
    ]
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    if len(known) < len(pairs) or len({images for pair in known for images, _ in pair}) != 1:
        return None
    return crossed_interval(100 * np.stack([one[1] - other[1] for one, other in known]))
