"""A config read from JSON is the one that was written, or a sentence. Oracle: the config itself, and sentences in full."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.plan.baselines import digits
from experiments.plan.baselines_published import cifar10_moco_v3_vit, imagenet_moco_v3_resnet50
from experiments.plan.configs import config_of, create
from experiments.plan.registry import baselines
from experiments.store.run import RunDirectory
from moco.config import Config
from moco.config.plain import from_plain, run_id, to_plain
from moco.methods import memory_bank, simclr, supervised

EVERY = pytest.mark.parametrize("name", baselines())


def written(config: Config) -> Any:
    return json.loads(json.dumps(to_plain(config)))


def places(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Each field and group of a config by its path, and what it says of itself (`moco.config.fields`)."""
    for f in fields(group):
        yield (*path, f.name), f.metadata
        if is_dataclass(value := getattr(group, f.name)):
            yield from places(value, (*path, f.name))


def group_at(plain: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        plain = plain[name]
    return plain


@EVERY
def test_what_was_written_is_read_back_with_its_identity(name: str) -> None:
    config = baselines()[name]()
    read = from_plain(Config, written(config))
    assert read == config
    assert run_id(read) == run_id(config)


@EVERY
def test_a_missing_field_is_an_error_and_never_todays_default(name: str) -> None:
    """But for cosmetic fields, which change no result, and added ones, which then mean what was computed before them."""
    config = baselines()[name]()
    for path, says in places(config):
        plain = written(config)
        del group_at(plain, path[:-1])[path[-1]]
        if says.get("cosmetic"):
            assert run_id(from_plain(Config, plain)) == run_id(config), path
        elif "before" in says:
            assert group_at(to_plain(from_plain(Config, plain)), path) == to_plain(says["before"]), path
        else:
            with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole sentence is compared)
                from_plain(Config, plain)
            assert str(error.value) == f"{'.'.join(path)}: missing (a run written by another version?)"


def test_a_cosmetic_field_that_is_not_there_takes_its_default() -> None:
    plain = written(digits())
    del plain["train"]["log_every"]
    assert from_plain(Config, plain).train.log_every == 10


# One value of each type that JSON has, and some that look right.
STRANGE: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -3,
    2.5,
    1e999,
    float("nan"),
    "",
    "0.24",
    "sgd",
    "1\n2",
    [],
    [1],
    [[0.5]],
    {},
    {"kind": 7},
]

# All kinds of all groups are in these.
KINDS: list[Callable[[], Config]] = [
    digits,
    cifar10_moco_v3_vit,
    imagenet_moco_v3_resnet50,
    memory_bank,
    simclr,
    supervised,
]


def sentence(plain: Any) -> str:
    """What is wrong with it; nothing where it is read."""
    try:
        from_plain(Config, plain)
    except ValueError as error:
        return str(error)
    return ""


WRONG = [
    ("optim.lr", "0.24", 'optim.lr = "0.24": must be a finite number'),
    ("optim.lr", [0.24], "optim.lr = [0.24]: must be a finite number"),
    ("optim.lr", None, "optim.lr = null: must be a finite number"),
    ("optim.lr", True, "optim.lr = true: must be a finite number"),
    ("optim.lr", {"value": 0.24}, 'optim.lr = {"value": 0.24}: must be a finite number'),
    ("optim.lr", float("nan"), "optim.lr = NaN: must be a finite number"),
    ("optim.weight_decay_to", "0", 'optim.weight_decay_to = "0": must be a finite number or null'),
    ("optim.lr", -1, "optim.lr = -1: must be above 0"),
    ("train.epochs", True, "train.epochs = true: must be a whole number"),
    ("train.epochs", 40.0, "train.epochs = 40.0: must be a whole number"),
    ("train.precision", "fp8", 'train.precision = "fp8": must be one of "fp32", "bf16", "fp16"'),
    ("train.device", None, "train.device = null: must be text"),
    ("train.compile", 1, "train.compile = 1: must be true or false"),
    ("encoder.depth", "8", 'encoder.depth = "8": must be one of 8, 18, 34, 50, 101, 152'),
    ("encoder.depth", 8.0, "encoder.depth = 8.0: must be one of 8, 18, 34, 50, 101, 152"),
    ("data.root", 7, "data.root = 7: must be text or null"),
    ("augment.mean", 0.5, "augment.mean = 0.5: must be a list of 3, each a finite number"),
    ("augment.mean", [0.5, 0.5], "augment.mean = [0.5, 0.5]: must be a list of 3, each a finite number"),
    ("augment.mean", [0.5, "x", 0.5], 'augment.mean = [0.5, "x", 0.5]: must be a list of 3, each a finite number'),
    ("head.hidden", [[0]], "head.hidden = [[0]]: must be a list, each a whole number"),
    ("head.hidden", 0, "head.hidden = 0: must be a list, each a whole number"),
    ("optim", "sgd", 'optim = "sgd": must be a group of fields, an object in JSON'),
    ("data", None, "data = null: must be a group of fields, an object in JSON"),
    ("optim.kind", ["sgd"], 'optim.kind = ["sgd"]: must be one of sgd, adamw, lars'),
    ("optim.kind", "adam", 'optim.kind = "adam": must be one of sgd, adamw, lars'),
    (
        "optim.learning_rate",
        0.1,
        "optim.learning_rate = 0.1: unknown field, sgd has lr, weight_decay, momentum, schedule, scaling, weight_decay_to "
        "(a run written by another version?)",
    ),
    (
        "optimiser",
        {"lr": 1},
        'optimiser = {"lr": 1}: unknown field, config has data, augment, encoder, head, predictor, key_encoder, negatives, '
        "loss, optim, train, evaluation (a run written by another version?)",
    ),
    ("predictor.dim", 3, "predictor.dim = 3: unknown field, absent has none (a run written by another version?)"),
]


