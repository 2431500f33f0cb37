"""What a newcomer adds stands in one file: it is written here, and found everywhere without a line elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import analysis.columns
import experiments.plan
import moco.data.sets
from analysis.ablation import ablation_table
from analysis.columns import LEFT, Column
from analysis.formats import FORMATS, render
from analysis.frame import load_sweep
from experiments.__main__ import main
from experiments.plan import registry
from experiments.plan.baselines import digits
from experiments.plan.registry import baseline_config, baselines
from moco.config import Data
from moco.data import catalog, load, training_images
from tests.benchmarks import registry as benchmark_registry
from tests.benchmarks import suite
from tests.support.analysis_runs import unfinished_store

Add = Callable[[ModuleType, str, str], None]


@pytest.fixture
def add_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Lay a file beside those of a package; what it registered is forgotten afterwards."""
    scans = (registry._import_all, catalog._import_all)
    registers = (registry._REGISTERED, catalog._FACTS, catalog._LOADERS, benchmark_registry._REGISTERED)
    registry.baselines()
    catalog.sets()
    before = [dict(register) for register in registers]

    def add(package: ModuleType, name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        for scan in scans:
            scan.cache_clear()

    yield add
    for register, content in zip(registers, before, strict=True):
        register.clear()
        register.update(content)  # type: ignore[arg-type]
    for scan in scans:
        scan.cache_clear()


def test_a_baseline_is_one_function(add_file: Add, capsys: pytest.CaptureFixture[str]) -> None:
    add_file(
        experiments.plan,
        "wide_digits",
        '''
from dataclasses import replace

from experiments.plan.baselines import digits
from experiments.plan.registry import baseline
from moco.config import Config, Head


@baseline
def wide_digits() -> Config:
    """The digits with 96 dimensions. Source: ours."""
    return replace(digits(), head=Head((), 96))
''',
    )
    assert list(baselines())[-1] == "wide_digits"
    assert baseline_config("wide_digits").head.dim == 96
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    assert "wide_digits" in capsys.readouterr().out
    with pytest.raises(ValueError, match="did you mean wide_digits"):
        baseline_config("wide_digit")


def test_a_baseline_without_a_contract_is_refused() -> None:
    def bare():  # type: ignore[no-untyped-def]
        return digits()

    with pytest.raises(ValueError, match="baseline bare: has no docstring"):
        registry.baseline(bare)


def test_a_data_set_is_one_entry(add_file: Add) -> None:
    add_file(
        moco.data.sets,
        "stripes",
        '''
from moco.data.catalog import SetFacts, image_set


@image_set(SetFacts(train=40, test=10, classes=2, native_size=8, licence="drawn here"))
def stripes(data, log):
    """Rows or columns of light."""
    import torch

    from moco.data import splits

    row_8 = torch.arange(8) % 2 * 255
    both_2388 = torch.stack([row_8.expand(3, 8, 8), row_8[:, None].expand(3, 8, 8)]).to(torch.uint8)
    train_N, test_N = torch.arange(40) % 2, torch.arange(10) % 2
    return splits.image_data(
        splits.Arrays(both_2388[train_N], train_N, both_2388[test_N], test_N, ("rows", "columns")), data
    )
''',
    )
    data = Data(name="stripes", image_size=8)
    assert training_images(data) == 36
    loaded = load(data, lambda line: None)
    assert (len(loaded.train), len(loaded.validation), len(loaded.test), loaded.classes) == (
        36,
        4,
        10,
        ("rows", "columns"),
    )
    images_N388 = loaded.test.images.take(torch.arange(10))
    assert torch.equal(images_N388[0], images_N388[1].transpose(-1, -2))
    with pytest.raises(ValueError, match=r"did you mean stripes\? Known: digits, digits4, .*, stripes, folder"):
        training_images(Data(name="stripe", image_size=8))


def test_a_benchmark_is_one_file(add_file: Add, capsys: pytest.CaptureFixture[str]) -> None:
    add_file(
        suite,
        "halves",
        """
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result


@benchmark("a half against a whole", {"parts": 2}, obeys=())
def run(options: Options) -> list[Result]:
    parts = options.whole("parts")
    return [Result("halves", ratio=float(parts), ours=float(parts), peer=1.0, unit="parts", against="whole")]
""",
    )
    assert main(["benchmark", "halves", "--set", "parts=4"]) == 0
    assert capsys.readouterr().out.startswith("4.00x  halves against whole\n")
    with pytest.raises(SystemExit):
        main(["benchmark", "--help"])
    assert "halves" in capsys.readouterr().out


@pytest.mark.parametrize("format", FORMATS)
def test_a_column_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    """Beside the others nothing changes: without its cells the table is the one from before."""
    unfinished_store(tmp_path)
    table = ablation_table(*load_sweep(tmp_path, "queue_size"))
    before = render(table, format, width=1000)
    best = Column(
        "luckiest",
        "luckiest seed",
        lambda row: f"no. {max((m.seed for m in row.members), default=0)}",
        LEFT,
        numbers=lambda row: {"luckiest": len(row.members)},
    )
    monkeypatch.setattr(analysis.columns, "COLUMNS", [best, *analysis.columns.COLUMNS])
    after = render(table, format, width=1000)
    if format == "csv":
        heads, *rows = [line.split(",") for line in after.splitlines()]
        assert heads[-2] == "luckiest"
        assert len(rows) == 5
        assert "luckiest" not in before
    else:
        assert after.count("luckiest seed") == 1
        assert after.count("no. 4") == 5
        assert "luckiest" not in before
