"""One step of momentum contrast, and the state that a checkpoint keeps. B batch, C embedding, S side, P probe images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moco import checkpoint, diagnostics
from moco.augment import normalise
from moco.batchnorm import measure_statistics
from moco.config import Config
from moco.data.images import ImageData
from moco.data.loader import Batch, Batches
from moco.identity import run_id
from moco.losses import info_nce
from moco.model import MoCo
from moco.optim import build_optimiser, set_learning_rate
from moco.schedule import learning_rate

PROBE_IMAGES = 64  # whose keys are followed to see how fast the key encoder moves
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Diverged(ArithmeticError):
    """The loss is not finite any more."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"diverged: the loss is {loss} at step {step}; lower optim.lr or raise loss.temperature")
        self.step = step


def choose_device(name: str) -> torch.device:
    try:
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise ValueError(f"train.device = {name}: must be auto, cpu, cuda or cuda:N") from None


class Trainer:
    """Model, optimiser and counters of a run. `step` is the number of steps done."""

    def __init__(self, config: Config, data: ImageData, device: torch.device) -> None:
        self.config, self.device, self.step, self.seconds = config, device, 0, 0.0
        self.memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
        self.model = MoCo(config).to(device)
        self.model.query.to(memory_format=self.memory_format)
        self.model.key.to(memory_format=self.memory_format)
        self.optimiser = build_optimiser(config.optim, self.model.query.parameters())
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
        self.batches = Batches(data.pretrain, config, device)
        self.total_steps = config.train.epochs * self.batches.steps_per_epoch
        self.meter = diagnostics.Meter()
        self.drift = diagnostics.KeyDrift(turnover=-(-config.negatives.size // config.train.batch_size))
        self._probe_P3SS = self._probe(data)
        self._last: tuple[Tensor, Tensor] | None = None
        self._queue_figures: dict[str, float] = {}

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
        """Algorithm 1 of v1, in the order of the authors' code: the key encoder moves first, the queue last."""
        model = self.model
        query_view = batch.query_view_B3SS.contiguous(memory_format=self.memory_format)
        key_view = batch.key_view_B3SS.contiguous(memory_format=self.memory_format)
        set_learning_rate(self.optimiser, self.learning_rate())
        model.update_key_encoder()
        with self.autocast():
            queries_BC = model.query(query_view)
            keys_BC = model.embed_keys(key_view, self.step)
        scores_BN, is_positive_BN = model.queue.scores(queries_BC, keys_BC)
        loss = info_nce(scores_BN, is_positive_BN, self.config.loss.temperature)
        self._descend(loss)
        self.meter.add(loss, scores_BN.detach(), is_positive_BN)
        if self.record_due:
            self._queue_figures = diagnostics.queue_figures(model.queue, batch.indices_B, self.step)
        self._last = queries_BC.detach(), keys_BC
        model.queue.update(keys_BC, batch.indices_B, self.step)
        self.step += 1

    def _descend(self, loss: Tensor) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def learning_rate(self) -> float:
        optim, train = self.config.optim, self.config.train
        return learning_rate(optim.schedule, optim.lr, self.step, self.batches.steps_per_epoch, train.epochs)

    def record(self) -> dict[str, float]:
        """Everything about the steps since the last record; the one place that waits for the device."""
        assert self._last is not None
        queries_BC, keys_BC = self._last
        values = self.meter.read(self.model.queue.candidates)
        if not torch.isfinite(torch.tensor(values["train/loss"])):
            raise Diverged(self.step, values["train/loss"])
        values |= {
            "train/lr": float(self.optimiser.param_groups[0]["lr"]),
            "features/std": diagnostics.spread(queries_BC),
            "features/rank": diagnostics.effective_rank(queries_BC),
            "features/alignment": diagnostics.alignment(queries_BC, keys_BC),
            "features/uniformity": diagnostics.uniformity(queries_BC),
        }
        return values | self._queue_figures | self.drift.read(self.step, self._probe_keys())

    @torch.no_grad()
    def _probe_keys(self) -> Tensor:
        self.model.key.eval()
        keys_PC: Tensor = self.model.key(self._probe_P3SS)
        self.model.key.train()
        return keys_PC

    @torch.no_grad()
    def measure_statistics(self) -> None:
        """BatchNorm statistics of untrained weights, from unaugmented training images: the random-initialisation row."""
        images, size = self.batches.images, self.config.train.batch_size
        rows = torch.arange(min(len(images), 16 * size)).split(size)
        whole = [r for r in rows if len(r) == size] or [rows[0]]
        views = [normalise(images.take(r).to(self.device), self.config.augment) for r in whole]
        measure_statistics(self.model.query.encoder, views)

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

    def save(self, path: Path) -> None:
        checkpoint.save(self.state_dict(), path)
