"""What a file of weights holds: tensors under the path they have in it, and words that tell its maker. Nothing is executed.

Read are torch's files, old and new, safetensors, and plain pickles of arrays (detectron2's). Objects of other libraries beside
the weights (a Namespace, numpy's scalars, a library's own dict) are not built: in their place stands an empty object that
keeps what was saved of them as plain values.

    contents    the file, read
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moco.checkpoint import load

CARRIED = "moco_ablation_suite"  # what an export of this suite says of itself, under this key
TRANSPARENT = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # torch's own wrappers: any depth
ARCHITECTURES = ("arch", "architecture", "model", "model_name", "backbone", "name")  # keys whose text names a network
TALKS = ("args", "cfg", "config", "hyper_parameters", "opt", "meta")  # what makers keep of their settings
MOST_CLASSES = 200


@dataclass(frozen=True)
class Contents:
    """`tensors`: path in the file, joined by dots -> tensor. `modules`: paths of modules that torch noted beside them.

    `names`: what the file calls the network (`arch`, `args.model`). `said`: all its settings, as text. `carried`: what an
    export of this suite says of itself. `values`: the outermost plain dict.
    """

    tensors: dict[str, Tensor]
    values: Mapping[str, Any]
    modules: frozenset[str] = frozenset()
    names: tuple[str, ...] = ()
    said: str = ""
    carried: str | None = None


class StandIn:
    """In the place of an object that is not built. `said`: what was saved of it, if that was a dict."""

    said: dict[str, Any]

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        made = object.__new__(cls)
        made.said = {}
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        """Takes whatever the class in its place takes."""

    def __setstate__(self, state: Any) -> None:
        self.said = state if isinstance(state, dict) else {}


def contents(path: Path) -> Contents:
    """Raises ValueError, one line with the path, for a file that is damaged, of another kind, or only an object of a class."""
    if _beginning(path)[8:9] == b"{":
        return _safetensors(path)
    loaded = _torch_file(path)
    if not isinstance(loaded, Mapping):
        raise ValueError(
            f"{path}: it holds a {type(loaded).__name__}, not a dict of tensors; in the code that made it, save "
            "net.state_dict() instead of the object"
        )
    return _sorted_out(loaded)


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error.strerror})") from None


def _safetensors(path: Path) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error})") from None
    names = tuple(text for key, text in metadata.items() if key in ARCHITECTURES)
    return Contents(_stripped(tensors), tensors, names=names, carried=metadata.get(CARRIED))


def _torch_file(path: Path) -> Any:
    try:
        return load(path)
    except ValueError as refused:
        named = _classes(path)
        if not named:
            raise
        try:
            if not _is_torch_s(path):
                with path.open("rb") as file:
                    return _ArraysOnly(file).load()
            with torch.serialization.safe_globals([(_replacement(name), name) for name in named]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # whatever the bytes were: the first reason is the better one
            raise refused from None


def _is_torch_s(path: Path) -> bool:
    """Zip, or a pickle that begins with the magic number of torch before 1.6."""
    first = _beginning(path)
    return first.startswith(b"PK") or b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19" in first


def _classes(path: Path) -> list[str]:
    """The classes of other libraries that the file names, from its pickle, which is only looked through.

    Empty if one of them is a function of Python itself (exec, getattr): those are in no honest file.
    """
    try:
        if _beginning(path).startswith(b"PK"):
            found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        else:
            found = list(_globals_of(path))
    except Exception:  # not a pickle at all
        return []
    honest = len(found) <= MOST_CLASSES and not any(name.startswith(("builtins.", "__builtin__.")) for name in found)
    return found if honest else []


def _globals_of(path: Path) -> Iterator[str]:
    """`module.name` of each class in the pickles of a file, one after the other, as torch before 1.6 and pickle write them."""
    with path.open("rb") as file:
        for _ in range(5):  # torch's are: magic number, version, system, content, keys
            texts: list[str] = []
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(texts[-2:])
                elif isinstance(argument, str):
                    texts.append(argument)
            if not file.peek(1):
                return


def _replacement(name: str) -> Any:
    """What is built in the place of a class: a dict for another library's dict, an empty object for all else."""
    if name == "collections.defaultdict":
        return lambda *_: OrderedDict[str, Any]()
    return OrderedDict if name.lower().endswith(("dict", "attrdict")) else type("StandIn", (StandIn,), {"of": name})


def _array(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray[Any, Any]:
    return np.frombuffer(data, dtype).reshape(shape, order=order)


_ARRAYS: dict[str, Any] = {  # what numpy writes of an array, and nothing else
    **{f"numpy.{core}.multiarray._reconstruct": np.empty(0).__reduce__()[0] for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array for core in ("core", "_core")},
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": lambda text, encoding: str(text).encode(str(encoding)),
}


class _ArraysOnly(pickle.Unpickler):
    """Plain values and numpy's arrays; anything else in the file is a stand-in."""

    def find_class(self, module: str, name: str) -> Any:
        return _ARRAYS.get(f"{module}.{name}", StandIn)


@dataclass
class _Found:
    tensors: dict[str, Tensor] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    carried: str | None = None


def _sorted_out(loaded: Mapping[Any, Any]) -> Contents:
    found = _Found(carried=loaded[CARRIED] if isinstance(loaded.get(CARRIED), str) else None)
    _walk(loaded, "", found)
    names, said = [], io.StringIO()
    for settings in (loaded, *(_plain(loaded.get(key)) for key in TALKS)):
        names += [settings[key] for key in ARCHITECTURES if isinstance(settings.get(key), str)]
        print(*(f"{key}={value}" for key, value in settings.items() if isinstance(value, str | int | float)), file=said)
    return Contents(
        _stripped(found.tensors),
        loaded,
        frozenset(map(_without_wrappers, found.modules)),
        tuple(names),
        said.getvalue(),
        found.carried,
    )


def _plain(value: Any) -> Mapping[Any, Any]:
    value = value.said if isinstance(value, StandIn) else value
    return value if isinstance(value, Mapping) else {}


def _walk(level: Mapping[Any, Any], path: str, found: _Found, depth: int = 0) -> None:
    """Every tensor below, wherever a dict keeps it; what torch noted of the modules (`_metadata`) beside them."""
    if depth > 8:
        return
    metadata = getattr(level, "_metadata", None)
    if isinstance(metadata, Mapping):
        found.modules |= {f"{path}{name}" for name in metadata if isinstance(name, str) and name}
        if isinstance(metadata.get(CARRIED), str):
            found.carried = metadata[CARRIED]
    for key, value in level.items():
        if isinstance(value, Tensor):
            found.tensors[f"{path}{key}"] = value.detach()
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            found.tensors[f"{path}{key}"] = torch.from_numpy(np.ascontiguousarray(value))
        elif isinstance(value, Mapping):
            _walk(value, f"{path}{key}.", found, depth + 1)


def _stripped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_without_wrappers(name): tensor for name, tensor in tensors.items()}


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in TRANSPARENT)


__all__ = ["CARRIED", "Contents", "StandIn", "contents"]
