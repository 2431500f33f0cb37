"""How fast: steps of three networks, the whole loop, the readouts of a large set, CIFAR-10. One image is two views.

`first_s` is from a configuration to the end of the first step: building, compiling, and the first launches.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

import moco.batchnorm
import moco.data.loader
import moco.train
from experiments.plan.baselines import digits
from experiments.plan.baselines_published import cifar10_moco_v1, cifar10_moco_v2
from moco import config as c
from moco.data import resolve
from moco.data.splits import ImageData, Resident, Split
from moco.evaluation.features import Labelled
from moco.evaluation.knn import knn_scores
from moco.evaluation.linear_probe import linear_probe
from moco.methods import moco_v3_vit
from tests.benchmarks.suite.step import Precision, Way, ours_of, peer_of, random_views, v2

Report = Callable[..., None]
SECONDS = 1.5  # of each timed row, after its first steps


def on_gpu() -> bool:
    return torch.cuda.is_available()


def device() -> str:
    return "cuda" if on_gpu() else "cpu"


def wait() -> None:
    if on_gpu():
        torch.cuda.synchronize()


def rehearsing() -> None:
    """Without a GPU graphs are read by torch.compile and not made into code: eight norms cost a C++ compiler two minutes."""
    compiled, whole = torch.compile, torch.nn.Module.compile
    torch.compile = lambda *function, **options: compiled(*function, dynamic=False, backend="eager")
    torch.nn.Module.compile = lambda module, **_: whole(module, dynamic=False, backend="eager")


def resnet18(parts: int = 1) -> c.Config:
    encoder = c.ResNet(depth=18, stem="small") if on_gpu() else c.ResNet(depth=8, width=4, stem="strided")
    config = v2(replace(encoder, batch_norm_splits=parts), 32 if on_gpu() else 16, 512 if on_gpu() else 16, 4096)
    return replace(config, key_encoder=c.Momentum(0.999, shuffle=parts > 1))


def resnet50() -> c.Config:
    return v2(c.ResNet(depth=50), 224, 256, 65_536) if on_gpu() else resnet18()


def vit() -> c.Config:
    config = moco_v3_vit()
    if on_gpu():
        return replace(config, train=replace(config.train, batch_size=256))
    tiny = c.ViT(width=24, depth=1, heads=2, patch=8)
    data = replace(config.data, image_size=16)
    head, predictor = (
        replace(config.part(c.Head), hidden=(16,), dim=16),
        replace(config.part(c.Predictor), hidden=(16,)),
    )
    small = replace(config.train, batch_size=4)
    return replace(config, data=data, encoder=tiny, head=head, predictor=predictor, train=small)


def timed(begin: Callable[[], Callable[[], object]], batch: int) -> dict[str, float]:
    torch.compiler.reset()
    if on_gpu():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    step = begin()
    step()
    wait()
    first = time.perf_counter() - started
    for _ in range(5):  # a graph is recorded in the second and third
        step()
    times, end = list[float](), time.perf_counter() + (SECONDS if on_gpu() else 0.1)
    while len(times) < 3 or time.perf_counter() < end:
        wait()
        began = time.perf_counter()
        for _ in range(5):
            step()
        wait()
        times.append((time.perf_counter() - began) / 5)
    result = {"img_s": batch / median(times), "ms": 1e3 * median(times), "least_ms": 1e3 * min(times), "first_s": first}
    return result | ({"GiB": torch.cuda.max_memory_allocated() / 2**30} if on_gpu() else {})


def time_steps(report: Report, config: c.Config, modes: list[tuple[Precision, Way]], **values: object) -> None:
    views = random_views(config, device())
    for mode in modes:
        with surviving(report, mode=" ".join(mode), **values):
            result = timed(lambda mode=mode: ours_of(config, mode, views, device()), len(views[0]))
            report(mode=" ".join(mode), **values, **result)


@contextmanager
def surviving(report: Report, **values: object) -> Iterator[None]:
    """A row that fails, for want of memory for instance, is an answer too."""
    try:
        yield
    except Exception as error:
        report(**values, error=f"{type(error).__name__}: {error}"[:600])


def step(report: Report) -> None:
    config = resnet18()
    report(device=torch.cuda.get_device_name() if on_gpu() else "cpu", torch=torch.__version__, cores=os.cpu_count())
    time_steps(report, config, [("fp32", "eager"), ("bf16", "eager")])
    views = random_views(config, device())
    for autocast in (False, True):
        mode = "plain, autocast bf16" if autocast else "plain, fp32"
        with surviving(report, mode=mode), torch.autocast(device(), torch.bfloat16, enabled=autocast):
            report(mode=mode, **timed(lambda: peer_of(config, "plain", views, device()), len(views[0])))
    time_steps(report, config, [("bf16", "graphs"), ("bf16", "compiled"), ("fp32", "graphs")])


def step_parts(report: Report) -> None:
    """Eight parts of BatchNorm and shuffling, as the CIFAR notebook; first each way to compute the parts, in eager."""
    config = resnet18(parts=8)
    chosen = moco.batchnorm.way_of
    for way in (moco.batchnorm.together, moco.batchnorm.one_by_one):
        moco.batchnorm.way_of = lambda _, way=way: way
        time_steps(report, config, [("fp32", "eager"), ("bf16", "eager")], way=way.__name__)
    moco.batchnorm.way_of = chosen if on_gpu() else lambda _: moco.batchnorm.together
    time_steps(report, config, [("bf16", "graphs"), ("bf16", "compiled")], way="together")


def step_resnet50(report: Report) -> None:
    time_steps(report, resnet50(), [("bf16", "graphs"), ("bf16", "compiled")])


def step_vit(report: Report) -> None:
    time_steps(report, vit(), [("bf16", "graphs"), ("bf16", "compiled")])


def step_digits(report: Report) -> None:
    """Small networks wait for Python on a GPU; which device is quicker is what `train.device=auto` rests on."""
    config = digits()
    if not on_gpu():
        config = replace(config, encoder=resnet18(8).encoder, train=replace(config.train, batch_size=16))
    time_steps(report, config, [("fp32", "eager"), ("fp32", "graphs")])
    views = random_views(config, "cpu")
    with surviving(report, mode="on the CPU"):
        report(mode="on the CPU", **timed(lambda: ours_of(config, ("fp32", "eager"), views, "cpu"), len(views[0])))


def images(count: int) -> ImageData:
    """Noise, on the device."""
    draw = torch.Generator().manual_seed(0)
    images_N3SS = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)
    split = Split(Resident(images_N3SS), torch.arange(count) % 10, torch.arange(count))
    return ImageData(split, split, split, split, tuple("abcdefghij"))


def loop(report: Report) -> None:
    """`train` over 40,000 images in memory with v2's views, batches made ahead or not."""
    data = images(40_000 if on_gpu() else 96)
    moco.train.load = lambda _, log: data
    base = cifar10_moco_v2()
    ways: list[tuple[Way, int, int]] = [("graphs", 8, 12), ("graphs", 1, 12), ("eager", 1, 4)]
    for way, parts, epochs in ways:
        config = resnet18(parts)
        train = replace(
            config.train,
            epochs=epochs if on_gpu() else 2,
            precision="bf16",
            speed=way,
            device=device(),
            log_every=20 if on_gpu() else 2,
        )
        config = replace(config, augment=base.augment, train=train, evaluation=replace(base.evaluation, knn_every=0))
        for ahead in (2, 0):
            moco.data.loader.AHEAD_ON_GPU = ahead
            with surviving(report, mode=f"bf16 {way}", parts=parts, ahead=ahead):
                report(mode=f"bf16 {way}", parts=parts, ahead=ahead, **looped(config))


