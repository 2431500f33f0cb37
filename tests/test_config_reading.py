"""A config read from JSON is the one that was written, or a sentence. Oracle: the config itself, and sentences in full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from experiments.baselines import BASELINES, digits
from moco.config import Config
from moco.identity import from_plain, run_id, to_plain

EVERY = pytest.mark.parametrize("name", BASELINES)


def written(config: Config) -> Any:
    return json.loads(json.dumps(to_plain(config)))


def places(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Each field and group of a config by its path, and whether it is cosmetic."""
    for f in fields(group):
        yield (*path, f.name), bool(f.metadata.get("cosmetic"))
        if is_dataclass(value := getattr(group, f.name)):
            yield from places(value, (*path, f.name))


def group_at(plain: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        plain = plain[name]
    return plain


@EVERY
def test_what_was_written_is_read_back_with_its_identity(name: str) -> None:
    config = BASELINES[name]()
    read = from_plain(Config, written(config))
    assert read == config
    assert run_id(read) == run_id(config)


@EVERY
def test_a_missing_field_is_an_error_and_never_todays_default(name: str) -> None:
    """But for cosmetic fields, which change no result."""
    config = BASELINES[name]()
    for path, cosmetic in places(config):
        plain = written(config)
        del group_at(plain, path[:-1])[path[-1]]
        if cosmetic:
            assert run_id(from_plain(Config, plain)) == run_id(config), path
        else:
            with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole sentence is compared)
                from_plain(Config, plain)
            assert str(error.value) == f"{'.'.join(path)}: missing (a run written by another version?)"


def test_a_cosmetic_field_that_is_not_there_takes_its_default() -> None:
    plain = written(digits())
    del plain["train"]["log_every"]
    assert from_plain(Config, plain).train.log_every == 10