@pytest.mark.parametrize(("path", "value", "words"), WRONG, ids=[words[:40] for *_, words in WRONG])
def test_a_value_of_another_type_is_refused_in_one_line(path: str, value: Any, words: str) -> None:
    plain = written(digits())
    *groups, name = path.split(".")
    group_at(plain, tuple(groups))[name] = value
    assert sentence(plain) == words


@pytest.mark.parametrize("plain", [None, [], "digits", 3, True])
def test_what_is_no_object_is_no_config(plain: Any) -> None:
    assert sentence(plain) == f"config = {json.dumps(plain)}: must be a group of fields, an object in JSON"


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_any_field_with_any_value_is_read_as_it_is_written_or_refused_by_its_name(
    make: Callable[[], Config],
) -> None:
    """Each field in turn gets each strange value. What is read has the very value; what is not is one line about the field."""
    config = make()
    text = json.dumps(to_plain(config))
    for path, _ in places(config):
        dotted = ".".join(path)
        for value in STRANGE:
            plain = json.loads(text)
            group_at(plain, path[:-1])[path[-1]] = value
            words = sentence(plain)
            if words:
                assert dotted in words, (dotted, value, words)
                assert "\n" not in words
            else:
                read = group_at(to_plain(from_plain(Config, plain)), path)
                assert (read, type(read)) == (value, type(value)), (dotted, value)


@pytest.mark.parametrize("seed", range(20))
def test_several_damages_at_once_are_still_one_line(seed: int) -> None:
    """Fields taken away, added, and given strange values, at random: a config or one line, never another error."""
    draw = random.Random(seed)
    for _ in range(50):
        config = baselines()[draw.choice(list(baselines()))]()
        plain, known = written(config), [path for path, _ in places(config)]
        for path in draw.sample(known, 3):
            try:
                group = group_at(plain, path[:-1])
                if isinstance(group, dict):
                    group[draw.choice([path[-1], "kind", "new"])] = draw.choice(STRANGE)
            except (KeyError, TypeError, IndexError):  # its group has just been damaged
                continue
        assert "\n" not in sentence(plain)


def test_whole_numbers_stand_for_numbers_and_keep_the_identity_they_were_written_with() -> None:
    plain = written(digits())
    plain["optim"]["lr"], plain["augment"]["std"] = 1, [1, 1, 1]
    read = from_plain(Config, plain)
    assert written(read) == plain
    assert type(read.optim.lr) is int
    assert read.augment.std == (1, 1, 1)


def test_a_run_directory_with_such_a_config_is_refused_in_that_line(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    create(run, digits())
    file = run.path / "config.json"
    plain = json.loads(file.read_text())
    del plain["crc32"]  # as an earlier version wrote it
    plain["optim"]["lr"] = "0.24"
    file.write_text(json.dumps(plain))
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole sentence is compared)
        config_of(run)
    assert str(error.value) == 'optim.lr = "0.24": must be a finite number'
