"""Spaces of a search. Oracles: --set itself, the inverse, closed forms, whole sentences."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.commands.search import run
from experiments.plan.baselines import digits
from experiments.plan.overrides import apply
from experiments.search.definition import (
    HOURS,
    Choice,
    Complement,
    Float,
    Given,
    Int,
    Log,
    Powers,
    Search,
    changes,
    plan,
)
from experiments.search.space import Drawn, configured, describe, from_plain, point, settings, to_plain
from experiments.store import schema
from moco.config import AdamW, Cosine
from moco.config.plain import run_id
from sweeps.search_augment import SEARCH as AUGMENT
from sweeps.search_moco import SEARCH as MOCO
from sweeps.search_optim import SEARCH as OPTIM
from tests.support.search_toy import TOY, known, search

EVERY = {
    "optim": Choice("sgd", "adamw"),
    "optim.lr": Given("optim", {"sgd": Log(0.01, 1.0), "adamw": Log(1e-4, 1e-2)}),
    "key_encoder.momentum": Complement(0.9, 0.9999),
    "negatives.size": Powers(128, 1024),
    "augment.rotation": Float(0.0, 30.0),
    "augment.crop_scale": Choice((0.2, 1.0), (0.55, 1.0)),
    "head.hidden": Choice((), (0,), (64, 64)),
    "evaluation.few_label_per_class": Int(1, 7),
}


def at_random(draw: random.Random, log: list[Drawn]) -> object:
    def one(asked: Drawn) -> object:
        log.append(asked)
        if asked.options:
            return draw.choice(asked.options)
        if asked.whole:
            return draw.randint(int(asked.low), int(asked.high))
        low, high = (math.log(asked.low), math.log(asked.high)) if asked.log else (asked.low, asked.high)
        value = draw.uniform(low, high)
        return math.exp(value) if asked.log else value

    return one


def test_a_point_is_what_set_would_make_of_it_and_leads_back_to_itself() -> None:
    draw, base = random.Random(0), digits()
    for _ in range(200):
        log: list[Drawn] = []
        texts = settings(EVERY, at_random(draw, log))  # type: ignore[arg-type]
        config = configured(base, texts)
        kept = texts["optim"] == "sgd"  # the base's own kind: its other fields stay
        by_hand = apply(base, [f"{field}={text}" for field, text in texts.items() if not (kept and field == "optim")])
        assert run_id(config) == run_id(by_hand)
        back = point(EVERY, config)
        assert back is not None
        assert settings(EVERY, lambda asked, back=back: back[asked.name]) == texts  # type: ignore[misc]
        assert list(back) == [asked.name for asked in log]


def test_bounds_hold_to_the_last_digit_and_numbers_are_short() -> None:
    for dimension in (Log(0.0012345678, 0.98765432), Float(0.1, 0.30000001), Complement(0.9, 0.9999)):
        asked = dimension.drawn("optim.lr")
        for drawn in (asked.low, asked.high, (asked.low + asked.high) / 2):
            value = float(dimension.text(drawn))
            assert dimension.low <= value <= dimension.high
            assert value == pytest.approx(1 - drawn if isinstance(dimension, Complement) else drawn, rel=1e-3)


def test_a_kind_that_the_base_has_keeps_the_bases_other_fields() -> None:
    base = digits()
    assert configured(base, {"optim": "sgd", "optim.lr": "0.5"}).optim == replace(base.optim, lr=0.5)
    assert configured(base, {"optim": "adamw", "optim.lr": "0.002"}).optim == AdamW(lr=0.002, schedule=Cosine())


def test_plain_and_back() -> None:
    assert to_plain(from_plain(to_plain(EVERY))) == to_plain(EVERY)  # type: ignore[arg-type]
    assert describe(to_plain(EVERY)["optim.lr"]) == "log 0.01 to 1 if optim=sgd; log 0.0001 to 0.01 if optim=adamw"  # type: ignore[arg-type]


def test_what_lies_outside_has_no_point() -> None:
    base = digits()
    assert point({"optim.lr": Log(0.3, 1.0)}, base) is None  # 0.24
    assert point({"negatives.size": Powers(128, 512)}, base) is None  # 1024
    assert point({"loss.temperature": Choice(0.07, 0.2)}, base) is None  # 0.1
    assert point({"loss.temperature": Choice(0.07, 0.1)}, base) == {"loss.temperature": "0.1"}
    assert point({"key_encoder.momentum": Complement(0.9, 0.999)}, base) == {"1 - key_encoder.momentum": 0.01}


BAD: list[tuple[dict[str, object], str]] = [
    ({"space": {"optim.learning_rate": Log(0.1, 1.0)}}, "optim.learning_rate: no such field; did you mean optim.lr?"),
    (
        {"space": {"optim.lr": Log(1.0, 0.1)}},
        "optim.lr: Log(1.0, 0.1): the bounds are reversed; write Log(0.1, 1.0)",
    ),
    ({"space": {"optim.lr": Log(0.0, 0.1)}}, "optim.lr: Log(0.0, 0.1): a logarithm needs bounds above 0"),
    (
        {"space": {"negatives.size": Powers(100, 512)}},
        "negatives.size: Powers(100, 512): both bounds must be powers of two",
    ),
    (
        {"space": {"key_encoder.momentum": Complement(0.9, 1.0)}},
        "key_encoder.momentum: Complement(0.9, 1.0): the bounds must lie from 0 to below 1",
    ),
    (
        {"space": {"negatives.size": Powers(128, 2048)}},
        "negatives.size=2048: negatives.size = 2048 is larger than the 1293 training images of digits: every query would "
        "meet its own image as a negative; choose at most 1293",
    ),
    (
        {"space": {"negatives.size": Float(1.5, 64.0)}},
        "negatives.size=1.5: must be a whole number, such as 1024, 65_536 or 64k",
    ),
    (
        {"space": {"optim.lr": Float(0.1, 0.1)}},
        "optim.lr: Float(0.1, 0.1): nothing lies between; --set optim.lr=0.1 instead",
    ),
    (
        {"space": {"loss.temperature": Choice(0.1)}},
        "loss.temperature: Choice(0.1): a choice has two options or more, all different",
    ),
    (
        {"space": {"train.seed": Int(0, 9)}},
        "train.seed: a search trains at one seed, and confirms with others; leave it out",
    ),
    (
        {"space": {"train.log_every": Int(1, 9)}},
        "train.log_every: does not change the result, so there is nothing to search",
    ),
    (
        {"space": {"optim.lr": Given("optim", {"sgd": Log(0.1, 1.0)})}},
        "optim.lr: Given('optim', ...): that must be a field of the space before it, with a Choice",
    ),
    ({"space": {}}, "the space is empty: name a config field and where its values come from"),
    (
        {"metric": "train/loss"},
        "metric = train/loss: a search is judged by readouts of the validation images, never by the loss or the test split; "
        f"choose among {', '.join([*schema.AT_END, HOURS])}",
    ),
    ({"metric": (HOURS,)}, "metric = gpu_hours: name a readout first, and each objective once"),
    (
        {"metric": "linear_top1", "pruner": "median"},
        "pruner = median: only knn20_top1 is measured during training, not linear_top1; take none",
    ),
    (
        {"metric": ("knn20_top1", HOURS), "pruner": "median"},
        "pruner = median: with 2 objectives nothing is pruned; take none",
    ),
    ({"sampler": "tp"}, "sampler = tp: must be one of tpe, gp, cmaes, qmc, random"),
    ({"pruner": "medium"}, "pruner = medium: must be one of median, hyperband, wilcoxon, none"),
    (
        {"pruner": "wilcoxon"},
        "pruner = wilcoxon: 3 evaluations before the end of 40 epochs cannot reach p < 0.1, it takes 4; "
        "--set evaluation.knn_every=9, or take another pruner",
    ),
    (
        {"pruner": "median", "space": {"train.epochs": Int(10, 40)}},
        "pruner = median and train.epochs in the space: trials would be compared at the same epoch of different schedules; "
        "fix it with --set train.epochs=N, or take the pruner none",
    ),
    ({"budget": 0}, "budget = 0: must be at least 1 trial"),
    (
        {"limits": {"memory": 4.0}},
        "limits memory = 4.0: must be above 0, of memory_gb, hours; other constraints do not exist: "
        "bound the space instead",
    ),
    (
        {
            "space": {
                "negatives.size": Powers(128, 1024),
                "optim.lr": Given("negatives.size", {128: Log(0.1, 1.0)}),
            }
        },
        "optim.lr: Given('negatives.size', ...): negatives.size is a range, Powers; a condition is on one of a few values: "
        "make it a Choice, such as Choice(128, 512), or search each part of the range apart",
    ),
    (
        {"space": {"optim.lr": Log("optim.weight_decay", 1.0)}},  # type: ignore[arg-type]
        "optim.lr: Log('optim.weight_decay', 1.0): bounds are numbers; for a range that depends on another field make that "
        "field a Choice and this one Given(field, {value: range})",
    ),
]


@pytest.mark.parametrize(("wrong", "sentence"), BAD, ids=[sentence[:40] for _, sentence in BAD])
def test_a_wrong_search_is_one_line_and_nothing_is_made(
    wrong: dict[str, object],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    assert run(replace(TOY, **wrong), []) == 2  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert (said.err, said.out) == (f"error: search toy: {sentence}\n", "")
    assert list(tmp_path.iterdir()) == []


ADDRESSES = [
    (
        ["--storage", "sqlite:////tmp/study.db", "--cluster", "dev"],
        "error: --storage sqlite:////tmp/study.db: a SQLite file is no storage for several nodes: its locks do not hold on "
        "shared disks, and it breaks; leave --storage out for a journal file, or name a PostgreSQL server",
    ),
    (
        ["--storage", "redis://here"],
        "error: --storage redis://here: must be postgresql://USER@HOST/DATABASE or sqlite:///FILE; without it a journal file",
    ),
    (
        ["--storage", "postgresql://me:secret@127.0.0.1:1/study"],
        "error: --storage postgresql://127.0.0.1:1/study: cannot be reached: ",
    ),
    (["--cluster", "lokal"], "error: --cluster lokal: no such cluster; there are local, "),
    (["--cluster", "slurm_ddp"], "error: --cluster slurm_ddp: it gives a run 8 processes, a search worker is one"),
    (["--workers", "0"], "error: --workers 0: must be at least 1"),
    (["--max-hours", "0"], "error: --max-hours 0: must be above 0"),
    (["--warm-start", "nothing"], "error: no sweep nothing in "),
    (["--confirm", "5"], "error: --confirm 5: write trials x seeds, such as 5x3"),
    (["--confirm", "5x3"], "error: --confirm 5x3: toy@digits has no finished trial yet; search first"),
]


@pytest.mark.parametrize(("arguments", "sentence"), ADDRESSES, ids=[" ".join(a) for a, _ in ADDRESSES])
def test_a_wrong_command_line_is_one_line_and_nothing_is_made(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    assert run(TOY, arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith(sentence)
    assert (said.err.count("\n"), said.out) == (1, "")
    assert "secret" not in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_another_space_says_what_changed_and_a_new_one_may_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    search(root, budget=2)
    label = "toy@digits"
    monkeypatch.setenv("MOCO_RUNS", str(root))
    wider = {**TOY.space, "optim.lr": Log(1e-4, 10.0), "optim.momentum": Float(0.5, 0.95)}
    del wider["head.hidden"]
    other = replace(TOY, space=wider)
    assert run(other, ["--dry-run"]) == 2
    assert capsys.readouterr().err == (
        f"error: {label}: the study has 2 trials of another space (optim.lr: log 0.001 to 10; now log 0.0001 to 10; "
        "head.hidden: one of (), (0); now not in the space; optim.momentum: not in the space; now float 0.5 to 0.95); "
        "--new-study begins another beside it\n"
    )
    assert run(other, ["--dry-run", "--new-study"]) == 0
    assert run(TOY, ["--dry-run"]) == 0
    assert "2 of 24 trials finished, 22 to go" in capsys.readouterr().out


def test_cosmetic_settings_are_no_other_study(tmp_path: Path) -> None:
    record = search(tmp_path, budget=1)
    again = plan(TOY, "digits", ["train.device=auto", "train.log_every=5"]).record("again", seed=0, storage="journal")
    assert changes(record, again) == []
    assert changes(record, plan(TOY, "digits", ["train.epochs=7"]).record("other", seed=0, storage="journal")) == [
        "the base's train.epochs: 40; now 7"
    ]
    assert known(tmp_path / "searches" / "toy@digits.json")["label"] == again["label"]


@pytest.mark.parametrize("shipped", [OPTIM, MOCO, AUGMENT], ids=lambda s: str(s.name))
def test_the_shipped_searches_are_sound_and_short(shipped: Search) -> None:
    planned = plan(shipped, shipped.base, [])
    assert point(shipped.space, planned.base) is not None  # so the base itself is the first trial
    file = Path(__file__).parents[3] / "sweeps" / f"{shipped.name}.py"
    assert len(file.read_text().splitlines()) < 40
