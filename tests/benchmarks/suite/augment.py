"""Two views of MoCo v2: batches on the device, against one image and one view at a time with Pillow.

At 32 pixels from uint8 in memory, eager and compiled. At 224 pixels from JPEG files: what the CPU does when a GPU does the
rest (decode once, crop twice), and everything on the CPU. Same number of images, same files, same crops' law. The peer
has one process: on a GPU, where the wall clock counts, divide by the workers that you would give it.

B images, S side.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms

from moco.augment import two_views, two_views_of_crops
from moco.config import Augment, Config, Data, Momentum, Train
from moco.data.loader import Batches, Crops
from moco.data.splits import Split, Streamed
from moco.methods import AUGMENT_V2
from moco.randomness import generator
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result, compared
from tests.benchmarks.rounds import Contender, Measured, clock_of, interleave

LARGE = (500, 375)  # pixels of the files: ImageNet's usual size
QUALITY = 90
Views = Callable[[Image.Image], list[Tensor]]  # of one picture


@benchmark(
    "images through MoCo v2's two views, against Pillow, one at a time",
    {"batch": 512, "side": 32, "files": 64, "large_side": 224, "compile": 1},
    least={"files": 0, "compile": 0},
)
def run(options: Options) -> list[Result]:
    return [*small(options), *(large(options) if options.whole("files") else [])]


def small(options: Options) -> list[Result]:
    """uint8 in memory."""
    batch, side = options.whole("batch"), options.whole("side")
    images_B3SS = pictures(batch, side, side)
    on_device = images_B3SS.to(options.device)
    turns = {
        mode: partial(two_views, on_device, AUGMENT_V2, 0, 0, compiled=compiled)
        for mode, compiled in modes(options).items()
    }
    as_pil = [to_pil(image) for image in images_B3SS]
    views = peer_views(options.against, side)
    peer = Contender(options.against, lambda: collate([views(image) for image in as_pil], options.device), batch)
    measured = interleave(
        [*(Contender(m, t, batch) for m, t in turns.items()), peer], options.rounds, clock_of(options.device)
    )
    wanted = {"eager": 7.0, "compiled": 18.0}
    return [
        compared(f"augment, {side} px, {mode}", measured, mode, peer.name, "images", options, wanted=wanted[mode])
        for mode in turns
    ]


def modes(options: Options) -> dict[str, bool]:
    return {"eager": False, "compiled": True} if options.whole("compile") else {"eager": False}


def large(options: Options) -> list[Result]:
    """JPEG files."""
    with TemporaryDirectory() as folder:
        files = Streamed(write_jpegs(Path(folder), options.whole("files")), options.whole("large_side"))
        turns = turns_of_large(files, options)
        contenders = [Contender(name, turn, len(files)) for name, turn in turns.items()]
        measured = interleave(contenders, options.rounds, clock_of(options.device))
    return results_of_large(measured, list(turns)[:-1], options)


def turns_of_large(files: Streamed, options: Options) -> dict[str, Callable[[], object]]:
    """Ours first, the peer last."""
    exact, quick, views = crops_of(files), crops_of(files, quick=True), peer_views(options.against, files.size)

    def views_of_crops(compiled: bool) -> tuple[Tensor, Tensor]:
        query, key = (crop.to(options.device).contiguous() for crop in (quick if compiled else exact)())
        return two_views_of_crops(query, key, AUGMENT_V2, 0, 0, compiled=compiled)

    ours = {mode: partial(views_of_crops, compiled) for mode, compiled in modes(options).items()}

    def peer() -> object:
        return collate([views(Image.open(path).convert("RGB")) for path in files.paths], options.device)

    return {"crops": exact, "quick crops": quick, **ours, options.against: peer}


def crops_of(files: Streamed, *, quick: bool = False) -> Callable[[], Crops]:
    """What a reader of the trainer's does for one batch of all files, in this process."""
    count = len(files)
    config = Config(
        data=Data(quick_crops=quick),
        augment=AUGMENT_V2,
        key_encoder=Momentum(shuffle=False),
        train=Train(batch_size=count),
    )
    split = Split(files, torch.zeros(count, dtype=torch.int64), torch.arange(count))
    batches = Batches(split, config, torch.device("cpu"))
    assert batches.reader is not None, "files are streamed"
    reader, every = batches.reader, list(range(count))
    return lambda: next(reader.read([(0, every, [every, every])]))


def results_of_large(measured: Measured, ours: list[str], options: Options) -> list[Result]:
    wanted = {"crops": None, "quick crops": 5.5, "eager": None, "compiled": 2.0}
    parts = {
        "crops": "the CPU half (decode, two crops), exact",
        "quick crops": "the CPU half, quick",
        "eager": "all, exact crops and eager",
        "compiled": "all, quick crops and compiled",
    }

    def result(mode: str) -> Result:
        name = f"augment, {options.whole('large_side')} px from JPEG, {parts[mode]}"
        return compared(name, measured, mode, options.against, "images", options, wanted=wanted[mode])

    return [result(mode) for mode in ours]


def pictures(batch: int, height: int, width: int) -> Tensor:
    """Smooth random pictures with some grain, uint8 (B, 3, H, W). The JPEGs have 47 kB, as photographs of that size do."""
    draw = generator("cpu", "benchmark", "pictures", height)
    coarse = torch.rand(batch, 3, 12, 12, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    grain = 0.014 * torch.randn(batch, 1, height, width, generator=draw)
    return ((smooth + grain).clamp(0, 1) * 255).to(torch.uint8)


def to_pil(image_3HW: Tensor) -> Image.Image:
    return Image.fromarray(image_3HW.permute(1, 2, 0).numpy())


def write_jpegs(folder: Path, count: int) -> tuple[str, ...]:
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for path, image in zip(paths, pictures(count, LARGE[1], LARGE[0]), strict=True):
        to_pil(image).save(path, quality=QUALITY)
    return tuple(map(str, paths))


def collate(views: list[list[Tensor]], device: str) -> tuple[Tensor, ...]:
    return tuple(torch.stack(view).to(device) for view in zip(*views, strict=True))


def peer_views(against: str, side: int) -> Views:
    if against == "lightly":
        from tests.benchmarks.peers.lightly_views import moco_v2

        return moco_v2(side)
    return plain_views(AUGMENT_V2, side)


def plain_views(recipe: Augment, side: int) -> Views:
    """The recipe as torchvision's per-image transforms, the usual way; Pillow's blur."""

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*recipe.blur_sigma)))

    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(side, scale=recipe.crop_scale, ratio=recipe.crop_ratio),
            transforms.RandomApply([transforms.ColorJitter(*recipe.jitter)], p=recipe.jitter_probability),
            transforms.RandomGrayscale(recipe.grey),
            transforms.RandomApply([blur], p=recipe.blur),
            transforms.RandomHorizontalFlip(recipe.flip),
            transforms.ToTensor(),
            transforms.Normalize(recipe.mean, recipe.std),
        ]
    )
    return lambda image: [view(image), view(image)]
