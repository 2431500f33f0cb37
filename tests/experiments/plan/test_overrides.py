"""`--set`: each kind of field, each kind of mistake. Oracle: the value or the sentence, written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from experiments.plan.overrides import apply
from moco.config import SGD, AdamW, Config, Cosine, Step
from moco.config.plain import flatten
from moco.methods import moco_v1

TYPED = [
    ("train.epochs=40", "train.epochs", 40),
    ("train.epochs=1e2", "train.epochs", 100),
    ("negatives.size=4096", "negatives.size", 4096),
    ("negatives.size=65,536", "negatives.size", 65_536),
    ("negatives.size=65_536", "negatives.size", 65_536),
    ("negatives.size=64k", "negatives.size", 65_536),
    ("negatives.size=4K", "negatives.size", 4096),
    ("optim.lr=1e-3", "optim.lr", 0.001),
    ("optim.lr=1", "optim.lr", 1.0),
    ("data.validation_share=.2", "data.validation_share", 0.2),
    ("evaluation.paper_protocol=true", "evaluation.paper_protocol", True),
    ("evaluation.paper_protocol=YES", "evaluation.paper_protocol", True),
    ("evaluation.paper_protocol=1", "evaluation.paper_protocol", True),
    ("key_encoder.shuffle=false", "key_encoder.shuffle", False),
    ("key_encoder.shuffle=no", "key_encoder.shuffle", False),
    ("key_encoder.shuffle=0", "key_encoder.shuffle", False),
    ("data.root=/a b/c=d", "data.root", "/a b/c=d"),
    ("data.root=none", "data.root", None),
    ("encoder.depth=18", "encoder.depth", 18),
    ("train.precision=bf16", "train.precision", "bf16"),
    ("augment.crop_scale=0.2,1.0", "augment.crop_scale", [0.2, 1.0]),
    ("augment.crop_scale=(0.2, 1)", "augment.crop_scale", [0.2, 1.0]),
    ("head.hidden=2048,128", "head.hidden", [2048, 128]),
    ("head.hidden=0", "head.hidden", [0]),
    ("head.hidden=", "head.hidden", []),
    ("head.hidden=()", "head.hidden", []),
    ("optim.schedule.milestones=60,80", "optim.schedule.milestones", [60, 80]),
    ("optim=adamw", "optim.kind", "adamw"),
    ("optim.schedule=cosine", "optim.schedule.kind", "cosine"),
]


@pytest.mark.parametrize(("assignment", "field", "value"), TYPED)
def test_text_becomes_the_value_of_the_field(assignment: str, field: str, value: Any) -> None:
    before, after = flatten(moco_v1()), flatten(apply(moco_v1(), [assignment]))
    assert (after[field], type(after[field])) == (value, type(value))
    if not field.endswith("kind"):
        assert {name: after[name] for name in after if name != field} == {n: before[n] for n in before if n != field}


def test_a_group_changes_kind_to_its_defaults_and_then_takes_its_own_fields() -> None:
    config = apply(moco_v1(), ["optim=adamw", "optim.lr=2e-3", "optim.schedule=step", "optim.schedule.milestones=3"])
    assert config.optim == AdamW(lr=0.002, schedule=Step(milestones=(3,)))
    cosine = apply(moco_v1(), ["optim.schedule=cosine", "optim.schedule.warmup_epochs=5"])
    assert cosine.optim == replace(SGD(), schedule=Cosine(warmup_epochs=5.0))


def test_later_settings_win_and_fields_that_need_each_other_may_come_in_any_order() -> None:
    assert apply(Config(encoder=moco_v1().encoder), ["optim.lr=1", "optim.lr=0.5"]).optim.lr == 0.5
    pair = ["encoder.batch_norm_splits=1", "key_encoder.shuffle=no"]
    for order in (pair, pair[::-1]):
        assert apply(moco_v1(), order).encoder.batch_norm_splits == 1


WRONG = [
    ("optim.learning_rate=0.1", "optim.learning_rate: no such field; did you mean optim.lr?"),
    ("lr=0.1", "lr: no such field; did you mean optim.lr?"),
    ("negatves.size=3", "negatves.size: no such field; did you mean negatives.size or negatives.shared?"),
    ("optim.wd=0", "optim.wd: no such field; did you mean optim.weight_decay?"),
    ("batch_size=32", "batch_size: no such field; did you mean train.batch_size?"),
    ("K=32", "K: no such field; did you mean negatives.size?"),
    ("T=0.1", "T: no such field; did you mean loss.temperature?"),
    ("m=0.9", "m: no such field; did you mean key_encoder.momentum?"),
    (
        "quux=1",
        "quux: no such field; the groups are data, augment, encoder, head, key_encoder, negatives, loss, optim, train, "
        "evaluation",
    ),
    ("negatives=1024", "negatives=1024: no such kind; allowed: queue, inbatch, bothviews, memorybank, absent"),
    (
        "optim.schedule.per_step=yes",
        "optim.schedule.per_step: optim.schedule is step, which has no per_step; first --set optim.schedule=cosine",
    ),
    ("optim.betas=0.9,0.99", "optim.betas: optim is sgd, which has no betas; first --set optim=adamw"),
    ("optim=adam", "optim=adam: no such kind; allowed: sgd, adamw, lars; did you mean adamw?"),
    ("train.epochs", "--set train.epochs: write it as FIELD=VALUE, e.g. --set train.epochs=40"),
    ("=3", "--set =3: write it as FIELD=VALUE, e.g. --set train.epochs=40"),
    ("train.epochs=ten", "train.epochs=ten: must be a whole number, such as 1024, 65_536 or 64k"),
    ("train.epochs=1.5", "train.epochs=1.5: must be a whole number, such as 1024, 65_536 or 64k"),
    ("train.epochs=6,55", "train.epochs=6,55: must be a whole number, such as 1024, 65_536 or 64k"),
    ("train.epochs=inf", "train.epochs=inf: must be a whole number, such as 1024, 65_536 or 64k"),
    ("optim.lr=fast", "optim.lr=fast: must be a number, such as 0.03 or 3e-2"),
    ("optim.lr=nan", "optim.lr=nan: must be a number, such as 0.03 or 3e-2"),
    ("key_encoder.shuffle=maybe", "key_encoder.shuffle=maybe: must be true or false (also yes/no, on/off, 1/0)"),
    ("train.precision=bf6", "train.precision=bf6: must be one of fp32, bf16, fp16; did you mean bf16?"),
    ("encoder.depth=19", "encoder.depth=19: must be one of 8, 18, 34, 50, 101, 152"),
    ("augment.crop_scale=0.2", "augment.crop_scale=0.2: must be 2 values separated by commas, as 0,0"),
    ("head.hidden=1,x", "head.hidden=x: must be a whole number, such as 1024, 65_536 or 64k"),
    ("optim.lr=0", "optim.lr = 0.0: must be above 0"),
    ("key_encoder.momentum=1.5", "key_encoder.momentum = 1.5: must be between 0 and 1"),
]


@pytest.mark.parametrize(("assignment", "sentence"), WRONG)
def test_a_mistake_is_one_sentence_with_the_remedy(assignment: str, sentence: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole sentence is compared)
        apply(moco_v1(), [assignment])
    assert str(error.value) == sentence
