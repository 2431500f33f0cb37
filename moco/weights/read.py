"""Files of other tools: the network in them is found, its maker recognised, and the encoder read, all of it or none.

Nothing in a file is executed (`moco.weights.contents`). Wherever in the file a network lies and however it is wrapped: read is
the largest set of tensors under one path that fills a network of this suite completely. Where several do, the query encoder is
taken, of DINO and iBOT the teacher, as their authors do; `branch` and `prefix` choose otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from moco.config import ResNet, ViT
from moco.encoders import Encoder, build_encoder
from moco.vit import sincos_positions
from moco.weights.architecture import (
    Seen,
    architecture_of,
    described,
    filled,
    problems,
    shapes_of,
    with_class_position,
)
from moco.weights.carried import Carried, from_text
from moco.weights.contents import Contents, contents
from moco.weights.makers import Decided, Place, anti_aliased, decide, has_v3_positions, maker_of
from moco.weights.names import (
    State,
    from_detectron2,
    from_notebook,
    from_numbered,
    from_timm,
    listed,
)
from moco.weights.positions import resampled

Branch = Literal["query", "key", "student", "teacher"]
OWN = "an export of this suite"
BRANCHES: tuple[str, ...] = get_args(Branch)


@dataclass(frozen=True)
class Layout:
    """How the tensors of a network are named. `sign`: a tensor that this layout alone has. `roots`: the first parts of all
    names. `middle`: to torchvision's names, which are those in the middle.
    """

    name: str
    sign: str
    roots: frozenset[str]
    middle: Callable[[State], State]


def _layout(name: str, sign: str, roots: str, middle: Callable[[State], State] = dict) -> Layout:
    return Layout(name, sign, frozenset(roots.split()), middle)


LAYOUTS = (
    _layout("torchvision ResNet", "layer1.0.conv1.weight", "conv1 bn1 layer1 layer2 layer3 layer4"),
    _layout("numbered", "4.0.conv1.weight", "0 1 4 5 6 7", from_numbered),
    _layout("notebook", "3.0.conv1.weight", "0 1 3 4 5 6", from_notebook),
    _layout("detectron2", "res2.0.conv1.weight", "stem res2 res3 res4 res5", from_detectron2),
    _layout("ResNet-8", "3.conv1.weight", "0 1 3 4 5"),
    _layout("timm ViT", "blocks.0.attn.qkv.weight", "cls_token pos_embed patch_embed blocks norm", from_timm),
    _layout("torchvision ViT", "encoder.layers.encoder_layer_0.ln_1.weight", "class_token conv_proj encoder"),
)

# What may lie directly beside the tensors of a network without being part of it: heads, queues, decoders.
HEADS = re.compile(
    r"fc|heads?|head_dist|classifier|online_classifier|linear\w*|proj\w*|pred\w*|prototypes?|mlp|neck|decoder\w*|mask_token|"
    r"masked_embed|queue\w*|last_layer\d?|logits?|temperature|criterion|loss\w*|[89]|\d\d+|n_averaged|step"
)
KEY = re.compile(r"encoder_k|\w*momentum\w*|target\w*|\w*teacher\w*|\w*_?ema(_\w+)?|\w*_k|key_\w+")


@dataclass(frozen=True)
class Foreign:
    """What was recognised. `left` are the tensors that are no part of the encoder: heads, queues, key encoders.

    `padding`: of the first convolution, where it is not torchvision's. `assumed`: what no tensor tells, in words.
    """

    maker: str
    config: ResNet | ViT
    image_size: int | None
    state: State  # torchvision's names
    left: tuple[str, ...]
    prefix: str = ""
    padding: int | None = None
    assumed: tuple[str, ...] = ()
    carried: Carried | None = None  # of an export of this suite: its own config

    @property
    def words(self) -> str:
        size = f", {self.image_size} pixels" if self.image_size else ""
        under = f" under {self.prefix}" if self.prefix else ""
        taken = f"{described(self.config)}{size}, {len(self.state)} tensors{under}; {len(self.left)} others left out"
        return f"{self.maker}: {taken}" + "".join(f"; assumed: {one}" for one in self.assumed)

    def at(self, image_size: int) -> Foreign:
        """With positions resampled for images of another size. Raises ValueError for one that the patch does not divide."""
        if self.image_size in (None, image_size) or not isinstance(self.config, ViT):
            return self
        if image_size % self.config.patch:
            raise ValueError(
                f"data.image_size = {image_size}: the file's patches of {self.config.patch} pixels do not divide it"
            )
        name, token, side = "encoder.pos_embedding", self.config.pool == "cls", image_size // self.config.patch
        if token and has_v3_positions(self.state):
            waves_PD = sincos_positions(side, self.config.width).to(self.state[name].dtype)
            positions = nn.functional.pad(waves_PD[None], (0, 0, 1, 0))
            said = f"positions for {image_size} pixels made anew, as v3's fixed waves"
        else:
            positions = resampled(self.state[name], side, token)
            said = f"positions for {self.image_size} pixels resampled for {image_size} (bicubic, as timm does)"
        return replace(
            self, state={**self.state, name: positions}, image_size=image_size, assumed=(*self.assumed, said)
        )


@dataclass(frozen=True)
class Candidate:
    """A network at a place. `problem`: what keeps it from being one; then `seen` may be absent."""

    place: Place
    state: State
    taken: frozenset[str]
    seen: Seen | None
    problem: str | None

    @property
    def is_key(self) -> bool:
        return any(KEY.fullmatch(part) for part in self.place.parts)


def read(
    path: Path,
    told: Mapping[str, object] | None = None,
    prefix: str | None = None,
    branch: str | None = None,
) -> Foreign:
    """`told`: fields of the encoder as the user says. `prefix`: where in the file the network is. `branch`: one of BRANCHES.

    Raises ValueError, one line with the keys or what to add, for a file that is damaged, of another kind, lacks a part, or
    leaves something open.
    """
    return read_contents(contents(path), path, told, prefix, branch)


def read_contents(
    found: Contents,
    path: Path,
    told: Mapping[str, object] | None = None,
    prefix: str | None = None,
    branch: str | None = None,
) -> Foreign:
    if not found.tensors:
        raise ValueError(f"{path}: holds no weights, only {listed([str(key) for key in found.values])}")
    candidate = _chosen(candidates(found, prefix), found, path, prefix, branch)
    assert candidate.seen is not None
    if found.carried is not None:
        return _own_export(from_text(found.carried, path), candidate, found, path, told)
    maker = maker_of(candidate.place, found, candidate.state, path.name)
    where = f"{path}: {maker.name}" + (f" under {candidate.place.path}" if candidate.place.path else "")
    if isinstance(candidate.seen.config, ResNet) and (kind := anti_aliased(candidate.place, found, path.name)):
        raise ValueError(
            f"{where}, but {kind}: an anti-aliased ResNet, which this suite does not have; choose weights without"
        )
    if "style='caffe'" in found.said or 'style="caffe"' in found.said:
        raise ValueError(
            f"{where}, but its settings say style='caffe': the stride lies in another convolution; only 'pytorch' is known"
        )
    try:
        decided: Decided = decide(candidate.seen, maker, candidate.place, dict(told or {}))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    left = tuple(name for name in found.tensors if name not in candidate.taken)
    return Foreign(
        maker.name,
        decided.config,
        candidate.seen.image_size,
        candidate.state,
        left,
        candidate.place.path,
        decided.padding,
        decided.assumed,
    )


def _own_export(
    carried: Carried, candidate: Candidate, found: Contents, path: Path, told: Mapping[str, object] | None
) -> Foreign:
    """By the config in the file, which its tensors must fit."""
    config, own = carried.config.encoder, carried.config
    if told:
        raise ValueError(
            f"{path}: --set encoder.{next(iter(told))}: would change nothing, the file carries its own config"
        )
    size = own.data.image_size if isinstance(config, ViT) else None
    if problem := problems(shapes_of(config, size or 224), candidate.state):
        raise ValueError(f"{path}: tensors do not fit the config in the file: {problem}")
    left = tuple(name for name in found.tensors if name not in candidate.taken)
    return Foreign(OWN, config, size, candidate.state, left, candidate.place.path, carried=carried)


def candidates(found: Contents, prefix: str | None = None) -> list[Candidate]:
    """Every place that has the sign of a layout, in the file's order. What the user names may have anything beside."""
    places = {
        (name.removesuffix(layout.sign), layout)
        for layout in LAYOUTS
        for name in found.tensors
        if name == layout.sign or name.endswith(f".{layout.sign}")
    }
    order = {name: place for place, name in enumerate(found.tensors)}
    there = sorted(places, key=lambda one: order[one[0] + one[1].sign])
    return [_candidate(found, path, layout, named=prefix is not None) for path, layout in there]


