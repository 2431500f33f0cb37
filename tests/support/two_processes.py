"""What each of two processes of a group computes; the tests compare it with what one process computes.

As a program, one of the processes: `python -m tests.two_processes FOLDER` leaves FOLDER/RANK.pt.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.plan.baselines import digits
from experiments.plan.configs import create
from experiments.run import distributed as ranks
from experiments.run.worker import attempt
from experiments.store.run import RunDirectory
from moco import checkpoint, distributed, methods
from moco.batchnorm import local_statistics, norm_of_parts, norm_of_whole
from moco.config import SGD, Augment, Config, Data, Head, InfoNCE, MemoryBank, Predictor, Queue
from moco.data import load
from moco.data.loader import Batches
from moco.evaluation.features import Labelled, extract
from moco.evaluation.knn import knn_scores
from moco.evaluation.pauses import Progress
from moco.randomness import generator
from moco.trainer import Trainer
from tests.support.stand_in_runs import ROOT

STEPS, BATCH, CPU = 20, 32, torch.device("cpu")


def tiny(config: Config) -> Config:
    """Of a method: on the digits, with a narrow net and a small batch."""
    base = digits()
    encoder = replace(base.encoder, width=4, batch_norm_splits=config.encoder.batch_norm_splits)
    return replace(
        config,
        data=base.data,
        augment=base.augment,
        encoder=encoder,
        optim=SGD(lr=0.1, momentum=0.9, weight_decay=1e-3),
        train=replace(base.train, epochs=1, batch_size=BATCH, log_every=4, device="cpu"),
    )


def tiny_methods() -> dict[str, Config]:
    queue, head = Queue(100), Head((16,), dim=16)
    v1 = replace(methods.moco_v1(), head=Head((), dim=16), negatives=queue, encoder=digits().encoder)
    v2 = replace(methods.moco_v2(v1), head=head)
    normed = Head((16,), 16, norm=True, last_norm=True)
    found = {
        "moco_v1": v1,
        "moco_v2": v2,
        "moco_v2plus": replace(methods.moco_v2plus(v2), head=head),
        "moco_v3": replace(methods.moco_v3(methods.moco_v2plus(v2)), head=normed, predictor=Predictor((16,))),
        "end_to_end": methods.end_to_end(v1),
        "simclr": methods.simclr(v2),
        "supcon": methods.supcon(methods.simclr(v2)),
        "memory_bank": replace(methods.memory_bank(v1), negatives=MemoryBank(100)),
        "supervised": methods.supervised(v2),
        "labels": replace(v1, loss=InfoNCE(0.1, positives="label")),
    }
    found = {name: tiny(config) for name, config in found.items()}
    found["accumulated"] = replace(found["moco_v2"], train=replace(found["moco_v2"].train, accumulate=2))
    return found


class InDoubles(Trainer):
    """In float32 twenty steps of training spread a difference in the last bit over more than 1e-6."""

    def _views(self, batch: Any) -> tuple[Tensor, ...]:
        return tuple(view.double() for view in super()._views(batch))

    def _probe(self, data: Any) -> Tensor:
        return super()._probe(data).double()


@contextmanager
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def trained(config: Config) -> dict[str, Any]:
    """All state and all records after twenty steps."""
    with doubles():
        trainer, records = InDoubles(config, load(config.data, print), CPU), []
        for batch in trainer.batches.epoch(0):
            due = trainer.record_due
            trainer.take_step(batch)
            records += [trainer.record()] if due else []
            if trainer.step == STEPS:
                break
    return {"model": trainer.model.state_dict(), "velocity": _velocity(trainer), "records": records}


def _velocity(trainer: Trainer) -> dict[str, Tensor]:
    return {str(n): s["momentum_buffer"] for n, s in enumerate(trainer.optimiser.state.values())}


def all_trained() -> dict[str, Any]:
    return {name: trained(config) for name, config in tiny_methods().items()}


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("cpu", "two processes", *shape), dtype=torch.float64)


NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "whole of 2-D": (lambda: norm_of_whole(5), (8, 5)),
    "whole without scale": (lambda: norm_of_whole(5, affine=False), (8, 5)),
    "whole of 4-D": (lambda: norm_of_parts(1)(5), (8, 5, 3, 2)),
    "2 parts": (lambda: norm_of_parts(2)(5), (8, 5, 3, 2)),
    "4 parts": (lambda: norm_of_parts(4)(5), (8, 5, 3, 2)),
}


def normalised(name: str) -> dict[str, Tensor]:
    """Output, gradients and running statistics of a BatchNorm after two passes, of the whole batch."""
    make, shape = NORMS[name]
    with doubles():
        norm = make()
    for parameter, value in zip(norm.parameters(), (random(5), random(1, 5)[0]), strict=False):
        parameter.data.copy_(value)
    whole = (3.0 * random(*shape) + 5.0).requires_grad_()
    for _ in range(2):
        out = norm(distributed.own(whole))
        (distributed.gather(out) * random(2, *shape)[0]).sum().backward()
    found = {"out": distributed.gather(out.detach()), "of rows": distributed.add_up_(whole.grad)}
    found |= {f"of {n}": distributed.add_up_(p.grad) for n, p in norm.named_parameters()}
    # What all want of the gathered rows arrives in each process, so the sums above count it P times.
    found = {n: t if n == "out" else t / distributed.size() for n, t in found.items()}
    distributed.average_(local_statistics(norm))
    return found | {n: b.double() for n, b in norm.named_buffers()}


RECIPE = Augment(
    crop_scale=(0.3, 1.0),
    jitter=(0.4, 0.4, 0.2, 0.1),
    jitter_probability=0.8,
    blur=0.5,
    blur_second=0.1,
    solarize_second=0.2,
    rotation=10.0,
    noise=0.05,
)


def views(root: Path, stream: bool, shuffle: bool) -> list[dict[str, Tensor]]:
    """What the loader gives of an epoch: BATCH = 16, shuffled or not, from memory or from files."""
    config = tiny_methods()["moco_v1" if shuffle else "moco_v2plus"]
    data = Data(name="folder", root=str(root), image_size=19, stream=stream)
    config = replace(config, data=data, augment=RECIPE, train=replace(config.train, batch_size=16))
    loader = Batches(load(data, print).pretrain, config, CPU)
    return [
        {
            "rows": torch.arange(16)[b.rows],
            "indices": b.indices_B,
            "labels": b.labels_B,
            "query": b.query_view_B3SS,
            "key": b.key_view_B3SS,
        }
        for b in loader.epoch(1)
    ]


def read_out() -> dict[str, Tensor]:
    """Features of 360 images in batches of 50, neighbours in chunks, and an untrained net's BatchNorm statistics."""
    config = tiny_methods()["moco_v1"]
    data = load(config.data, print)
    trainer = Trainer(config, data, CPU)
    trainer.measure_statistics()
    encoder = trainer.model.query.encoder
    found = {f"statistics.{name}": value for name, value in encoder.named_buffers() if "running" in name}
    encoder.eval()
    features = extract(encoder, data.test.images, config.augment, CPU, batch_size=50)
    bank = Labelled(features[100:], data.test.labels_N[100:])
    votes = knn_scores(bank, features[:100], 10, (5, 20), 0.1)
    return found | {"features": features} | {f"votes of {k}": score for k, score in votes.items()}


