"""Cheap numbers on the health of a run, kept on the device and read only when a record is due.

B queries, C embedding, N candidates, P probe images, K queue.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from moco.distributed import averaged
from moco.model import Direction
from moco.negatives import KeyQueue

MOST_QUERIES = 512  # that the pairwise figures look at


class Meter:
    """Sums over the steps since the last record; part of the checkpoint, so that a resumed record is the same record."""

    def __init__(self) -> None:
        self.steps = 0
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, loss: Tensor, direction: Direction, *, cosines: bool = True) -> None:
        """Only `cosines` have a mean worth looking at; logits of classes do not. Of several processes their mean counts."""
        scores_BN, is_positive_BN = direction.scores_BN, direction.is_positive_BN
        hit_B1 = is_positive_BN.gather(1, scores_BN.argmax(1, keepdim=True))
        values = {"loss": loss, "contrast_top1": 100.0 * hit_B1.float().mean()}
        if cosines:
            values["positive"], values["positives"] = positives_of(scores_BN, is_positive_BN)
            values["all"] = scores_BN.sum()
        self.steps += 1
        # Now and not when a record is due: the sums of a checkpoint must not depend on when it was written.
        values = dict(zip(values, averaged(list(values.values())), strict=True))
        if cosines:
            total, count = values["positive"], values.pop("positives")
            values["negative"] = (values.pop("all") - total) / (scores_BN.numel() - count)
            values["positive"] = total / count
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def read(self, chance: float) -> dict[str, float]:
        """Means, and a fresh start. `chance` is the loss of learning nothing."""
        means = {name: float(total) / self.steps for name, total in self.sums.items()}
        self.steps, self.sums = 0, {}
        values = {
            "train/loss": means["loss"],
            "train/loss_over_chance": means["loss"] / chance,
            "train/contrast_top1": means["contrast_top1"],
        }
        if "positive" in means:
            values |= {"train/positive": means["positive"], "train/gap": means["positive"] - means["negative"]}
        return values

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.sums = state["steps"], state["sums"]


def spread(queries_BC: Tensor) -> float:
    """Mean over dimensions of the standard deviation x sqrt(C): about 1 when spread evenly, 0 collapsed (SimSiam, fig. 2)."""
    return float(queries_BC.std(0).mean()) * math.sqrt(queries_BC.shape[1])


def effective_rank(queries_BC: Tensor) -> float:
    """exp of the entropy of the singular values' shares (Roy and Vetterli 2007; RankMe, eq. 2): from 1 to min(B, C)."""
    singular = torch.linalg.svdvals(queries_BC.float())
    share = singular / singular.sum().clamp_min(torch.finfo(torch.float32).tiny)
    return float(torch.special.entr(share).sum().exp())


def alignment(scores_BN: Tensor, is_positive_BN: Tensor) -> float:
    """E |q - k|^2 = 2 - 2 E cos over positive pairs (Wang and Isola, section 4.1.1, alpha = 2), of all processes."""
    total, count = averaged(positives_of(scores_BN, is_positive_BN))
    return 2.0 - 2.0 * float(total / count)


def positives_of(scores_BN: Tensor, is_positive_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the positives' scores, and how many there are."""
    return torch.where(is_positive_BN, scores_BN, 0.0).sum(), is_positive_BN.sum().to(scores_BN.dtype)


def uniformity(queries_BC: Tensor) -> float:
    """log E exp(-2 |x - y|^2) over different images (Wang and Isola, section 4.1.2, t = 2): 0 collapsed, lower better."""
    squared = torch.pdist(queries_BC[:MOST_QUERIES].float()).square()
    return float(squared.mul(-2.0).exp().mean().log())


# When the queue is looked at. A record every ten steps may fall on the last step of each epoch, where a queue shorter than
# an epoch never holds an image of the batch: the figure would be 0 for the whole run.

GOLDEN = (math.sqrt(5) - 1) / 2


def queue_due(step: int, log_every: int) -> bool:
    """At one step between two records, each time another place (the golden ratio's multiples fill the range evenly)."""
    window = step // log_every
    return step % log_every == int(log_every * ((window + 1) * GOLDEN % 1))


def snapshot_due(steps_done: int, log_every: int, turnover: int) -> bool:
    """Whether the keys after that many steps are what the next record compares its own with: one turnover earlier.

    Not if records follow each other within a turnover: then the record before serves.
    """
    return turnover < log_every and (steps_done + turnover) % log_every == 0


def queue_figures(queue: KeyQueue, images_B: Tensor, step: int) -> dict[str, float]:
    """Mean age of the real keys in steps, and percent of queries whose own image waits in the queue as a negative.

    `step` is that of the last enqueued batch; `images_B` are the images of the next one. Absent while no key is real.
    """
    real_K = queue.arrivals_K >= 0
    if not real_K.any():
        return {}
    ages_K = torch.where(real_K, step - queue.arrivals_K, 0).float()
    own_B = torch.isin(images_B, queue.images_K)
    return {
        "queue/age": float(ages_K.sum() / real_K.sum()),
        "queue/own_image": 100.0 * float(own_B.float().mean()),
    }


class KeyDrift:
    """How far the keys of fixed images have moved in one turnover of the queue: 1 - cosine, 0 is consistent keys.

    Looks back to the oldest snapshot that is not older than `turnover` steps, so early figures cover less.
    """

    def __init__(self, turnover: int) -> None:
        self.turnover = turnover
        self.snapshots: list[tuple[int, Tensor]] = []

    def keep(self, step: int, keys_PC: Tensor) -> None:
        """Keys that a later record looks back to."""
        self.snapshots.append((step, keys_PC))

    def read(self, step: int, keys_PC: Tensor) -> dict[str, float]:
        self.snapshots = [(s, k) for s, k in self.snapshots if step - s <= self.turnover]
        self.snapshots.append((step, keys_PC))
        if len(self.snapshots) == 1:
            return {}
        return {"queue/key_drift": 1.0 - float((self.snapshots[0][1] * keys_PC).sum(1).mean())}