def _candidate(found: Contents, path: str, layout: Layout, named: bool) -> Candidate:
    inside = {name.removeprefix(path): tensor for name, tensor in found.tensors.items() if name.startswith(path)}
    own = {name: tensor for name, tensor in inside.items() if name.partition(".")[0] in layout.roots}
    taken = frozenset(path + name for name in own)
    beside = frozenset(part for name in found.tensors if name not in taken for part in name.split("."))
    place = Place(path, layout.name, beside)
    strange = sorted({first for name in inside if (first := name.partition(".")[0]) not in layout.roots})
    strange = (
        [] if named else [first for first in strange if not HEADS.fullmatch(first) and not _nests(found, path, first)]
    )
    try:
        state = with_class_position(layout.middle(own))
        seen = architecture_of(state)
        problem = problems(shapes_of(seen.config, seen.image_size or 224), state)
    except ValueError as error:
        return Candidate(place, {}, taken, None, f"but {error}")
    if problem:
        problem = f"{described(seen.config)}, but tensors are {problem}"
    elif strange:
        problem = (
            f"{described(seen.config)}, but {listed(strange)} beside it may be part of the network; if they are heads, "
            f"add --prefix {path or '.'}"
        )
    return Candidate(place, state, taken, seen, problem)


def _nests(found: Contents, path: str, first: str) -> bool:
    """Is what lies under this name a network of its own?"""
    return any(f"{path}{first}." in name and name.endswith(layout.sign) for layout in LAYOUTS for name in found.tensors)


