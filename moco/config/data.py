"""The images and what is done to a view of them."""

from __future__ import annotations

from dataclasses import dataclass

from moco.config.fields import added, cosmetic, require, require_share
from moco.config.text import typed_values


@dataclass(frozen=True)
@typed_values
class Data:
    """The images. `image_size` is the side in pixels of what the encoder sees."""

    name: str = "digits"
    image_size: int = 32
    validation_share: float = 0.1  # of the training images, held out, stratified by class; used for every choice
    stream: bool = False  # False: all images in memory as uint8; True: read and crop from disk every time
    max_corrupt: int = 10  # unreadable files that are skipped by name before the run is refused
    fingerprint: str = ""  # of a folder's names and contents; filled in when the config is resolved
    root: str | None = cosmetic(None)  # folder of `name=folder`, or where downloads are kept
    download: bool = cosmetic(True)
    workers: int = cosmetic(0)  # processes that read images; only for stream=True
    quick_crops: bool = cosmetic(
        False
    )  # of stream=True: resized on bytes, a third less time, at most a level of 255 off
    bits: int | None = added(
        None, before=None
    )  # of a level in 16-bit files; null: 16, refused where they look like fewer

    def __post_init__(self) -> None:
        require(self.image_size >= 8, f"data.image_size = {self.image_size}: must be at least 8 pixels")
        require(
            0.0 < self.validation_share <= 0.5,
            f"data.validation_share = {self.validation_share}: must be above 0 and at most 0.5 "
            "(the validation images are held out of train, for choosing anything)",
        )
        require(
            self.bits is None or 8 <= self.bits <= 16,
            f"data.bits = {self.bits}: must be 8 to 16, the bits that levels of 16-bit files use",
        )
        require(self.max_corrupt >= 0, f"data.max_corrupt = {self.max_corrupt}: must be 0 or more")
        require(self.workers >= 0, f"data.workers = {self.workers}: must be 0 or more")


@dataclass(frozen=True)
@typed_values
class Augment:
    """One view's recipe. Order: crop, [jitter, grey | grey, jitter], blur, solarize, flip, rotate, noise, normalise.

    The second view (the key's) may have its own probability of blur and of solarize. Ranges follow
    torchvision's reference transforms (`RandomResizedCrop`, `ColorJitter`, `RandomGrayscale`, ...).
    """

    crop_scale: tuple[float, float] = (0.2, 1.0)  # share of the image's area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height
    grey: float = 0.2  # probability
    grey_first: bool = True  # v1 greys before the jitter, v2 after it
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.4)  # brightness, contrast, saturation, hue
    jitter_probability: float = 1.0
    blur: float = 0.0  # probability
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    blur_second: float | None = None  # probability in the second view, if another (v3's asymmetric pair)
    solarize: float = 0.0  # probability; threshold 128 of 255
    solarize_second: float | None = None
    flip: float = 0.5  # probability, horizontal
    rotation: float = 0.0  # degrees, uniform in +- this
    noise: float = 0.0  # standard deviation of added Gaussian noise, of a pixel in 0..1
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("grey", "jitter_probability", "blur", "solarize", "flip"):
            require_share(f"augment.{name}", getattr(self, name))
        for name in ("blur_second", "solarize_second"):
            if (share := getattr(self, name)) is not None:
                require_share(f"augment.{name}", share)
        low, high = self.crop_scale
        require(0.0 < low <= high <= 1.0, f"augment.crop_scale = {self.crop_scale}: must be 0 < low <= high <= 1")
        low, high = self.crop_ratio
        require(0.0 < low <= high, f"augment.crop_ratio = {self.crop_ratio}: must be 0 < low <= high")
        low, high = self.blur_sigma
        require(0.0 < low <= high, f"augment.blur_sigma = {self.blur_sigma}: must be 0 < low <= high")
        require(
            min(self.jitter) >= 0.0 and self.jitter[3] <= 0.5,
            f"augment.jitter = {self.jitter}: strengths must be 0 or more, the last (hue) at most 0.5",
        )
        require(self.rotation >= 0.0, f"augment.rotation = {self.rotation}: degrees, must be 0 or more")
        require(self.noise >= 0.0, f"augment.noise = {self.noise}: must be 0 or more")
        require(min(self.std) > 0.0, f"augment.std = {self.std}: must be above 0")