def collectives() -> dict[str, Any]:
    """Of rank r: rows r, sums, averages, decisions; and the gradient of what all make of all rows."""
    r = distributed.rank()
    rows = (torch.arange(6.0).view(2, 3) + 10 * r).requires_grad_()
    gathered = distributed.gather(rows)
    (gathered * (r + 1.0) * torch.arange(12.0).view(4, 3)).sum().backward()
    mean, other = torch.tensor([1.0 + r]), torch.tensor(4.0 * r, dtype=torch.float64)
    distributed.average_([mean, other])
    return {
        "gathered": gathered.detach(),
        "gradient": rows.grad,
        "averaged": [mean, other],
        "plain": distributed.gather(torch.tensor([r, r])),
        "sum": distributed.add_up_(torch.tensor([r + 1])),
        "any": [distributed.agree(r == 1), distributed.agree(False)],
        "highest": distributed.highest(3 - r),
        "first": distributed.from_first({"rank": r}),
    }


def kept_readouts(folder: Path) -> dict[str, Any]:
    """What is used of files that both processes see alike, that rank 1 sees as of an earlier save, or does not see."""
    r, used = distributed.rank(), {}
    for name, parts, seconds in (
        ("alike", ["part"], 2.0),
        ("an earlier epoch", ["part"], 2.0 - r),
        ("a part less", ["part", "other"][: 2 - r], 2.0),
        ("no file", ["part"][: 1 - r], 2.0),
    ):
        path = folder / f"{name} {r}.pt"
        if parts:
            checkpoint.save({"of": {"step": 1}, "parts": dict.fromkeys(parts, 1.0), "seconds": seconds}, path)
        progress = Progress(path, lambda: False, {"step": 1})
        used[name] = [progress.parts, progress.seconds]
    return used


