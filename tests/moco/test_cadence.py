"""The figures about the queue are looked at inside the epoch. Oracles: a queue simulated in plain numpy; a closed form."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.plan.baselines import digits
from experiments.plan.registry import baseline_config, baselines
from moco.config import Queue, Train
from moco.data.catalog import training_images
from moco.diagnostics import queue_due, snapshot_due
from moco.train import Record, train

WITH_A_QUEUE = [name for name, make in baselines().items() if name != "folder" and isinstance(make().negatives, Queue)]


def own_image(images: int, batch: int, keys: int, log_every: int) -> list[float]:
    """Percent at twenty looks from the second epoch on."""
    rng = np.random.default_rng(0)
    per_epoch = images // batch
    epochs = 2 + log_every * 20 // per_epoch
    order = np.concatenate([rng.permutation(images)[: per_epoch * batch] for _ in range(epochs)]).reshape(-1, batch)
    looks = []
    for step in range(per_epoch, min(len(order), per_epoch + log_every * 20)):
        if queue_due(step, log_every):
            held = order[max(0, step - keys // batch) : step].ravel()
            looks.append(100 * np.isin(order[step], held).mean())
    return looks


@pytest.mark.parametrize("name", WITH_A_QUEUE)
def test_own_image_and_drift_live_in_every_baseline(name: str) -> None:
    config = baseline_config(name)
    batch, log_every = config.train.batch_size, config.train.log_every
    keys = config.part(Queue).size
    images = training_images(config.data)
    looks = own_image(images, batch, keys, log_every)
    assert max(looks) > 0
    turnover = -(-keys // batch)
    for record in range(2 * log_every, 20 * log_every, log_every):
        kept = [s for s in range(1, record) if s % log_every == 0 or snapshot_due(s, log_every, turnover)]
        assert any(record - turnover <= s < record for s in kept)
        if turnover < log_every:
            assert record - turnover in kept


def test_at_the_end_of_each_epoch_the_queue_of_the_digits_holds_no_image_of_the_batch() -> None:
    """Why it is not looked at there: 1,293 images, batches of 128, 1,024 keys, a record every ten steps."""
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(1293)[:1280] for _ in range(6)]).reshape(-1, 128)
    assert all(not np.isin(order[step], order[step - 8 : step]).any() for step in range(9, 60, 10))


@pytest.mark.parametrize("log_every", [1, 2, 7, 10, 50])
def test_there_is_one_look_in_each_interval_and_places_are_visited_evenly(log_every: int) -> None:
    looks = [step for step in range(200 * log_every) if queue_due(step, log_every)]
    assert [step // log_every for step in looks] == list(range(200))
    visits = Counter(step % log_every for step in looks)
    assert max(visits.values()) - min(visits.values()) <= 4
    assert len(visits) == log_every


def test_a_run_on_the_digits_has_them(tmp_path: Path) -> None:
    config = replace(digits(), train=Train(epochs=4, batch_size=128, device="cpu"))
    config = replace(config, evaluation=replace(config.evaluation, knn_every=0, linear_epochs=1, few_label_draws=1))
    records = [item for item in train(config, tmp_path) if isinstance(item, Record) and "queue/age" in item.values]
    assert [record.step for record in records] == [10, 20, 30, 40]
    own = [record.values["queue/own_image"] for record in records]
    assert max(own) > 0
    assert all("queue/key_drift" in record.values for record in records)
    assert all(0 < record.values["queue/key_drift"] < 2 for record in records)
