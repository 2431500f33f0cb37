"""`train.compile`: the encoders of the steps by `torch.compile`, and what must stay out of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from moco.config import Train
from moco.data.ahead import MAKING
from moco.distributed import size
from moco.model import Method


def compile_encoders(model: Method, device: torch.device, train: Train) -> None:
    """For the batches of the steps, whose shape never changes; `uncompiled` is for all others. Raises ValueError."""
    parts, processes = train.accumulate, size()
    if parts > 1:  # each part has a momentum of its own for BatchNorm (`share_statistics`): a graph each
        raise ValueError(
            f"train.compile = True and train.accumulate = {parts}: compiling needs whole batches; drop one"
        )
    names, package = compilers(device)
    if not any(shutil.which(name) for name in names):
        raise ValueError(
            f"train.compile = True: needs a compiler on this machine ({' or '.join(names)}); install {package} or set it "
            "to false"
        )
    if train.cuda_graphs and processes > 1:  # DistributedDataParallel would keep gradients that a replay overwrites
        raise ValueError(f"train.cuda_graphs = True and {processes} processes: graphs are for one; set it to false")
    for encoder in {model.query.encoder, getattr(model.key, "encoder", model.query.encoder)}:
        # A graph is replayed on a GPU alone; on a CPU both modes make the same code.
        encoder.compile(dynamic=False, mode="reduce-overhead" if train.cuda_graphs else None)


def compilers(device: torch.device) -> tuple[list[str], str]:
    """Commands that torch.compile tries there, and what to install: C++ for its loops on a CPU, C for Triton's launchers."""
    if device.type == "cpu":
        usual = "clang++" if sys.platform == "darwin" else "g++"
        return [*os.environ.get("CXX", usual).split()[:1]], usual
    return [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"], "gcc"


@contextmanager
def uncompiled() -> Iterator[None]:
    """Readouts and probes come in shapes of their own: compiling for each would cost more than they do.

    Of all threads: none makes a batch meanwhile, whose compiled views would come out eager, and differ in their last digits.
    """
    with MAKING, torch.compiler.set_stance("force_eager"):
        yield
