"""One thread of torch, and which tests need what: markers by folder and fixture, and by the list of the slow ones.

One thread: the nets here are too small for more, and two test processes share two cores. Plain `pytest` is the quick set,
which needs no server; a test that is named on the command line runs whatever it needs; `make test` runs all.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

TESTS = Path(__file__).parent
SERVERS = {
    "cluster": "slurm",
    "wide_cluster": "slurm",
    "database": "database",
    "postgres": "database",
}  # fixture: marker


def pytest_configure(config: pytest.Config) -> None:
    """Of tests that are named none is left out; an expression after -m is the user's own."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS and not any(
        Path(argument).resolve() in (TESTS, TESTS.parent) for argument in config.args
    )
    own = any(argument.startswith("-m") for argument in config.invocation_params.args)
    if named and not own and not hasattr(config, "workerinput"):
        config.option.markexpr = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = set(slow_tests())
    for item in items:
        name, _, _ = item.nodeid.partition("[")
        if slow & {name, name.partition("::")[0]}:
            item.add_marker("slow")
        if item.path.parent.name == "slurm":
            item.add_marker("slurm")
        for fixture in SERVERS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(SERVERS[fixture])
    _without_gpu(config, items)


def slow_tests() -> Iterator[str]:
    """Modules and tests of more than a second."""
    for line in (TESTS / "slow.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            yield line


def _without_gpu(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where there is no GPU its tests are skipped with that reason; CI, which wants nothing skipped, never has one."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if torch.cuda.is_available():
        return
    if os.environ.get("CI"):
        config.hook.pytest_deselected(items=on_gpu)
        items[:] = [item for item in items if item not in on_gpu]
    for item in on_gpu:
        item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))