def looped(config: c.Config) -> dict[str, float]:
    """Of the records of the last two thirds of the training: compiling is over."""
    torch.compiler.reset()
    started, speeds, waits, first = time.monotonic(), list[float](), list[float](), 0.0
    with TemporaryDirectory() as folder:
        for record in moco.train.train(config, Path(folder)):
            if isinstance(record, moco.train.Record):
                first = first or time.monotonic() - started
                speeds.append(record.values["speed/images_per_s"])
                waits.append(record.values["speed/data_wait"])
                if record.epoch >= config.train.epochs:
                    break
    last = slice(len(speeds) // 3, None)
    return {"img_s": median(speeds[last]), "best": max(speeds), "data_wait": median(waits[last]), "first_s": first}


def readouts(report: Report) -> None:
    """Of ResNet-50 features of ImageNet, drawn: kNN of some queries, one epoch of all pairs of the linear probe."""
    count, width, classes, queries = (1_281_168, 2_048, 1_000, 5_000) if on_gpu() else (3_000, 32, 10, 50)
    draw = torch.Generator(device()).manual_seed(0)
    centres_CD = torch.randn(classes, width, generator=draw, device=device())

    def drawn(rows: int) -> Labelled:
        labels_N = torch.arange(rows, device=device()) % classes
        features_ND = torch.empty(rows, width, device=device()).normal_(generator=draw).mul_(8)
        for part_B in torch.arange(rows, device=device()).split(2**16):
            features_ND[part_B] += centres_CD[labels_N[part_B]]
        return Labelled(features_ND, labels_N)

    bank, asked = drawn(count), drawn(queries)
    for name, work in {
        "knn": lambda: knn_scores(bank, asked.features_ND, classes, (20, 200), 0.07)[200].argmax(1),
        "linear": lambda: linear_probe(bank, asked, classes, 1, seed=0).scores(asked.features_ND).argmax(1),
    }.items():
        if on_gpu():
            torch.cuda.reset_peak_memory_stats()
        wait()
        started = time.perf_counter()
        with surviving(report, readout=name):
            top1 = 100 * float((work() == asked.labels_N).float().mean())
            wait()
            peak = {"GiB": torch.cuda.max_memory_allocated() / 2**30} if on_gpu() else {}
            report(readout=name, bank=count, queries=queries, took_s=time.perf_counter() - started, top1=top1, **peak)


def cifar(report: Report) -> None:
    """The CIFAR notebook's recipe on $CIFAR, a folder of files; a validation share of 2 % is left out of its training."""
    folder = os.environ.get("CIFAR")
    if folder is None:
        return report(skipped="give --cifar DIR")
    config, epochs = cifar10_moco_v1(), int(os.environ["CIFAR_EPOCHS"])
    data = resolve(replace(config.data, name="folder", root=folder, validation_share=0.02))
    train = replace(
        config.train,
        epochs=epochs,
        precision="bf16",
        speed="graphs",
        device=device(),
        log_every=20,
        checkpoint_minutes=60.0,
    )
    config = replace(config, data=data, train=train, evaluation=replace(config.evaluation, knn_every=20))
    if not on_gpu():
        toy = replace(config.train, epochs=2, batch_size=16, speed="eager")
        config = replace(config, encoder=resnet18(8).encoder, train=toy, negatives=c.Queue(64))
    started, speeds, waits = time.monotonic(), list[float](), list[float]()
    with TemporaryDirectory() as directory:
        for record in moco.train.train(config, Path(directory)):
            if not isinstance(record, moco.train.Record):
                continue
            values, seconds = record.values, time.monotonic() - started
            if "speed/images_per_s" in values:
                if not speeds:
                    report(first_record_s=seconds)
                speeds.append(values["speed/images_per_s"])
                waits.append(values["speed/data_wait"])
            accuracies = {key: value for key, value in values.items() if key.endswith("_top1")}
            if accuracies:
                rates = {"img_s": median(speeds[-40:]), "data_wait": median(waits[-40:])}
                seconds_of = {key: value for key, value in values.items() if key.startswith("seconds/")}
                report(epoch=record.epoch, of=config.train.epochs, at_s=seconds, **rates, **accuracies, **seconds_of)


PARTS: dict[str, Callable[[Report], None]] = {
    "step_parts": step_parts,
    "step": step,
    "loop": loop,
    "digits": step_digits,
    "resnet50": step_resnet50,
    "vit": step_vit,
    "readouts": readouts,
    "cifar": cifar,
}
