"""Order and views are functions of (seed, epoch, step): bitwise repeats, resumed or not, whoever reads the files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
import torchvision.transforms.functional as reference
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from moco.augment import View, crop_boxes, two_views, two_views_of_crops
from moco.config import Augment, Config, Data, InfoNCE, Queue, ResNet, Train
from moco.data import load
from moco.data.decode import Unreadable
from moco.data.splits import Resident, Split, Streamed
from moco.data.loader import Batch, Batches
from tests.support.data_files import write_folder

CPU = torch.device("cpu")
CONFIG = Config(
    data=Data(image_size=16), encoder=ResNet(depth=8, width=8, batch_norm_splits=2), train=Train(batch_size=8, seed=3)
)
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("loader") / "set", per_class=23)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def configured(root: Path, stream: bool, workers: int = 0) -> Config:
    return replace(CONFIG, data=Data(name="folder", root=str(root), image_size=16, stream=stream, workers=workers))


def batches(config: Config) -> Batches:
    return Batches(load(config.data, print).pretrain, config, CPU)


def same(first: Iterator[Batch], second: Iterator[Batch]) -> int:
    """Asserts bitwise equality; how many there were."""
    count = 0
    for a, b in zip(first, second, strict=True):
        assert a.step == b.step
        for name in ("indices_B", "labels_B", "query_view_B3SS", "key_view_B3SS"):
            assert torch.equal(getattr(a, name), getattr(b, name)), (a.step, name)
        count += 1
    return count


@pytest.mark.parametrize("stream", [False, True])
def test_one_view_is_the_query_view_of_two(root: Path, stream: bool) -> None:
    config = configured(root, stream)
    split = load(config.data, print).pretrain
    alone, both = (Batches(split, config, CPU, views=views).epoch(1) for views in (1, 2))
    for one, two in zip(alone, both, strict=True):
        assert torch.equal(one.query_view_B3SS, two.query_view_B3SS)
        assert one.key_view_B3SS is None


@pytest.mark.parametrize(("stream", "workers"), [(False, 0), (True, 0), (True, 2)])
def test_resume_within_an_epoch_gives_the_remaining_batches_bitwise(root: Path, stream: bool, workers: int) -> None:
    config = configured(root, stream, workers)
    whole = batches(config)
    assert whole.steps_per_epoch == 5  # 46 images less 5 for validation: 41 = 5 x 8 + 1 dropped
    epochs = [list(whole.epoch(epoch)) for epoch in range(2)]
    assert [batch.step for epoch in epochs for batch in epoch] == list(range(10))
    torch.manual_seed(99)
    resumed = batches(configured(root, stream, 0))
    assert same(resumed.epoch(1, first_step=2), iter(epochs[1][2:])) == 3
    abandoned = whole.epoch(0)
    next(abandoned)
    del abandoned
    assert same(whole.epoch(1, first_step=4), iter(epochs[1][4:])) == 1
    assert same(whole.epoch(0), iter(epochs[0])) == 5


def test_every_epoch_shuffles_all_images_and_drops_the_last_few(root: Path) -> None:
    loader = batches(configured(root, stream=False))
    orders = [torch.cat([batch.indices_B for batch in loader.epoch(epoch)]).tolist() for epoch in range(40)]
    for order in orders:
        assert len(set(order)) == len(order) == 40
        assert set(order) < set(range(41))
    assert len({tuple(order) for order in orders}) == 40
    assert {i for order in orders for i in order} == set(range(41))


def test_labels_are_those_of_the_images(root: Path) -> None:
    config = configured(root, stream=False)
    split = load(config.data, print).pretrain
    for batch in Batches(split, config, CPU).epoch(0):
        assert torch.equal(batch.labels_B, split.labels_N[batch.indices_B])


def test_arms_of_a_seed_see_the_same_images_and_views(root: Path) -> None:
    """The order survives every other group; views too while the recipe stays; another seed changes both."""
    config = configured(root, stream=False)
    other = replace(config, negatives=Queue(8), loss=InfoNCE(1.0), encoder=replace(config.encoder, width=16))
    assert same(batches(config).epoch(1), batches(other).epoch(1)) == 5
    plain = replace(config, augment=Augment(blur=0.5, flip=0.0))
    pairs = list(zip(batches(config).epoch(1), batches(plain).epoch(1), strict=True))
    assert all(torch.equal(a.indices_B, b.indices_B) for a, b in pairs)
    assert not all(torch.equal(a.query_view_B3SS, b.query_view_B3SS) for a, b in pairs)
    reseeded = batches(replace(config, train=replace(config.train, seed=4)))
    assert [b.indices_B.tolist() for b in reseeded.epoch(1)] != [a.indices_B.tolist() for a, _ in pairs]


def test_resident_batches_are_two_views_of_their_images(root: Path) -> None:
    config = configured(root, stream=False)
    split = load(config.data, print).pretrain
    for batch in Batches(split, config, CPU).epoch(2):
        query, key = two_views(split.images.take(batch.indices_B), config.augment, 3, batch.step)
        assert torch.equal(batch.query_view_B3SS, query)
        assert torch.equal(batch.key_view_B3SS, key)


def slow_crops(split: Split, batch: Batch, config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """One picture at a time with Pillow and torchvision."""
    assert isinstance(split.images, Streamed)
    pictures = [Image.open(split.images.paths[i]).convert("RGB") for i in batch.indices_B.tolist()]
    heights, widths = torch.tensor([p.height for p in pictures]), torch.tensor([p.width for p in pictures])
    size, views = config.data.image_size, list[torch.Tensor]()
    for view in get_args(View):  # query, key
        boxes_B4 = crop_boxes(heights, widths, config.augment, config.train.seed, batch.step, view)
        crops = [
            reference.resized_crop(p, *box, [size, size]) for p, box in zip(pictures, boxes_B4.tolist(), strict=True)
        ]
        views.append(torch.stack([reference.pil_to_tensor(crop) for crop in crops]))
    query, key = views
    return query, key


def test_streamed_batches_are_two_views_of_full_resolution_crops(root: Path) -> None:
    config = configured(root, stream=True)
    config = replace(config, train=replace(config.train, batch_size=20))  # more than are opened at once
    split = load(config.data, print).pretrain
    for batch in Batches(split, config, CPU).epoch(1):
        query, key = two_views_of_crops(*slow_crops(split, batch, config), config.augment, 3, batch.step)
        assert torch.equal(batch.query_view_B3SS, query)
        assert torch.equal(batch.key_view_B3SS, key)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_broke_since_is_named(tmp_path: Path, workers: int) -> None:
    config = configured(write_folder(tmp_path / "set", per_class=23), stream=True, workers=workers)
    config = replace(config, train=replace(config.train, batch_size=4))
    loaded = batches(config)
    assert isinstance(loaded.images, Streamed)
    broken = loaded.images.paths[0]
    Path(broken).write_bytes(b"no picture")
    with pytest.raises(Unreadable, match=f"^{re.escape(broken)}: cannot identify image file"):
        list(loaded.epoch(0))


def test_readers_hold_no_file_open_for_a_step_that_is_over(root: Path) -> None:
    """An epoch of ImageNet has 5,000 steps, and a process may have 1,024 files open."""
    config = configured(root, stream=True, workers=1)
    config = replace(config, train=replace(config.train, batch_size=4))
    held = [len(os.listdir("/proc/self/fd")) for _ in batches(config).epoch(0)]
    assert len(held) == 10
    assert held[-1] <= held[3]


def measures(boxes_B4: torch.Tensor) -> tuple[torch.Tensor, ...]:
    top_B, left_B, height_B, width_B = boxes_B4.unbind(1)
    return top_B, left_B, height_B * width_B, width_B / height_B


@pytest.mark.parametrize(("height", "width"), [(30, 40), (100, 20)])
def test_crop_boxes_have_torchvisions_distribution(height: int, width: int) -> None:
    """Kolmogorov-Smirnov on top, left, area and ratio; 100 x 20 needs retries and the central fallback."""
    recipe, count = Augment(), 4000
    ours = crop_boxes(torch.full((count,), height), torch.full((count,), width), recipe, 0, 0, "query")
    image = torch.empty(3, height, width)
    scale, ratio = list(recipe.crop_scale), list(recipe.crop_ratio)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)])
    for a, b in zip(measures(ours), measures(theirs), strict=True):
        assert ks_2samp(a.numpy(), b.numpy()).pvalue > 1e-4


def test_a_batch_larger_than_the_set_is_refused(root: Path) -> None:
    config = configured(root, stream=False)
    with pytest.raises(ValueError, match=r"^train\.batch_size = 64: there are only 41 training images; lower it$"):
        batches(replace(config, train=Train(batch_size=64)))


def test_readers_leave_the_global_generator_alone(root: Path) -> None:
    loader = batches(configured(root, stream=True, workers=2))
    torch.manual_seed(7)
    state = torch.get_rng_state()
    for _ in loader.epoch(0):
        pass
    assert torch.equal(torch.get_rng_state(), state)


def test_flat_images_come_out_as_the_normalised_flat_value() -> None:
    """Every crop of a grey image is that grey: (51/255 - mean) / std, in closed form."""
    recipe = Augment(jitter=(0.0, 0.0, 0.0, 0.0), grey=0.0)
    images = Resident(torch.full((4, 3, 16, 16), 51, dtype=torch.uint8))
    config = replace(CONFIG, augment=recipe, train=Train(batch_size=4))
    (batch,) = Batches(Split(images, torch.zeros(4).long(), torch.arange(4)), config, CPU).epoch(0)
    expected_C = (0.2 - torch.tensor(recipe.mean)) / torch.tensor(recipe.std)
    for view in (batch.query_view_B3SS, batch.key_view_B3SS):
        torch.testing.assert_close(view, expected_C[None, :, None, None].expand(4, 3, 16, 16), atol=1e-5, rtol=0)


SIGNALLED = """
import signal, sys
from dataclasses import replace
import torch
from moco.config import Config, Data, ResNet, Train
from moco.data import load
from moco.data.decode import Unreadable
from moco.data.loader import Batches
if __name__ == "__main__":
    seen = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: seen.append(number))
    data = Data(name="folder", root=sys.argv[1], image_size=16, stream=True, workers=2)
    config = Config(data=data, encoder=ResNet(depth=8, width=8, batch_norm_splits=2), train=Train(batch_size=8))
    batches = Batches(load(data, sys.stderr.write).pretrain, config, torch.device("cpu"))
    count = 0
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            count += 1
            if count == 2:  # one from each reader: both are set up
                print("first", flush=True)
                sys.stdin.readline()
    print(count, len(seen), flush=True)
"""


def test_readers_outlive_signals_to_the_process_group(root: Path) -> None:
    """Ctrl-C reaches the whole group; the trainer must be able to finish its step and save."""
    child = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, str(root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "first\n"
        os.killpg(child.pid, signal.SIGINT)
        os.killpg(child.pid, signal.SIGTERM)
        child.stdin.write("on\n")
        child.stdin.flush()
        assert child.stdout.read() == "10 2\n"
    assert child.returncode == 0
