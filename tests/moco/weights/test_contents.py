"""Nothing in a file is executed, whatever it asks for; what is plain in it is read."""

from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from moco.weights.contents import StandIn, contents


class Command:
    """Makes a file when it is unpickled by a reader that executes."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def zipped(content: Any, path: Path) -> None:
    torch.save(content, path)


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("save", [zipped, legacy, plain])
@pytest.mark.parametrize(
    "harm",
    [
        lambda mark: Command(os.system, f"touch {mark}"),
        lambda mark: Command(os.mkdir, str(mark)),
        lambda mark: Command(exec, f"open({str(mark)!r}, 'w')"),
        lambda mark: Command(open, str(mark), "w"),
        lambda mark: Command(Path.touch, mark),
        lambda mark: Command(np.save, str(mark), 1),
    ],
    ids=["os.system", "os.mkdir", "exec", "open", "Path.touch", "numpy.save"],
)
def test_no_command_is_executed(harm: Callable[[Path], Any], save: Callable, tmp_path: Path) -> None:
    """Read or refused: either way nothing has happened. The control: Python's own reader executes it."""
    mark, file = tmp_path / "executed", tmp_path / "file.pth"
    save({"weight": np.ones(2), "harm": harm(mark)}, file)
    with suppress(ValueError):
        contents(file)
    assert not mark.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]


def test_the_control_executes(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Command(os.mkdir, str(tmp_path / "executed"))))
    assert (tmp_path / "executed").exists()


class EasyDict(dict):  # type: ignore[type-arg]
    """Some library's."""


@pytest.mark.parametrize("save", [zipped, legacy])
def test_tensors_beside_objects_of_other_libraries(save: Callable, tmp_path: Path) -> None:
    tensors = {"a.weight": torch.arange(3.0), "a.bias": torch.ones(2, dtype=torch.float64)}
    others = {
        "args": argparse.Namespace(arch="resnet50", lr=0.03),
        "best": np.float64(1.5),
        "path": Path("x"),
        "cfg": EasyDict(model="resnet50d", deep=EasyDict(a=1)),
        "meters": defaultdict(list),
        "object": SimpleNamespace(name="x"),
    }
    save({"state_dict": tensors, **others}, tmp_path / "file.pth")
    found = contents(tmp_path / "file.pth")
    assert set(found.tensors) == {"state_dict.a.weight", "state_dict.a.bias"}
    assert all(torch.equal(found.tensors[f"state_dict.{name}"], tensor) for name, tensor in tensors.items())
    assert isinstance(found.values["args"], StandIn)
    assert found.names == ("resnet50", "resnet50d")  # of args, then of cfg
    assert "lr=0.03" in found.said


def test_torch_notes_the_modules_beside_a_state_dict(tmp_path: Path) -> None:
    net = nn.Sequential(OrderedDict(first=nn.Linear(2, 2), act=nn.ReLU(), inner=nn.Sequential(nn.Dropout())))
    torch.save({"model": net.state_dict()}, tmp_path / "file.pth")
    assert contents(tmp_path / "file.pth").modules == {"model.first", "model.act", "model.inner", "model.inner.0"}


def test_arrays_of_a_plain_pickle(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.asfortranarray(np.ones((2, 2))), "text": "x"}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "file.pkl").write_bytes(pickle.dumps({"model": arrays}, protocol=protocol))
        found = contents(tmp_path / "file.pkl").tensors
        assert set(found) == {"model.a", "model.b"}
        assert np.array_equal(found["model.a"].numpy(), arrays["a"])
        assert np.array_equal(found["model.b"].numpy(), arrays["b"])


@pytest.mark.parametrize(
    "bytes_", [b"", b"PK\x03\x04", b"\x80\x02.", b"{}", b"\x10\0\0\0\0\0\0\0{not json at all}", b"]q"]
)
def test_bytes_of_any_kind_are_one_line(bytes_: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes_)
    with pytest.raises(ValueError, match="not a readable checkpoint") as error:
        contents(tmp_path / "file")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["none", "."])
def test_no_file_is_one_line(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such checkpoint|not a readable checkpoint \(Is a directory\)"):
        contents(tmp_path / path)