def short_run() -> Config:
    """For the worker: three epochs of five steps, a look after each."""
    config = tiny_methods()["moco_v1"]
    evaluation = replace(config.evaluation, knn_every=1, linear_epochs=5, few_label_draws=2)
    return replace(config, train=replace(config.train, epochs=3, batch_size=256), evaluation=evaluation)


def on_the_same_port(number: int) -> None:
    os.environ["MASTER_PORT"] = str(int(os.environ["FIRST_PORT"]) + number)


def stories(folder: Path) -> dict[str, str]:
    """Attempts at the same run in several directories; by name, the state that they came to."""
    runs = {name: RunDirectory(folder / name) for name in ("whole", "stopped", "failing", "killed")}
    peer = folder / "pid"
    if ranks.rank() == 0:
        for run in runs.values():
            create(run, short_run())
    else:
        peer.write_text(str(os.getpid()))
    ended = {}

    def signalled_after_the_first_knn(number: signal.Signals) -> Callable[[Any], None]:
        left = [number]
        return lambda status: os.kill(int(peer.read_text()), left.pop()) if status.get("knn") and left else None

    with distributed.group("cpu"):  # nobody goes on before the directories are there
        distributed.agree(True)
    on_the_same_port(2)
    ended["whole"] = attempt(runs["whole"].path)
    on_the_same_port(3)
    ended["stopped"] = attempt(runs["stopped"].path, on_status=signalled_after_the_first_knn(signal.SIGUSR2))
    on_the_same_port(4)
    ended["resumed"] = attempt(runs["stopped"].path)
    on_the_same_port(5)
    ended["done"] = attempt(runs["stopped"].path)
    on_the_same_port(6)
    with broken_disk_of_rank_1():
        try:
            ended["failing"] = attempt(runs["failing"].path)
        except OSError as error:
            ended["failing"] = str(error)
    if ranks.rank():
        torch.save(ended, folder / "stories of 1.pt")
    torch.distributed.destroy_process_group()  # an attempt that failed has left it as it was
    on_the_same_port(7)
    ended["killed"] = attempt(runs["killed"].path, on_status=signalled_after_the_first_knn(signal.SIGKILL))
    return ended


@contextmanager
def broken_disk_of_rank_1() -> Iterator[None]:
    import moco.train

    def broken(*arguments: object) -> object:
        raise OSError("the disk of this node is broken")

    whole = moco.train.load
    moco.train.load = broken if ranks.rank() == 1 else whole
    try:
        yield
    finally:
        moco.train.load = whole


def main(folder: Path) -> None:
    on_the_same_port(0)
    with distributed.group("cpu"):
        found = {
            "collectives": collectives(),
            "kept readouts": kept_readouts(folder),
            "norms": {name: normalised(name) for name in NORMS},
            "views": {(s, m): views(folder / "images", s, m) for s in (False, True) for m in (False, True)},
            "readouts": read_out(),
            "trained": all_trained(),
        }
    on_the_same_port(1)
    torch.save(found, folder / f"{ranks.rank()}.pt")
    torch.save(stories(folder), folder / f"stories of {ranks.rank()}.pt")


def started(folder: Path) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        first = 20_000 + free.getsockname()[1] % 10_000
    common = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "FIRST_PORT": str(first),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.support.two_processes", str(folder)]
    return [subprocess.Popen(command, env={**common, "RANK": r, "LOCAL_RANK": r}) for r in ("0", "1")]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
