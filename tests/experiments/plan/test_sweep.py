"""What a sweep may be. Oracles: differences written out by hand, identities computed apart, sentences in full."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from experiments.plan import expectation
from experiments.plan.baselines import digits
from experiments.plan.factors import factorial
from experiments.plan.registry import baseline_config
from experiments.plan.sweep import Plan, Sweep, difference, plan, random_init
from experiments.store import schema
from moco.config import Config, Cosine, Head, InfoNCE, Queue, Step
from moco.config.plain import run_id

SWEEPS = ("queue_size", "momentum", "temperature", "head_and_augmentation")


def sweep(arms: Mapping[str, Config], varies: tuple[str, ...] = ("negatives.size",), **more: Any) -> Sweep:
    options: dict[str, Any] = {"baseline": next(iter(arms)), **more}
    return Sweep(name="s", question="?", claim="!", arms=lambda base: arms, varies=varies, **options)


def queues(*sizes: int) -> dict[str, Config]:
    return {f"K={k}": replace(digits(), negatives=Queue(k)) for k in sizes}


def expand(value: Sweep, base: Config | None = None, **more: Any) -> Plan:
    return plan(value, base or digits(), base_name="digits", **more)


def shipped(name: str) -> Sweep:
    found: Sweep = importlib.import_module(f"sweeps.{name}").SWEEP
    return found


def test_cells_are_arms_by_seeds_each_with_its_own_identity() -> None:
    cells = list(expand(sweep(queues(128, 256)), seeds=2).cells())
    assert [(c.arm, c.seed) for c in cells] == [
        ("K=128", 0),
        ("K=256", 0),
        ("random init", 0),
        ("K=128", 1),
        ("K=256", 1),
        ("random init", 1),
    ]
    assert [c.config.train.seed for c in cells] == [0, 0, 0, 1, 1, 1]
    assert [c.run_id for c in cells] == [run_id(c.config) for c in cells]
    assert len({c.run_id for c in cells}) == 6


def test_random_init_is_one_run_whatever_is_trained_and_another_when_the_encoder_is_another() -> None:
    row = random_init(digits())
    longer = replace(digits(), loss=InfoNCE(0.5), negatives=Queue(64), train=replace(digits().train, epochs=7))
    assert run_id(random_init(longer)) == run_id(row)
    assert row.train.epochs == 0
    wider = replace(digits(), encoder=replace(digits().encoder, width=8))
    assert run_id(random_init(wider)) != run_id(row)


def test_differences_are_of_the_fields_that_change_the_result() -> None:
    other = replace(
        digits(),
        optim=replace(digits().optim, lr=0.5, schedule=Step((3,))),
        train=replace(digits().train, device="cpu", log_every=1),  # cosmetic
    )
    assert difference(other, digits()) == {
        "optim.lr": (0.5, digits().optim.lr),
        "optim.schedule.kind": ("step", "cosine"),
        "optim.schedule.milestones": ([3], None),
        "optim.schedule.factor": (0.1, None),
        "optim.schedule.per_step": (None, False),
        "optim.schedule.first_epoch": (None, 0),
    }


REFUSED = [
    (
        sweep(
            {
                "K=128": replace(digits(), negatives=Queue(128), loss=InfoNCE(0.1)),
                "K=256": replace(digits(), negatives=Queue(256), loss=InfoNCE(0.9)),
            }
        ),
        "sweep s: arm K=256 changes loss.temperature to 0.9 (K=128 has 0.1), but varies declares only negatives.size; "
        "keep it fixed or add 'loss.temperature' to varies",
    ),
    (
        sweep({**queues(128), "same": replace(queues(128)["K=128"], train=replace(digits().train, device="cpu"))}),
        "sweep s: arm same changes nothing: its config is that of the baseline arm K=128",
    ),
    (
        sweep({**queues(128, 256), "again": queues(256)["K=256"]}),
        "sweep s: arms K=256 and again have the same config; drop one",
    ),
    (
        sweep({"K=1,024": digits()}),
        "sweep s: arm 'K=1,024': name arms as people type them, K=1024: letters, digits and . = + - _ only",
    ),
    (
        sweep(queues(128, 256), baseline="K=64"),
        "sweep s: the baseline arm K=64 is not among its arms K=128, K=256",
    ),
    (
        sweep(queues(128, 256), varies=("negatives.length",)),
        "sweep s: varies names negatives.length, which is no field or group; did you mean negatives.size?",
    ),
    (
        sweep(queues(128, 256), varies=("negatives.size", "train")),
        "sweep s: varies names train, which holds the seed; declare its other fields singly",
    ),
    (
        sweep(queues(128, 2048)),
        "K=2048: negatives.size = 2048 is larger than the 1293 training images of digits: every query would meet its own "
        "image as a negative; choose at most 1293",
    ),
]


@pytest.mark.parametrize(("value", "sentence"), REFUSED, ids=[s[:45] for _, s in REFUSED])
def test_what_is_no_ablation_is_refused_in_one_sentence(value: Sweep, sentence: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole sentence is compared)
        expand(value)
    assert str(error.value) == sentence


def test_a_batch_that_the_data_cannot_fill_is_refused() -> None:
    large = replace(digits(), train=replace(digits().train, batch_size=2048), negatives=Queue(128))
    with pytest.raises(ValueError, match=r"train\.batch_size = 2048 is larger than the 1293 training images of digits"):
        expand(sweep({"a": large}), large)


def test_a_group_in_varies_covers_its_fields_and_no_field_that_only_begins_like_it() -> None:
    arms = {"a": digits(), "b": replace(digits(), head=Head(dim=32, hidden=(0,)))}
    assert expand(sweep(arms, varies=("head",))).baseline == "a"
    with pytest.raises(ValueError, match=r"changes head\.hidden .* varies declares only head\.dim"):
        expand(sweep(arms, varies=("head.dim",)))


def test_a_long_queue_is_warned_about_with_its_share() -> None:
    assert expand(sweep(queues(128, 1024))).warnings == (
        "the queue holds more than 10% of the training images (negatives.size = 1024: 79%), "
        "so some negatives are the query's own image; watch queue/own_image",
    )
    assert expand(sweep(queues(64, 128))).warnings == ()


LABELS = [
    (digits(), "s@digits"),
    (replace(digits(), train=replace(digits().train, epochs=5, device="cpu")), "s@digits,train.epochs=5"),
    (replace(digits(), head=Head((8, 4), 64)), "s@digits,head.hidden=8+4"),
    (
        replace(digits(), optim=replace(digits().optim, lr=0.5, schedule=Cosine(per_step=True))),
        "s@digits,optim.lr=0.5,optim.schedule.per_step=True",
    ),
]


@pytest.mark.parametrize(("base", "label"), LABELS)
def test_a_label_says_what_was_set(base: Config, label: str) -> None:
    arms = {"a": base, "b": replace(base, loss=InfoNCE(0.9))}
    planned = expand(sweep(arms, varies=("loss",)), base, preset=digits())
    assert planned.label == label


def test_arms_are_chosen_by_name() -> None:
    planned = expand(sweep(queues(128, 256)), seeds=1)
    assert [c.arm for c in planned.choose(["random-init", "K=256"])] == ["K=256", "random init"]
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole sentence is compared)
        planned.choose(["K=257"])
    assert str(error.value) == "--only K=257: no such arm; did you mean K=256? The arms are K=128, K=256, random init"


def test_factors_are_crossed() -> None:
    base = digits()
    arms = factorial("none", base, a={"loss": InfoNCE(0.9)}, b={"head": Head(dim=32), "negatives": Queue(64)})
    assert arms == {
        "none": base,
        "a": replace(base, loss=InfoNCE(0.9)),
        "b": replace(base, head=Head(dim=32), negatives=Queue(64)),
        "a+b": replace(base, loss=InfoNCE(0.9), head=Head(dim=32), negatives=Queue(64)),
    }
    with pytest.raises(ValueError, match="factors a, b: loss is replaced by more than one"):
        factorial("none", base, a={"loss": InfoNCE(0.9)}, b={"loss": InfoNCE(0.8)})


ARMS = {
    "queue_size": ["K=128", "K=256", "K=512", "K=1024"],
    "momentum": ["m=0", "m=0.9", "m=0.99", "m=0.999", "m=0.9999"],
    "temperature": [f"{head}-T={t}" for head in ("linear", "mlp") for t in ("0.07", "0.1", "0.2", "0.3", "0.4", "0.5")],
    "head_and_augmentation": ["v1", "mlp", "aug", "cos", "mlp+aug", "mlp+cos", "aug+cos", "mlp+aug+cos"],
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_shipped_sweep_is_an_ablation_of_its_own_base_with_these_arms(name: str) -> None:
    value = shipped(name)
    planned = plan(value, baseline_config(value.base), base_name=value.base)
    assert list(planned.arms) == [*ARMS[name], schema.RANDOM_INIT]
    assert value.name == name
    assert value.seeds == 3


@pytest.mark.parametrize("name", SWEEPS)
def test_a_shipped_sweep_also_fits_the_other_baselines(name: str) -> None:
    for base_name in ("digits", "shapes", "cifar10_moco_v1", "cifar10_moco_v2"):
        assert plan(shipped(name), baseline_config(base_name), base_name=base_name).baseline


@pytest.mark.parametrize("name", SWEEPS)
def test_published_numbers_stand_beside_arms_that_the_paper_s_own_base_has(name: str) -> None:
    value = shipped(name)
    base = baseline_config("imagenet_moco_v1")
    assert set(value.published) <= set(value.arms(base))
    assert "arXiv" in value.published_source


def test_queue_sizes_grow_with_the_data() -> None:
    value = shipped("queue_size")
    assert list(value.arms(baseline_config("shapes"))) == [f"K={k}" for k in (128, 256, 512, 1024, 2048)]
    assert list(value.arms(baseline_config("cifar10_moco_v1"))) == [
        f"K={k}" for k in (1024, 2048, 4096, 8192, 16384, 32768)
    ]
    own = replace(digits(), negatives=Queue(300))
    assert list(value.arms(own)) == ["K=128", "K=256", "K=300", "K=512", "K=1024"]


@pytest.mark.parametrize(
    ("shape", "axis", "sentence"),
    [
        ((expectation.rises(), expectation.saturates(0.5)), "negatives.size", "rises with K, then saturates"),
        ((expectation.rises(),), "head.dim", "rises with dim"),
        ((expectation.saturates(1.0),), "head.dim", "saturates"),
        (
            (expectation.fails("m=0", by=5), expectation.best_between(0.99, 0.999)),
            "key_encoder.momentum",
            "fails at m = 0, is best between 0.99 and 0.999",
        ),
        ((expectation.order("supcon", "simclr"),), None, "supcon above simclr"),
        ((expectation.adds("mlp"), expectation.adds_most("mlp")), None, "mlp adds, mlp adds most"),
        ((), None, ""),
    ],
)
def test_a_claim_without_words_is_said_by_its_shape(
    shape: tuple[schema.Clause, ...], axis: str | None, sentence: str
) -> None:
    assert expectation.in_words(shape, axis) == sentence


def test_a_sweep_that_expects_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^sweep s: expects nothing; say what with shape= or, in words, with claim=$"):
        Sweep(name="s", question="?", varies=(), baseline="a", arms=lambda base: {})