def _chosen(
    all_of_them: Sequence[Candidate], found: Contents, path: Path, prefix: str | None, branch: str | None
) -> Candidate:
    if not all_of_them:
        raise ValueError(
            f"{path}: a plain network, but neither a ResNet nor a ViT: the first tensors are {listed([*found.tensors], 5)}"
        )
    asked = [one for one in all_of_them if prefix is None or _is_named(one.place.path, prefix)]
    if not asked:
        raise ValueError(f"{path}: --prefix {prefix}: no network there; there are {_paths(all_of_them)}")
    complete = [one for one in asked if one.problem is None]
    if not complete:
        worst = max(asked, key=lambda one: len(one.taken))
        maker = maker_of(worst.place, found, worst.state, path.name) if worst.seen else None
        under = f" under {worst.place.path}" if worst.place.path else ""
        raise ValueError(f"{path}: {maker.name if maker else 'a network'}{under}, {worst.problem}")
    of_branch = [one for one in complete if branch is None or one.is_key == (branch in ("key", "teacher"))]
    if not of_branch:
        raise ValueError(f"{path}: --branch {branch}: there is none; complete networks are {_paths(complete)}")
    if branch is None and prefix is None:
        of_branch = _usual(of_branch)
    most = max(len(one.state) for one in of_branch)
    largest = [one for one in of_branch if len(one.state) == most]
    different = [one for one in largest if not _same(one.state, largest[0].state)]
    if different:
        raise ValueError(
            f"{path}: {1 + len(different)} networks of one size; choose with --prefix: {_paths([largest[0], *different])}"
        )
    return max(largest, key=lambda one: len(one.place.parts))  # the innermost wrapper names the maker best


def _usual(complete: Sequence[Candidate]) -> list[Candidate]:
    """DINO's and iBOT's authors evaluate the teacher (eval_knn.py, checkpoint_key="teacher"), all others the query encoder."""
    teachers = [one for one in complete if "teacher" in one.place.parts and one.place.has("last_layer", "head")]
    return teachers or [one for one in complete if not one.is_key] or list(complete)


def _is_named(path: str, prefix: str) -> bool:
    """Whole, or without the dict that holds the tensors; `.` is the outermost place."""
    wanted, path = prefix.strip("."), path.rstrip(".")
    return path == wanted or (wanted != "" and path.endswith(f".{wanted}"))


def _paths(those: Sequence[Candidate]) -> str:
    return ", ".join(one.place.path or "." for one in those)


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def encoder_of(foreign: Foreign, path: Path) -> Encoder:
    """Built and filled, to the last tensor. Raises ValueError with the keys that are missing, too many or of another shape."""
    size = foreign.image_size or 224
    if found := problems(shapes_of(foreign.config, size), foreign.state):
        raise ValueError(f"{path}: {foreign.maker}, {described(foreign.config)}, but tensors are {found}")
    encoder = build_encoder(foreign.config, size)
    if foreign.padding is not None:
        convolution = encoder.backbone.conv1
        assert isinstance(convolution, nn.Conv2d)
        convolution.padding = (foreign.padding, foreign.padding)
    return filled(encoder, foreign.state)


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """All of it or nothing. Raises ValueError, one line with the keys, for tensors that do not fit the config beside them."""
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if found := problems(wanted, state) or _uncounted(wanted, state):
        raise ValueError(f"{path}: tensors do not fit its config: {found}")
    module.load_state_dict(state)


def _uncounted(wanted: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    missing = [name for name in wanted if name not in state]
    return f"{len(missing)} missing ({listed(missing)})" if missing else None


__all__ = ["BRANCHES", "Foreign", "described", "encoder_of", "fill", "read", "read_contents"]
