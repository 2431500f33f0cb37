"""Who may import whom: DESIGN's table as a literal, held against the source by `ast`, with lazy and type-only imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("moco", "slurm", "experiments", "analysis", "sweeps")

# What of ours a room may import beside itself. The longest key that a module's name begins with is its room.
OURS: dict[str, set[str]] = {
    "moco": {"moco"},
    "moco.config": set(),
    "moco.methods": {"moco.config"},
    "slurm": set(),
    "experiments": {"experiments", "moco.data.catalog"},  # the front door, and `python -m experiments`
    "experiments.console": {"experiments", "analysis"},  # `moco VERB`, for the verbs of both
    "experiments.store": set(),
    "experiments.plan": {"experiments.store", "moco.config", "moco.methods", "moco.data.catalog"},
    "experiments.run": {"experiments.store", "experiments.plan", "experiments.run.cluster", "moco"},
    "experiments.run.cluster": {"slurm"},  # the one door to it
    "experiments.state": {"experiments.store", "experiments.run.cluster"},
    "experiments.tracking": {"experiments.store", "experiments.state", "experiments.plan", "moco"},
}
_BELOW = {f"experiments.{room}" for room in ("store", "plan", "run", "state", "tracking")}
OURS |= {
    "experiments.launch": {*_BELOW, "moco"},
    "experiments.evaluate": {*_BELOW, "experiments.launch", "moco"},
    "experiments.search": {*_BELOW, "experiments.launch", "moco"},
    "experiments.export": {*_BELOW, "experiments.launch", "experiments.evaluate", "moco"},
    "experiments.commands": {"experiments", "moco", "analysis"},
    "analysis": {"experiments.store"},
    "sweeps": {"experiments", "moco.config", "moco.methods"},
}

# Libraries that a room may import. A row for a single module is an exception.
OUTSIDE: dict[str, set[str]] = {
    "moco": {"torch", "torchvision", "numpy", "PIL"},
    "moco.config": set(),
    "moco.methods": set(),
    "moco.data.builtin": {"torch", "sklearn", "numpy"},
    "moco.transfer.scores": {"torch", "numpy", "pycocotools"},
    "moco.weights": {"torch", "torchvision", "safetensors", "numpy"},
    "slurm": {"submitit"},
    "experiments": {"rich"},
    "experiments.evaluate.look": {"jinja2", "torch", "sklearn", "numpy", "pyarrow", "PIL"},  # a page of pictures
    "experiments.store": set(),
    "experiments.store.summary": {"scipy"},  # Student's t, imported when an interval is asked for
    "experiments.plan": set(),
    "experiments.run": {"torch", "psutil", "pynvml"},
    "experiments.state": set(),
    "experiments.search": {"rich", "optuna"},
    "experiments.tracking": {"mlflow"},
    "experiments.tracking.database": {"mlflow", "alembic", "sqlalchemy"},  # they come with mlflow
    "experiments.tracking.model": {"mlflow", "torch"},
    "experiments.launch.verify_resume": {"torch"},  # compares the weights of two runs
    "experiments.commands.benchmark": {"tests"},  # the benchmarks of a checkout
    "analysis": {"polars", "seaborn", "matplotlib", "scipy", "numpy", "jinja2"},
    "analysis.tracked": {"polars", "mlflow"},
    "sweeps": set(),
}

MOST_FLOORS = 9
WORKERS = {  # of ours, in processes of their own
    "experiments": {"sync"},  # follows a sweep into MLflow
    "experiments.run.worker": set[str](),
    "experiments.search.worker": set[str](),
    "experiments.launch.job": set[str](),
    "experiments.tracking.job": set[str](),
    "experiments.commands.doctor": set[str](),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imports(path: Path) -> Iterator[str]:
    """Dotted names; of `from a import b` it is `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room they reach"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def begins(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def row(table: dict[str, set[str]], module: str) -> str:
    return max((room for room in table if begins(module, room)), key=len)


def allowed(name: str, module: str) -> bool:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "_typeshed":
        return True
    if top in PACKAGES:
        room = row(OURS, module)
        return row(OURS, name) == room or any(begins(name, other) for other in OURS[room])
    return top in OUTSIDE[row(OUTSIDE, module)]


@pytest.mark.parametrize("module", SOURCES)
def test_a_file_imports_only_what_its_room_may(module: str) -> None:
    wrong = sorted({name for name in imports(SOURCES[module]) if not allowed(name, module)})
    assert not wrong, f"{module} imports {', '.join(wrong)}"


def test_the_rule_can_fail() -> None:
    assert not allowed("mlflow", "experiments.plan.sweep")
    assert not allowed("experiments.plan.sweep", "moco.train")
    assert not allowed("moco.train", "sweeps.queue_size")
    assert not allowed("experiments.plan.sweep", "analysis.frame")
    assert not allowed("mlflow", "analysis.report.report")
    assert not allowed("moco.config.Config", "experiments.store.run")
    assert not allowed("experiments.launch.local", "experiments.state.find")
    assert not allowed("torch", "moco.config.run")


def modules_of(module: str) -> set[str]:
    """Modules of ours that a module imports. A name out of a package's own file counts as that package."""
    found = set()
    for name in imports(SOURCES[module]):
        while name and name not in SOURCES:
            name = name.rpartition(".")[0]
        found |= {name} - {"", module}
    return found


def test_no_circles() -> None:
    try:
        TopologicalSorter({module: modules_of(module) for module in SOURCES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """1 for a room that imports no other, else one more than the highest that it imports. The graph has no circle."""
    found: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        found[room] = 1 + max((found[below] for below in graph[room]), default=0)
    return found


def test_the_floors_of_experiments() -> None:
    graph: dict[str, set[str]] = {}
    for module in (m for m in SOURCES if begins(m, "experiments")):
        room = row(OURS, module)
        below = {row(OURS, name) for name in modules_of(module) if begins(name, "experiments")}
        graph.setdefault(room, set()).update(below - {room})
    found = floors(graph)
    assert max(found.values()) <= MOST_FLOORS, found


def started(path: Path) -> Iterator[tuple[str, str]]:
    """(module, first argument) of every `-m module` that is written as a list or a tuple, but for words to be printed."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.List | ast.Tuple):
            texts = [part.value if isinstance(part, ast.Constant) else None for part in node.elts]
            for place in range(len(texts) - 1):
                flag, module, *rest = texts[place:]
                printed = place > 0 and texts[place - 1] == "python"
                if flag == "-m" and isinstance(module, str) and not printed:
                    yield module, next((text for text in rest if isinstance(text, str)), "")


@pytest.mark.parametrize("module", SOURCES)
def test_only_workers_of_ours_are_started_as_processes(module: str) -> None:
    for name, first in started(SOURCES[module]):
        if name.partition(".")[0] in PACKAGES:
            assert name in WORKERS and (not WORKERS[name] or first in WORKERS[name]), f"{module} starts {name} {first}"  # noqa: PT018


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys, moco.config, moco.methods, moco.config.plain, moco.data.catalog, moco.data.folder,"
        " experiments.plan.sweep, experiments.plan.baselines, experiments.commands.sweep, experiments.commands.search,"
        " experiments.state.state;"
        "print(sorted({'torch', 'numpy', 'mlflow', 'optuna', 'seaborn', 'polars', 'sklearn', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_no_room_for_leftovers_and_no_shadowing() -> None:
    stems = {module.rpartition(".")[2] for module in SOURCES}
    assert not stems & {"utils", "util", "helpers", "common", "misc"}
    sweeps = {module.partition(".")[2] for module in SOURCES if begins(module, "sweeps")}
    assert not sweeps & sys.stdlib_module_names, (
        "a sweep file that shadows the standard library breaks every other sweep"
    )
