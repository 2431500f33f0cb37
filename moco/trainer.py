"""One step of a method, and the state that a checkpoint keeps. B batch, C embedding, S side, P probe images."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from moco import diagnostics, distributed
from moco.augment import normalise
from moco.batchnorm import local_statistics, measure_statistics, share_statistics
from moco.config import Config, Queue, Train, check_processes
from moco.config.plain import run_id
from moco.config.training import Speed
from moco.data.ahead import MAKING
from moco.data.loader import Batch, Batches
from moco.data.splits import ImageData
from moco.distributed import size
from moco.errors import Diverged, FieldError, GpuOutOfMemory
from moco.model import Direction, Method, Outcome, build
from moco.negatives import KeyQueue, Sample
from moco.optim import build_optimiser, scaled_lr, set_rates
from moco.schedule import learning_rate, weight_decay_at
from moco.speed import asked, compilers, decide

LOGGER = logging.getLogger("moco")

# How fast (`moco.speed`): compiled encoders and what must stay out of them; what torch is told about a GPU.


def compile_encoders(model: Method, device: torch.device, train: Train, speed: Speed) -> None:
    """For the batches of the steps, whose shape never changes; `uncompiled` is for all others. Raises ValueError."""
    parts, processes = train.accumulate, size()
    if parts > 1:  # each part has a momentum of its own for BatchNorm (`share_statistics`): a graph each
        raise ValueError(
            f"train.speed = {speed} and train.accumulate = {parts}: compiling needs whole batches; "
            "set train.speed=eager or train.accumulate=1"
        )
    names, package = compilers(device.type)
    if not any(shutil.which(name) for name in names):
        raise ValueError(
            f"train.speed = {speed}: needs a compiler on this machine ({' or '.join(names)}); install {package} or set "
            "train.speed=eager"
        )
    if speed == "graphs" and processes > 1:  # DistributedDataParallel would keep gradients that a replay overwrites
        raise ValueError(
            f"train.speed = graphs and {processes} processes: graphs are for one; set train.speed=compiled"
        )
    for encoder in {model.query.encoder, getattr(model.key, "encoder", model.query.encoder)}:
        # A graph is replayed on a GPU alone; on a CPU both modes make the same code.
        encoder.compile(dynamic=False, mode="reduce-overhead" if speed == "graphs" else None)


def settled(config: Config, images: int) -> Config:
    """The config with `auto` decided for this machine, for a training split of that many images. The reason is logged."""
    train = config.train
    if train.device != "auto" and asked(train) != "auto":
        return config
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    way = decide([config], [train.epochs * (images // train.batch_size)], gpus=gpus, processes=size())
    if gpus:
        LOGGER.info("%s", way.line)
    return way.of(config)


def tell_torch(train: Train, device: torch.device) -> str:
    """Set what torch's GPU kernels may do, for this process from now on; returns it in words, empty for a CPU.

    cuDNN takes the algorithms that it knows to be fast for a shape; it does not try them out (`benchmark`), because what it
    finds then depends on the moment. TF32 is torch's default: in convolutions, not in products. `deterministic` leaves out
    the algorithms that add up in an order of their own: the digits' 60 steps repeat bit for bit then (analysis/LOG.md).
    """
    if device.type == "cpu":
        return (
            "train.deterministic = True: changes nothing, a CPU repeats bit for bit anyway"
            if train.deterministic
            else ""
        )
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    cudnn = torch.backends.cudnn
    cudnn.benchmark, cudnn.deterministic = False, train.deterministic
    torch.use_deterministic_algorithms(train.deterministic, warn_only=True)  # what has no such way names itself
    facts = {
        "TF32 in convolutions": cudnn.allow_tf32,
        "in products": torch.backends.cuda.matmul.allow_tf32,
        "cudnn.benchmark": cudnn.benchmark,
        "deterministic": train.deterministic,
    }
    return ", ".join(f"{name} {'on' if value else 'off'}" for name, value in facts.items())


@contextmanager
def naming_what_is_too_large(config: Config, step: int) -> Iterator[None]:
    """In place of torch's error for a full GPU one line with the fields to turn: GpuOutOfMemory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise GpuOutOfMemory(f"GPU out of memory at step {step}: {too_large(config)}") from error


def too_large(config: Config) -> str:
    """What takes the memory, and what of it can be turned; first what leaves the result as it is."""
    train, remedies = config.train, list[str]()
    with suppress(ValueError):
        parts = 2 * train.accumulate
        replace(config, train=replace(train, accumulate=parts))  # not every method can be cut
        slow = "" if asked(train) in ("eager", "auto") else " train.speed=eager"
        remedies.append(f"train.accumulate={parts}{slow} (the same result)")
    if train.precision == "fp32":
        remedies.append("train.precision=bf16")
    remedies.append(f"train.batch_size={train.batch_size // 2} (another recipe)")
    return (
        f"train.batch_size = {train.batch_size} at data.image_size = {config.data.image_size} with train.precision = "
        f"{train.precision} does not fit; set {', or '.join(remedies)}, or give the run a GPU of its own"
    )


