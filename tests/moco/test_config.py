"""Contradictory mixes are refused when the config is built, with the values in the message; sound ones are not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.plan.baselines import digits
from experiments.plan.overrides import apply
from experiments.plan.registry import baseline_config
from experiments.plan.sweep import Sweep, plan
from moco import methods as m
from moco.config import (
    Absent,
    BothViews,
    Classifier,
    Config,
    CrossEntropy,
    Data,
    Head,
    InBatch,
    InfoNCE,
    MemoryBank,
    Momentum,
    Predictor,
    Queue,
    ResNet,
    Shared,
    ViT,
    check_processes,
)
from moco.data.catalog import sets
from moco.train import train

METHODS = [m.moco_v1, m.moco_v2, m.moco_v2plus, m.moco_v3, m.moco_v3_vit]
METHODS += [m.end_to_end, m.memory_bank, m.simclr, m.supcon, m.supervised]


@pytest.mark.parametrize(
    ("base", "changes", "words"),
    [
        (m.memory_bank, {"key_encoder": Momentum()}, "key_encoder = momentum and negatives = memorybank"),
        (m.moco_v1, {"key_encoder": Shared(shuffle=True)}, "key_encoder = shared and negatives = queue"),
        (m.moco_v1, {"key_encoder": Absent()}, "key_encoder = absent and negatives = queue"),
        (m.simclr, {"key_encoder": Momentum(shuffle=False)}, "negatives = bothviews"),
        (m.moco_v1, {"negatives": Absent()}, "negatives = absent"),
        (m.memory_bank, {"loss": InfoNCE(0.07, positives="label")}, "positives = label and negatives = memorybank"),
        (m.memory_bank, {"loss": InfoNCE(0.07, symmetric=True)}, "symmetric = True and negatives = memorybank"),
        (m.simclr, {"loss": InfoNCE(0.5)}, "symmetric = False and negatives = bothviews"),
        (
            m.moco_v1,
            {"predictor": Predictor()},
            "predictor = predictor with key_encoder = momentum and negatives = queue",
        ),
        (m.simclr, {"predictor": Predictor()}, "defined for MoCo v3 only"),
        (m.moco_v1, {"head": Classifier()}, "head = classifier and loss = infonce"),
        (m.supervised, {"head": Head()}, "loss = crossentropy and head = head"),
        (m.moco_v1, {"loss": CrossEntropy()}, "loss = crossentropy and head = head"),
        (
            m.moco_v3_vit,
            {"data": Data(name="imagenet", image_size=200)},
            "encoder.patch = 16 and data.image_size = 200",
        ),
        (m.moco_v1, {"encoder": ResNet(50)}, "shuffle = True and encoder.batch_norm_splits = 1"),
        (m.moco_v3_vit, {"key_encoder": Momentum(0.99)}, "shuffle = True and encoder.batch_norm_splits = 1"),
        (m.moco_v1, {"negatives": Queue(shared=True)}, "negatives.shared = True and loss.symmetric = False"),
        (m.moco_v1, {"key_encoder": Momentum(shuffle_apart=True)}, "shuffle_apart = True and loss.symmetric = False"),
    ],
)
def test_a_contradiction_is_one_line_with_both_values(
    base: Callable[[], Config], changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        replace(base(), **changes)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (m.simclr, "key_encoder = shared"),
        (m.moco_v3_vit, "BatchNorm over the whole batch"),
        (m.moco_v2plus, "batch_norm_splits must be a multiple"),
    ],
)
def test_accumulation_that_would_not_equal_the_whole_batch_is_refused(base: Callable[[], Config], words: str) -> None:
    config = base()
    with pytest.raises(ValueError, match=words):
        replace(config, train=replace(config.train, accumulate=2))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InfoNCE(directions="sum"), "loss.directions = sum and loss.symmetric = False: there is one direction"),
        (lambda: InfoNCE(several="inside"), "loss.several = inside and loss.positives = own: there is one positive"),
        (lambda: Momentum(shuffle=False, shuffle_apart=True), "shuffle_apart = True and key_encoder.shuffle = False"),
    ],
)
def test_what_would_change_nothing_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_interleaved_parts_need_the_whole_batch_in_one_place() -> None:
    config = replace(m.moco_v1(), encoder=ResNet(50, batch_norm_splits=8, batch_norm_parts="interleaved"))
    with pytest.raises(ValueError, match=r"accumulate = 2 and encoder.batch_norm_parts = interleaved"):
        replace(config, train=replace(config.train, accumulate=2))
    with pytest.raises(
        ValueError, match=r"batch_norm_parts = interleaved over 2 processes: every part has rows of all"
    ):
        check_processes(config, 2)
    check_processes(config, 1)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_difference_that_fits_the_digits(method: Callable[[], Config]) -> None:
    published = method()
    if not isinstance(published.loss, CrossEntropy):
        on_digits = m.mechanism_of(published, digits())
        assert on_digits.key_encoder == published.key_encoder
        assert on_digits.part(Head).dim == digits().part(Head).dim


@pytest.mark.parametrize(
    ("baseline", "settings", "words"),
    [
        ("cifar10_supcon", [], "loss.positives = label"),
        ("digits", ["key_encoder=shared", "negatives=inbatch", "loss.positives=label"], "loss.positives = label"),
        (
            "digits",
            ["head=classifier", "key_encoder=absent", "negatives=absent", "loss=crossentropy"],
            "loss = crossentropy",
        ),
    ],
)
@pytest.mark.parametrize("name", [name for name, facts in sets().items() if facts.unlabelled])
def test_labels_are_asked_of_the_catalogue(
    baseline: str, settings: list[str], words: str, name: str, tmp_path: Path
) -> None:
    """By whatever a config comes through: `--set`, an arm of a sweep, training."""
    labelled = replace(apply(baseline_config(baseline), settings), data=Data(image_size=32, name="cifar10"))
    unlabelled = replace(labelled, data=replace(labelled.data, name=name))
    sentence = (
        f"{words} and data.name = {name}: its images for pre-training have no labels; "
        "choose a labelled set or loss.positives=own"
    )
    sweep = Sweep(
        name="labels",
        question="Do labels help?",
        claim="yes",
        arms=lambda base: {"without": base, "with": unlabelled},
        varies=("loss",),
        baseline="without",
    )
    for attempt in (
        lambda: apply(labelled, [f"data.name={name}"]),
        lambda: plan(sweep, digits(), base_name="digits"),
        lambda: next(train(unlabelled, tmp_path)),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            attempt()  # type: ignore[no-untyped-call]


def test_a_part_of_another_kind_is_named_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"negatives = inbatch: queue is needed here.*--set negatives=queue"):
        m.moco_v3().part(Queue)
    assert m.moco_v1().part(Queue).size == 65_536
    assert isinstance(m.simclr().negatives, BothViews)
    assert isinstance(m.end_to_end().negatives, InBatch)
    assert m.memory_bank().part(MemoryBank).momentum == 0.5
    assert m.moco_v3_vit().part(ViT).freeze_patch_projection
