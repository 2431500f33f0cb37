"""A field that configs of earlier versions lack: old runs keep their identities and their meaning. Oracle: the old class."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from moco.config.fields import added, cosmetic
from moco.config.plain import from_plain, to_plain


@dataclass(frozen=True)
class Blur:
    sigma: float = 2.0


@dataclass(frozen=True)
class Old:
    lr: float = 0.03
    workers: int = cosmetic(4)


@dataclass(frozen=True)
class New:
    """The same with two more fields; today's defaults are not what was computed before."""

    lr: float = 0.03
    warmup: int = added(10, before=0)
    blur: Blur = added(Blur(), before=Blur(0.0))  # noqa: RUF009 (a field, as `field()` is)
    workers: int = cosmetic(4)


@dataclass(frozen=True)
class OldRun:
    optim: Old = field(default_factory=Old)


@dataclass(frozen=True)
class NewRun:
    optim: New = field(default_factory=New)


def identity(config: Any) -> str:
    return json.dumps(to_plain(config, identity=True), sort_keys=True)


def test_a_config_that_means_the_same_keeps_its_identity() -> None:
    assert identity(NewRun(New(lr=0.1, warmup=0, blur=Blur(0.0)))) == identity(OldRun(Old(lr=0.1)))


@pytest.mark.parametrize("new", [New(warmup=1, blur=Blur(0.0)), New(warmup=0, blur=Blur(0.1)), New()])
def test_a_config_that_means_something_else_has_its_own(new: New) -> None:
    assert identity(NewRun(new)) != identity(OldRun())
    assert json.loads(identity(NewRun(new)))["optim"].keys() - {"lr"} == {
        name for name, before in (("warmup", 0), ("blur", Blur(0.0))) if getattr(new, name) != before
    }


def test_an_old_config_is_read_with_its_old_meaning_and_not_with_todays_default() -> None:
    old = OldRun(Old(lr=0.1, workers=2))
    read = from_plain(NewRun, json.loads(json.dumps(to_plain(old))))
    assert read == NewRun(New(lr=0.1, warmup=0, blur=Blur(0.0), workers=2))
    assert identity(read) == identity(old)


def test_a_new_config_is_written_whole_and_read_back() -> None:
    for new in (NewRun(), NewRun(New(warmup=0)), NewRun(New(warmup=0, blur=Blur(0.0)))):
        plain = json.loads(json.dumps(to_plain(new)))
        assert plain["optim"].keys() == {"lr", "warmup", "blur", "workers"}
        assert from_plain(NewRun, plain) == new