@contextmanager
def uncompiled() -> Iterator[None]:
    """Readouts and probes come in shapes of their own: compiling for each would cost more than they do.

    Of all threads: none makes a batch meanwhile, whose compiled views would come out eager, and differ in their last digits.
    """
    with MAKING, torch.compiler.set_stance("force_eager"):
        yield


PROBE_IMAGES = 64  # whose keys are followed to see how fast the key encoder moves
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Raises ValueError for a name that is none, for a GPU that is not there, and for `auto` where this process was given a
    GPU that torch does not see: nobody waits a week for a CPU unknowingly."""
    name = distributed.local_device(name)
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise FieldError("train.device", name, "must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not 0 <= (device.index or 0) < gpus:  # torch keeps 8 bits: 999 arrives as -25
        raise FieldError("train.device", name, f"torch sees {gpus} CUDA GPUs here; choose cpu, or another N")
    if name == "auto" and not gpus and re.match(r"\d|GPU-|MIG-", given):
        raise FieldError(
            "train.device",
            name,
            f"CUDA_VISIBLE_DEVICES = {given} gives this process a GPU, but torch {torch.__version__} sees none; mend the "
            "driver or install torch with CUDA, or set train.device=cpu",
        )
    return device


def parallel(model: nn.Module) -> nn.Module:
    """The model itself; over several processes, so that a backward pass leaves the mean of their gradients in all of them."""
    if distributed.size() == 1:
        return model
    distributed.begin_alike(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for `broadcast_buffers`
        return DistributedDataParallel(model, broadcast_buffers=False)


class Trainer:
    """Model, optimiser and counters of a run. `step` is the number of steps done.

    Of a run's several processes each has one. They hold the same weights, negatives and numbers after every step, so any of
    them can write the checkpoint; rank 0 does.
    """

    def __init__(self, config: Config, data: ImageData, device: torch.device, speed: Speed | None = None) -> None:
        check_processes(config, distributed.size())
        self.config, self.device, self.step, self.seconds = config, device, 0, 0.0
        speed = asked(config.train) if speed is None else speed
        self.compiled, self.replayed = speed in ("compiled", "graphs"), speed == "graphs"
        if settings := tell_torch(config.train, device):
            LOGGER.info("%s", settings)
        self.memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
        with naming_what_is_too_large(config, 0):
            self.model = build(config, len(data.pretrain), len(data.classes)).to(device)
            self.model.to(memory_format=self.memory_format)
        if self.compiled:
            compile_encoders(self.model, device, config.train, speed)
        self.parallel = parallel(self.model)
        self.optimiser = build_optimiser(config.optim, self.model.named_parameters())
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
        views = 2 if config.both_views else 1
        self.batches = Batches(data.pretrain, config, device, views=views, compiled=self.compiled)
        self.total_steps = config.train.epochs * self.batches.steps_per_epoch
        self.meter = diagnostics.Meter()
        self.drift = diagnostics.KeyDrift(self._turnover())
        self._probe_P3SS = self._probe(data)
        self._last: Direction | None = None
        self._queue_figures: dict[str, float] = {}

    def _turnover(self) -> int:
        """Steps in which a queue is renewed; an epoch without a queue."""
        negatives = self.config.negatives
        if isinstance(negatives, Queue):
            return -(-negatives.size // (self.config.train.batch_size * (2 if negatives.shared else 1)))
        return self.batches.steps_per_epoch

    def _probe(self, data: ImageData) -> Tensor:
        first_P = torch.arange(min(PROBE_IMAGES, len(data.pretrain)))
        images = normalise(data.pretrain.images.take(first_P).to(self.device), self.config.augment)
        return images.contiguous(memory_format=self.memory_format)

    @property
    def epoch(self) -> int:
        return self.step // self.batches.steps_per_epoch

    @property
    def record_due(self) -> bool:
        """Asked inside a step: does a record follow it?"""
        return (self.step + 1) % self.config.train.log_every == 0 or self.step + 1 == self.total_steps

    def autocast(self) -> torch.autocast:
        precision = self.config.train.precision
        return torch.autocast(self.device.type, AUTOCAST.get(precision, torch.bfloat16), enabled=precision != "fp32")

    def take_step(self, batch: Batch) -> None:
        """Algorithm 1 of v1, in the order of the authors' code: the key encoder moves first, the queue last.

        Raises GpuOutOfMemory with the fields to turn.
        """
        with naming_what_is_too_large(self.config, self.step):
            self._take_step(batch)

    def _take_step(self, batch: Batch) -> None:
        model, views = self.model, self._views(batch)
        if self.replayed:
            torch.compiler.cudagraph_mark_step_begin()  # outputs of the last step may be overwritten
        set_rates(self.optimiser, self.learning_rate(), self.weight_decay())
        model.begin(self.step, self.total_steps)
        own_B = torch.arange(batch.rows.start, batch.rows.stop, device=self.device)
        sample = Sample(self.step, batch.indices_B, batch.labels_B, own_B)
        with self.autocast():
            keys = model.keys(views, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        outcomes = [self._part(number, views, keys, sample) for number in range(self.config.train.accumulate)]
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self._note(outcomes, batch)
        distributed.average_(local_statistics(model))
        model.end(outcomes, keys, sample)
        self.step += 1
        if diagnostics.snapshot_due(self.step, self.config.train.log_every, self.drift.turnover):
            self.drift.keep(self.step, self._probe_keys())

    def _views(self, batch: Batch) -> tuple[Tensor, ...]:
        views = (batch.query_view_B3SS, batch.key_view_B3SS)
        return tuple(view.contiguous(memory_format=self.memory_format) for view in views if view is not None)

    def _part(self, number: int, views: tuple[Tensor, ...], keys: tuple[Tensor, ...], sample: Sample) -> Outcome:
        """Forward and backward of one of the `accumulate` parts of the batch; their gradients add up."""
        parts = self.config.train.accumulate
        size = len(views[0]) // parts
        first = number * size
        if parts > 1:
            share_statistics(self.model.query, number, parts)
        rows = tuple(view[first : first + size] for view in views)
        with self._gradients_stay_here(number < parts - 1):
            with self.autocast():
                outcome: Outcome = self.parallel(rows, keys, sample.first_to_last(first, first + size))
            self.scaler.scale(outcome.loss / parts).backward()
        return outcome

    def _gradients_stay_here(self, yes: bool) -> AbstractContextManager[None]:
        """Several processes average their gradients once per step, after the last part."""
        return self.parallel.no_sync() if yes and isinstance(self.parallel, DistributedDataParallel) else nullcontext()

    @torch.no_grad()
    def _note(self, outcomes: list[Outcome], batch: Batch) -> None:
        """For the next record, before the negatives move on. Waits for the device once in a record, for the queue."""
        for outcome in outcomes:
            self.meter.add(outcome.loss.detach(), outcome.directions[0].detached(), cosines=self.model.cosines)
        self._last = outcomes[-1].directions[0].detached()
        source = next((m for m in self.model.modules() if isinstance(m, KeyQueue)), None)
        due = diagnostics.queue_due(self.step, self.config.train.log_every)
        if source is not None and (due or (self.record_due and not self._queue_figures)):
            self._queue_figures = diagnostics.queue_figures(source, batch.indices_B, self.step)

    def learning_rate(self) -> float:
        optim, train = self.config.optim, self.config.train
        base = scaled_lr(optim, train.batch_size)
        return learning_rate(optim.schedule, base, self.step, self.batches.steps_per_epoch, train.epochs)

    def weight_decay(self) -> float:
        return weight_decay_at(self.config.optim, self.step, self.total_steps)

    def record(self) -> dict[str, float]:
        """Everything about the steps since the last record; the one place that waits for the device."""
        assert self._last is not None
        values = self.meter.read(self.model.chance)
        if not math.isfinite(values["train/loss"]):
            raise Diverged(self.step, values["train/loss"])
        values["train/lr"] = float(self.optimiser.param_groups[0]["lr"])
        if self.model.cosines:
            values |= self._features(self._last)
        figures, self._queue_figures = self._queue_figures, {}
        return values | figures | self.drift.read(self.step, self._probe_keys())

    def _features(self, last: Direction) -> dict[str, float]:
        queries_MC = distributed.gather(last.queries_BC)
        return {
            "features/std": diagnostics.spread(queries_MC),
            "features/rank": diagnostics.effective_rank(queries_MC),
            "features/alignment": diagnostics.alignment(last.scores_BN, last.is_positive_BN),
            "features/uniformity": diagnostics.uniformity(queries_MC),
        }

    @torch.no_grad()
    def _probe_keys(self) -> Tensor:
        self.model.key.eval()
        with uncompiled():
            keys_PC: Tensor = self.model.key(self._probe_P3SS.to(next(self.model.key.parameters()).dtype))
        self.model.key.train()
        return keys_PC

    @torch.no_grad()
    def measure_statistics(self) -> None:
        """BatchNorm statistics of untrained weights, from unaugmented training images: the random-initialisation row."""
        images, size = self.batches.images, self.config.train.batch_size
        rows = torch.arange(min(len(images), 16 * size)).split(size)
        whole = [r for r in rows if len(r) == size] or [rows[0]]
        views = [normalise(images.take(r[self.batches.rows]).to(self.device), self.config.augment) for r in whole]
        with uncompiled():
            measure_statistics(self.model.query.encoder, views)
        distributed.average_(local_statistics(self.model.query.encoder))

    def state_dict(self) -> dict[str, Any]:
        return {
            "run_id": run_id(self.config),
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "meter": self.meter.state_dict(),
            "snapshots": self.drift.snapshots,
            "queue_figures": self._queue_figures,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["run_id"] != run_id(self.config):
            raise ValueError(f"the checkpoint is of run {state['run_id']}, this run is {run_id(self.config)}")
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.meter.load_state_dict(state["meter"])
        self.drift.snapshots = [(step, keys) for step, keys in state["snapshots"]]
        self._queue_figures = dict(state.get("queue_figures", {}))  # absent in checkpoints of earlier versions
