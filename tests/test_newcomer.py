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
import moco.evaluation
from analysis.ablation import ablation_table
from analysis.columns import LEFT, Column
from analysis.formats import FORMATS, render
from analysis.frame import load_sweep
from experiments.__main__ import main
from experiments.plan import registry
from experiments.plan.baselines import digits
from experiments.plan.registry import baseline_config, baselines
from experiments.run.readouts import relearn_all
from experiments.store import metrics
from experiments.store.run import RunDirectory
from experiments.tracking.mirror import mirror_of
from experiments.tracking.notes import names_markdown
from moco.config import Data
from moco.data import catalog, load, training_images
from moco.evaluation import protocols
from tests.benchmarks import registry as benchmark_registry
from tests.benchmarks import suite
from tests.support.analysis_runs import manifest, unfinished_store, write_manifest

Add = Callable[[ModuleType, str, str], None]


@pytest.fixture
def add_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Lay a file beside those of a package; what it registered is forgotten afterwards."""
    scans = (registry._import_all, catalog._import_all, protocols._import_all)
    registers = (
        *(registry._REGISTERED, catalog._FACTS, catalog._LOADERS, benchmark_registry._REGISTERED, protocols.PROTOCOLS),
        *(metrics._RECORDS, metrics.TITLES, metrics.METRICS, metrics.PROTOCOLS),
    )
    registry.baselines()
    catalog.sets()
    protocols.protocols()
    before = [dict(register) for register in registers]
    lists = (metrics.READOUTS, metrics.AT_END, metrics.ON_REQUEST, metrics.ADDED, metrics.DETAILS)
    known = [list(names) for names in lists]

    def add(package: ModuleType, name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        for scan in scans:
            scan.cache_clear()

    yield add
    for register, content in zip(registers, before, strict=True):
        register.clear()
        register.update(content)  # type: ignore[arg-type]
    for names, content in zip(lists, known, strict=True):
        names[:] = content
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


NEAREST_MEAN = """
import torch

from moco.evaluation.protocols import Metric, readout


@readout(
    "nearest_mean",
    Metric("nearest_mean_top1", title="nearest mean", meaning="percent, by the nearest mean of a class"),
    what="the class whose mean is nearest",
)
def nearest_mean(features, evaluation, seed):
    train, test = features.train, features.test
    means_CD = torch.stack([train.features_ND[train.labels_N == c].mean(dim=0) for c in range(len(features.classes))])
    predicted_N = torch.cdist(test.features_ND, means_CD).argmin(dim=1)
    yield "test/nearest_mean_top1", 100 * (predicted_N == test.labels_N).double().mean().item()
"""


def test_a_readout_is_one_file(
    add_file: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle of the number: scikit-learn's nearest centroid on the same features."""
    root = tmp_path / "runs"
    monkeypatch.setenv("MOCO_RUNS", str(root))
    monkeypatch.setenv("MOCO_TRACKING", "off")
    assert main(["pretrain", "--baseline", "digits", "--set", "train.epochs=1", "train.device=cpu"]) == 0
    (run_id,) = (path.parent.name for path in root.glob("*/results.json"))
    kept = set(metrics.READOUTS)
    add_file(moco.evaluation, "nearest_mean", NEAREST_MEAN)

    assert main(["evaluate", run_id, "--protocol", "nearest_mean"]) == 0
    run = RunDirectory(root / run_id)
    results = run.results() or {}
    value = results["test"]["nearest_mean_top1"]
    assert [record["key"] for record in results["metrics"]] == ["nearest_mean_top1"]
    assert value == pytest.approx(by_scikit_learn(root / run_id))

    metrics.relearn([m for m in metrics._RECORDS.values() if m.key in kept], metrics.PROTOCOLS)
    assert "nearest_mean_top1" not in metrics.READOUTS  # as in the process of who only reads the runs
    planned = manifest({"K=1024": [0]})
    planned["cells"][0] |= {"run_id": run_id, "config": run.config()}
    write_manifest(root, planned)
    made = ablation_table(*load_sweep(root, "queue_size"), metric="nearest_mean_top1")
    assert f"| K=1024 | 1/1 | {value:.1f} |" in render(made, "md")
    assert "| nearest mean |" in render(made, "md")
    assert "nearest_mean_top1_mean" in render(ablation_table(*load_sweep(root, "queue_size")), "csv")

    seen = mirror_of(root, planned, planned["cells"][0])
    assert seen is not None
    assert seen.last("test/nearest_mean_top1") == value
    assert "nearest mean" in seen.tags["moco.readouts"]

    relearn_all()
    assert "| `test/nearest_mean_top1` | percent, by the nearest mean of a class |" in names_markdown()
    with pytest.raises(ValueError, match=r"did you mean nearest_mean\?"):
        protocols.protocol("nearest_means")


def by_scikit_learn(path: Path) -> float:
    from sklearn.neighbors import NearestCentroid

    from experiments.evaluate.add import images
    from experiments.evaluate.weights import weights, weights_file
    from moco.evaluation.readouts import features_for

    config, query_of = weights(weights_file(path), None)
    data = images(config.data)
    features = features_for(["knn"], query_of(len(data.classes)), data, config)
    fitted = NearestCentroid().fit(features.train.features_ND.numpy(), features.train.labels_N.numpy())
    return 100 * float(fitted.score(features.test.features_ND.numpy(), features.test.labels_N.numpy()))
