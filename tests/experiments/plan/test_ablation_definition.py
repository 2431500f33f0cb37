"""What an ablation may change, and what its untrained row keeps. Oracle: differences written out field by field."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from experiments.plan.baselines import digits
from experiments.plan.registry import baseline_config, baselines
from experiments.plan.sweep import Sweep, covers, difference, plan, random_init
from moco.config import (
    SGD,
    Absent,
    Augment,
    Classifier,
    Config,
    Data,
    Evaluation,
    Head,
    InBatch,
    InfoNCE,
    Momentum,
    Predictor,
    Queue,
    Train,
    ViT,
)
from moco.methods import supervised


@pytest.mark.parametrize(
    ("declared", "name", "does"),
    [
        ("optim.weight_decay", "optim.weight_decay", True),
        ("optim.weight_decay", "optim.weight_decay_to", False),
        ("optim.weight_decay_to", "optim.weight_decay", False),
        ("optim", "optim.weight_decay_to", True),
        ("optim", "optimiser.lr", False),
        ("optim.schedule", "optim.schedule.kind", True),
        ("optim.schedule.kind", "optim.schedule", False),
        ("augment.blur", "augment.blur_sigma", False),
        ("augment.grey", "augment.grey_first", False),
        ("lr", "optim.lr", False),
    ],
)
def test_a_declared_name_covers_itself_and_what_is_inside_it(declared: str, name: str, does: bool) -> None:
    assert covers(declared, name) is does


def test_an_arm_that_changes_a_field_whose_name_only_begins_like_the_declared_one_is_refused() -> None:
    """The final weight decay is another field than the weight decay."""
    other = replace(digits(), optim=replace(digits().part(SGD), weight_decay_to=0.1))
    sweep = Sweep(
        name="s",
        question="?",
        claim="!",
        varies=("optim.weight_decay",),
        baseline="a",
        arms=lambda base: {"a": base, "b": other},
    )
    with pytest.raises(ValueError, match=r"arm b changes optim\.weight_decay_to to 0\.1 .*only optim\.weight_decay;"):
        plan(sweep, digits(), base_name="digits")


def test_the_untrained_row_of_the_digits_differs_in_these_fields_alone() -> None:
    row = random_init(digits())
    assert difference(row, digits()) == {
        "key_encoder.momentum": (0.999, 0.99),
        "key_encoder.shuffle": (False, True),
        "negatives.size": (65_536, 1024),
        "loss.temperature": (0.07, 0.1),
        "optim.lr": (0.03, 0.24),
        "optim.weight_decay": (1e-4, 1e-3),
        "optim.schedule.kind": ("step", "cosine"),
        "optim.schedule.milestones": ([120, 160], None),
        "optim.schedule.factor": (0.1, None),
        "optim.schedule.per_step": (None, False),
        "optim.schedule.first_epoch": (None, 0),
        "train.epochs": (0, 40),
    }


# Nothing here is at its default, so that a field which the row drops or keeps shows.
UNUSUAL = Config(
    data=Data("shapes", 48, 0.2, True, 3, "f", "/r", False, 2, True, 12),
    augment=Augment(
        (0.3, 0.9),
        (0.8, 1.2),
        0.1,
        False,
        (0.1, 0.2, 0.3, 0.1),
        0.7,
        0.2,
        (0.2, 1.0),
        0.3,
        0.1,
        0.2,
        0.4,
        5.0,
        0.01,
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
    ),
    encoder=ViT(64, 3, 4, 8, "conv", "learned", "mean", False),
    head=Head((32,), 16, True, True),
    predictor=Predictor((8,), True),
    key_encoder=Momentum(0.9, 0.95, False),
    negatives=InBatch(),
    loss=InfoNCE(0.3, "label", True, 2.0, "sum", "inside"),
    optim=SGD(0.5, 0.01, 0.8, weight_decay_to=0.02),
    train=Train(7, 64, 1, 5, "bf16", False, True, True, "cpu", 3, 1.0, "graphs", True),
    evaluation=Evaluation(4, "projection", 0.2, 9, 3, 4, True, 6, 7, True),
)


def at_default(group: Any, prefix: str = "") -> list[str]:
    """The fields that have the value which their class gives them."""
    found = []
    for f in fields(group):
        value = getattr(group, f.name)
        if value == f.default:
            found.append(prefix + f.name)
        elif is_dataclass(value):
            found += at_default(value, f"{prefix}{f.name}.")
    return found


def test_the_untrained_row_keeps_whatever_shapes_its_readouts_and_forgets_the_training() -> None:
    permuted_apart = "key_encoder.shuffle_apart"  # nothing is permuted, so it has no other value
    assert at_default(UNUSUAL) == [permuted_apart, "optim.schedule", "optim.scaling", "train.accumulate"]
    row = random_init(UNUSUAL)
    assert {f.name: getattr(row, f.name) for f in fields(row)} == {
        **{name: getattr(UNUSUAL, name) for name in ("data", "augment", "encoder", "head", "evaluation")},
        "predictor": Absent(),
        "key_encoder": Momentum(0.999, None, False),
        "negatives": Queue(65_536),
        "loss": InfoNCE(0.07),
        "optim": SGD(),
        "train": Train(0, 64, 1, 5, "bf16", False, True, True, "cpu", 3, 1.0, "graphs", True),
    }


def test_a_supervised_base_has_an_untrained_row_with_the_default_head() -> None:
    base = supervised()
    assert isinstance(base.head, Classifier)
    assert random_init(base).head == Head()


@pytest.mark.parametrize("name", baselines())
def test_every_baseline_has_an_untrained_row_that_is_untrained_in_the_same_way(name: str) -> None:
    """The encoder, the pixels that it is fed with and the readouts are the base's own."""
    base, row = baseline_config(name), random_init(baseline_config(name))
    assert (row.data, row.augment, row.encoder, row.evaluation) == (
        base.data,
        base.augment,
        base.encoder,
        base.evaluation,
    )
    assert row.train == replace(base.train, epochs=0)
    assert (row.predictor, row.key_encoder, row.negatives) == (Absent(), Momentum(shuffle=False), Queue())
    assert (row.loss, row.optim) == (InfoNCE(), SGD())
