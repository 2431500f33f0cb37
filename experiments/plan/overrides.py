"""`--set FIELD=VALUE ...`: any field of a config from the command line, typed by the config's own annotations.

`optim=adamw` switches the kind of a group to its defaults, later `--set optim.lr=0.002` changes it further. Integers may
be written as 65536, 65_536, 65,536 or 64k (k = 1,024, as in queue lengths).

    apply           a run's config, whose fields lie in groups
    change_fields   a flat dataclass, such as the recipe of `transfer`
    change_numbers  named numbers, such as the sizes of a benchmark
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.plan.registry import baseline_config
from moco.config import Config
from moco.config.kinds import group_classes, type_hints
from moco.config.text import parse as parse
from moco.data.catalog import check_labels

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

# Letters of the papers -> field.
LETTERS = {"K": "negatives.size", "m": "key_encoder.momentum", "T": "loss.temperature", "tau": "loss.temperature"}


def base_configs(name: str, assignments: Sequence[str]) -> tuple[Config, Config]:
    """(the named baseline with the user's settings, the same without them). Raises ValueError."""
    preset = baseline_config(name)
    return apply(preset, assignments), preset


def apply(config: Config, assignments: Sequence[str]) -> Config:
    """`config` with each "field=value" applied in order. Checked once at the end, so two fields may depend on each other.

    Raises ValueError with one line: the field and value, what is allowed, what was probably meant.
    """
    draft = _Draft(config)
    for path, text in _pairs(assignments, example="train.epochs=40"):
        draft.assign(path, text)
    built: Config = draft.build()
    check_labels(built)
    return built


def change_fields(value: T, assignments: Sequence[str], *, example: str, own_flags: Sequence[str] = ()) -> T:
    """A dataclass without groups, with each "field=value" applied. Fields in `own_flags` have a flag of that name instead.

    Raises ValueError with one line: the field and value, what is allowed, what was probably meant.
    """
    hints, values = type_hints(type(value)), {}
    known = [name for name in hints if name not in own_flags]
    for name, text in _pairs(assignments, example=example):
        if name in own_flags:
            raise ValueError(f"--set {name}: has a flag of its own, --{name}")
        if name not in known:
            raise ValueError(no_such_field(name, known))
        values[name] = parse(name, hints[name], text)
    return replace(value, **values)


def change_numbers(
    defaults: Mapping[str, int | float], assignments: Sequence[str], least: Mapping[str, int | float]
) -> dict[str, int | float]:
    """`defaults` with each "name=number" applied, of the same type and at least `least[name]` (1 if not given).

    Raises ValueError with one line.
    """
    numbers = dict(defaults)
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in numbers:
            near = get_close_matches(name, numbers, n=1)
            there = f"did you mean {near[0]}?" if near else f"there are {', '.join(numbers) or 'none'}"
            raise ValueError(f"--set {assignment}: no such setting; {there}")
        try:
            value = type(numbers[name])(text)
        except ValueError:
            kind = "a whole number" if isinstance(numbers[name], int) else "a number"
            raise ValueError(f"--set {assignment}: must be {kind}, such as {numbers[name]}") from None
        if value < (smallest := least.get(name, 1)):
            raise ValueError(f"--set {assignment}: must be {smallest} or more")
        numbers[name] = value
    return numbers


def _pairs(assignments: Sequence[str], example: str) -> Iterator[tuple[str, str]]:
    """Each "field=value" as (field, value)."""
    for assignment in assignments:
        name, equals, text = (part.strip() for part in assignment.partition("="))
        if not (equals and name):
            raise ValueError(f"--set {assignment}: write it as FIELD=VALUE, e.g. --set {example}")
        yield name, text


class _Draft:
    """A config that is being changed: the class and the values of each group, unchecked until `build`."""

    def __init__(self, value: Any) -> None:
        self.cls: type = type(value)
        self.values: dict[str, Any] = {
            f.name: _Draft(inner) if is_dataclass(inner := getattr(value, f.name)) else inner for f in fields(value)
        }

    def assign(self, path: str, text: str) -> None:
        *groups, name = path.split(".")
        draft: Any = self
        for group in groups:
            draft = self._inner(draft, group, path)
        if name not in draft.values:
            raise ValueError(no_such_field(path, list(self.paths())))
        annotation = type_hints(draft.cls)[name]
        kinds = group_classes(annotation)
        if len(kinds) == 1:
            raise ValueError(no_such_field(path, list(self.paths())))
        draft.values[name] = _Draft(_new_group(path, kinds, text)) if kinds else parse(path, annotation, text)

    def _inner(self, draft: _Draft, group: str, path: str) -> _Draft:
        """The draft of a group inside `draft`. Raises ValueError, with the kind that has the field if another kind does."""
        inner = draft.values.get(group)
        if not isinstance(inner, _Draft):
            raise ValueError(no_such_field(path, list(self.paths())))
        before, _, rest = path.partition(f"{group}.")
        field, kinds = rest.partition(".")[0], group_classes(type_hints(draft.cls)[group])
        if field not in inner.values:
            fitting = [k for k, cls in kinds.items() if field in type_hints(cls)]
            if fitting:
                now, other = inner.cls.__name__.lower(), fitting[0]
                raise ValueError(
                    f"{path}: {before}{group} is {now}, which has no {field}; first --set {before}{group}={other}"
                )
        return inner

    def paths(self, prefix: str = "") -> Iterator[str]:
        for name, value in self.values.items():
            if isinstance(value, _Draft):
                yield from value.paths(f"{prefix}{name}.")
            else:
                yield prefix + name

    def build(self) -> Any:
        return self.cls(**{k: v.build() if isinstance(v, _Draft) else v for k, v in self.values.items()})


def no_such_field(path: str, known: Sequence[str]) -> str:
    """The message for an unknown field, with the nearest known ones."""
    members = [k for k in known if k.startswith(path.rstrip(".") + ".")]
    if members:
        return f"{path}: a group, not a field; its fields are {', '.join(members)}"
    near = _abbreviated(path, known) or get_close_matches(path, known, n=2, cutoff=0.75) or _same_last_name(path, known)
    if near:
        return f"{path}: no such field; did you mean {' or '.join(near)}?"
    groups = dict.fromkeys(k.partition(".")[0] for k in known)
    kind = "groups" if any("." in k for k in known) else "fields"
    return f"{path}: no such field; the {kind} are {', '.join(groups)}"


def _abbreviated(path: str, known: Sequence[str]) -> list[str]:
    """By the papers' letter, or by initials: `K`, `optim.wd` for weight_decay, `learning_rate` for lr."""
    last = _last(path)
    if last in LETTERS:
        return [LETTERS[last]]
    return _in_group(path, [k for k in known if _initials(_last(k)) == last or _last(k) == _initials(last)])


def _same_last_name(path: str, known: Sequence[str]) -> list[str]:
    near = get_close_matches(_last(path), list(dict.fromkeys(map(_last, known))), n=1, cutoff=0.7)
    return _in_group(path, [k for k in known if _last(k) in near])


def _in_group(path: str, fields: Sequence[str]) -> list[str]:
    """The first two of the fields in the group of `path`; of all fields if none is in it."""
    group = path.rpartition(".")[0]
    return [k for k in fields if group and k.startswith(group)][:2] or list(fields[:2])


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split("_")) if "_" in name else ""


def _new_group(path: str, kinds: Mapping[str, type], text: str) -> Any:
    kind = kinds.get(text.lower())
    if kind is None:
        near = get_close_matches(text.lower(), kinds, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{path}={text}: no such kind; allowed: {', '.join(kinds)}{meant}")
    return kind()
