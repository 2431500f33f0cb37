"""Values from sweep code are those of `--set`. Oracle: the config that `--set` makes of the same value as text."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.plan.baselines import digits
from experiments.plan.manifest import write_manifest
from experiments.plan.overrides import apply
from experiments.plan.sweep import Plan, Sweep, plan
from experiments.plan.typed import typed
from experiments.store.manifests import read_manifest
from moco.config import SGD, Augment, Config, Head, InfoNCE, Momentum, Queue, ResNet, Step
from moco.config.plain import run_id, to_plain


def of(**groups: Any) -> Config:
    return replace(digits(), **groups)


OPTIM = digits().part(SGD)
AS_SET: list[tuple[Any, list[str]]] = [
    (lambda: of(negatives=Queue(np.int64(256))), ["negatives.size=256"]),
    (lambda: of(negatives=Queue("1k")), ["negatives.size=1k"]),
    (lambda: of(negatives=Queue(1e2)), ["negatives.size=1e2"]),
    (lambda: of(optim=replace(OPTIM, lr=np.float64(0.1))), ["optim.lr=0.1"]),
    (lambda: of(optim=replace(OPTIM, lr=np.float32(0.1))), ["optim.lr=0.1"]),
    (lambda: of(optim=replace(OPTIM, lr=np.array(0.1))), ["optim.lr=0.1"]),
    (lambda: of(optim=replace(OPTIM, lr="3e-2")), ["optim.lr=3e-2"]),
    (lambda: of(optim=replace(OPTIM, lr=Fraction(1, 4))), ["optim.lr=0.25"]),
    (lambda: of(optim=replace(OPTIM, lr=torch.tensor(0.25))), ["optim.lr=0.25"]),
    (lambda: of(optim=replace(OPTIM, lr=1)), ["optim.lr=1"]),
    (lambda: of(optim=replace(OPTIM, weight_decay=-0.0)), ["optim.weight_decay=0"]),
    (
        lambda: of(optim=replace(OPTIM, schedule=Step([3, np.int32(5)]))),
        ["optim.schedule=step", "optim.schedule.milestones=3,5"],
    ),
    (lambda: of(head=Head([64, 32], 16)), ["head.hidden=64,32", "head.dim=16", "head.norm=false"]),
    (lambda: of(head=Head(np.array([64]), 16)), ["head.hidden=64", "head.dim=16"]),
    (lambda: of(head=Head("(0,)", 16)), ["head.hidden=(0,)", "head.dim=16"]),
    (lambda: of(augment=replace(digits().augment, crop_scale=[np.float32(0.2), 1])), ["augment.crop_scale=0.2,1"]),
    (lambda: of(augment=replace(digits().augment, grey_first=np.bool_(False))), ["augment.grey_first=false"]),
    (lambda: of(key_encoder=Momentum("0.99", "none", True)), ["key_encoder.momentum=0.99", "key_encoder.ramp_to=none"]),
    (
        lambda: of(encoder=ResNet(np.int64(18), "small", batch_norm_splits=8)),
        ["encoder.depth=18", "encoder.stem=small", "encoder.width=64"],
    ),
]


@pytest.mark.parametrize(("written", "texts"), AS_SET)
def test_a_value_of_code_is_the_value_of_its_text(written: Any, texts: list[str]) -> None:
    made, wanted = typed(written()), typed(apply(digits(), texts))
    assert made == wanted
    assert run_id(made) == run_id(wanted)
    assert repr(made) == repr(wanted)  # of Python's own types
    json.dumps(to_plain(made))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (lambda: Queue("many"), r"queue.size=many: must be a whole number, such as 1024, 65_536 or 64k"),
        (lambda: Queue(np.float64(1.5)), r"queue.size=1.5: must be a whole number, such as 1024, 65_536 or 64k"),
        (lambda: Queue(True), r"queue.size=True: must be a whole number, such as 1024, 65_536 or 64k"),
        (lambda: SGD(lr=None), r"sgd.lr=None: must be a number, such as 0.03 or 3e-2"),
        (lambda: SGD(lr=np.array([0.1, 0.2])), r"sgd.lr=\[0.1 0.2\]: must be a number, such as 0.03 or 3e-2"),
        (lambda: InfoNCE(positives="mine"), r"infonce.positives=mine: must be one of own, label"),
        (
            lambda: Augment(crop_scale=[0.1, 0.2, 0.3]),
            r"augment.crop_scale=\[0.1, 0.2, 0.3\]: must be 2 values separated by commas, as 0,0",
        ),
        (lambda: Queue("0"), "negatives.size = 0: the queue must hold at least 1 key"),
    ],
)
def test_what_a_field_cannot_be_is_refused_in_one_line(written: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        written()


def rates(*lrs: Any) -> Plan:
    sweep = Sweep(
        name="s",
        question="?",
        claim="!",
        varies=("optim.lr",),
        axis="optim.lr",
        baseline="a",
        arms=lambda base: {
            name: replace(base, optim=replace(base.part(SGD), lr=lr)) for name, lr in zip("abc", lrs, strict=False)
        },
    )
    return plan(sweep, digits(), base_name="digits", preset=digits(), seeds=2)


def test_a_sweep_over_a_numpy_range_is_planned_and_read_back(tmp_path: Path) -> None:
    made = write_manifest(tmp_path, rates(*np.array([0.25, 1.0], dtype=np.float32)), "x")
    assert made["axis_values"] == {"a": 0.25, "b": 1.0}
    assert read_manifest(tmp_path, "s@digits") == made
    assert [cell.run_id for cell in rates("0.25", "1").cells()] == [
        cell.run_id for cell in rates(*np.array([0.25, 1.0], dtype=np.float32)).cells()
    ]


def test_arms_whose_numbers_mean_the_same_are_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^sweep s: arms b and c have the same config; drop one$"):
        rates(0.5, 1, 1.0)
    write_manifest(tmp_path, rates(0.5, 1), "x")
    again = write_manifest(tmp_path, rates(0.5, 1.0), "x")
    assert (again["arms"], again.get("past", [])) == (["a", "b", "random init"], [])
