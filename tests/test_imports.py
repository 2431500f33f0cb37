"""Who may import whom: DESIGN's table as a literal, held against the source by `ast`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# room -> what of ours, and which outside libraries, it may import (longest prefix; `room/file.py` is an exception for a file)
OURS: dict[str, set[str]] = {
    "moco": {"moco"},
    "slurm": {"slurm"},
    "experiments": {"experiments", "moco", "slurm"},
    "sweeps": {"experiments", "moco.config", "moco.methods", "sweeps"},
    "analysis": {"analysis", "experiments.store"},
    "experiments/store": {"experiments.store"},
    "experiments/commands": {
        "experiments",
        "moco",
        "slurm",
        "analysis.ablation",
        "analysis.formats",
        "analysis.frame",
        "analysis.search",
    },
}
OUTSIDE: dict[str, set[str]] = {
    "moco": {"torch", "torchvision", "numpy", "PIL"},
    "moco/data/builtin.py": {"torch", "sklearn", "numpy"},
    "moco/exchange": {"torch", "safetensors"},
    "moco/transfer": {"torch", "torchvision", "numpy", "PIL"},
    "moco/transfer/scores.py": {"torch", "numpy", "pycocotools"},
    "slurm": {"submitit"},
    "experiments": {"rich"},
    "experiments/store": set(),
    "experiments/store/summary.py": {"scipy"},  # Student's t, imported when an interval is asked for
    "experiments/benchmark": {"torch", "torchvision", "numpy", "PIL", "sklearn"},
    "experiments/benchmark/peers": {"torch", "torchvision", "numpy", "PIL", "lightly", "pytorch_lightning"},
    "experiments/run/worker.py": {"torch"},
    "experiments/run/zygote.py": {"torch"},
    "experiments/search": {"optuna"},
    "experiments/tracking": {"mlflow"},
    "experiments/tracking/model.py": {"mlflow", "torch"},
    "sweeps": set(),
    "analysis": {"polars", "seaborn", "matplotlib", "scipy", "numpy"},
    "analysis/tracked.py": {"polars", "mlflow"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room they reach"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rule(table: dict[str, set[str]], path: str) -> set[str]:
    return table[max((key for key in table if path.startswith(key)), key=len)]


def allowed(name: str, path: str) -> bool:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return True
    if top in OURS:
        return any(name == ours or name.startswith(f"{ours}.") for ours in rule(OURS, path))
    return top in rule(OUTSIDE, path)


SOURCES = sorted(str(p.relative_to(ROOT)) for room in OURS for p in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES)
def test_a_file_imports_only_what_its_room_may(path: str) -> None:
    wrong = sorted({name for name in imports(ROOT / path) if not allowed(name, path)})
    assert not wrong, f"{path} imports {', '.join(wrong)}"


def test_the_rule_can_fail() -> None:
    assert not allowed("mlflow", "experiments/plan/sweep.py")
    assert not allowed("experiments.plan.sweep", "moco/train.py")
    assert not allowed("moco.train", "sweeps/queue_size.py")
    assert not allowed("experiments.plan.sweep", "analysis/frame.py")
    assert not allowed("experiments.plan.sweep", "experiments/store/run.py")
    assert not allowed("mlflow", "analysis/report/report.py")


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys, moco.config, moco.methods, moco.identity, moco.data.catalog, moco.data.folder, experiments.sweep,"
        " experiments.baselines, experiments.cli, experiments.search.cli, experiments.reconcile;"
        "print(sorted({'torch', 'numpy', 'mlflow', 'optuna', 'seaborn', 'polars', 'sklearn', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [path for path in SOURCES if not path.startswith("analysis/")])
def test_the_analysis_is_called_and_never_started_as_a_process(path: str) -> None:
    texts = [n.value for n in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(n, ast.Constant)]
    assert not {"analysis", "-m analysis"} & set(texts) or path == "experiments/commands/answers.py", path


def test_no_room_for_leftovers_and_no_shadowing() -> None:
    stems = {Path(p).stem for p in SOURCES}
    assert not stems & {"utils", "util", "helpers", "common", "misc"}
    sweeps = {Path(p).stem for p in SOURCES if p.startswith("sweeps/")} - {"__init__"}
    assert not sweeps & sys.stdlib_module_names, (
        "a sweep file that shadows the standard library breaks every other sweep"
    )
