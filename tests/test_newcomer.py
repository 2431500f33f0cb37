"""What a newcomer adds stands in one file, a method in three: written here, and found everywhere without a line elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import analysis.columns
import experiments.plan
import moco
import moco.config
import moco.data.sets
import moco.evaluation
import sweeps
from analysis.ablation import ablation_table
from analysis.columns import LEFT, Column
from analysis.formats import FORMATS, render
from analysis.frame import load_sweep
from experiments.__main__ import main
from experiments.plan import registry
from experiments.plan.baselines import digits
from experiments.plan.overrides import apply
from experiments.plan.registry import baseline_config, baselines
from experiments.plan.sweep import Sweep, check_sizes, plan
from experiments.run.readouts import relearn_all
from experiments.store import metrics
from experiments.store.run import RunDirectory
from experiments.tracking.mirror import mirror_of
from experiments.tracking.notes import names_markdown
from moco import builders, methods, model, negatives
from moco.config import Config, Data, Head, kinds
from moco.config.plain import from_plain, run_id, to_plain
from moco.data import catalog, load, training_images
from moco.evaluation import protocols
from moco.trainer import Trainer
from tests.benchmarks import registry as benchmark_registry
from tests.benchmarks import suite
from tests.support import readme_lists
from tests.support.analysis_runs import manifest, unfinished_store, write_manifest

Add = Callable[[ModuleType, str, str], None]


@pytest.fixture
def add_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Lay a file beside those of a package; what it registered is forgotten afterwards."""
    scans = (
        *(registry._import_all, catalog._import_all, protocols._import_all),
        *(kinds._import_all, builders._import_all),
    )
    registers = (
        *(*kinds._KINDS.values(), negatives._SOURCES, model._CONTRASTS),
        *(registry._REGISTERED, catalog._FACTS, catalog._LOADERS, benchmark_registry._REGISTERED, protocols.PROTOCOLS),
        *(metrics._RECORDS, metrics.TITLES, metrics.METRICS, metrics.PROTOCOLS),
    )
    registry.baselines()
    catalog.sets()
    protocols.protocols()
    before = [dict(register) for register in registers]
    lists = (metrics.READOUTS, metrics.AT_END, metrics.ON_REQUEST, metrics.ADDED, metrics.DETAILS)
    known, added = [list(names) for names in lists], list[str]()

    def add(package: ModuleType, name: str, text: str) -> None:
        folder = tmp_path / package.__name__
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        added.append(f"{package.__name__}.{name}")
        for scan in scans:
            scan.cache_clear()

    yield add
    for module in added:
        sys.modules.pop(module, None)
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
from experiments.plan.overrides import apply
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


def test_a_sweep_is_one_file(add_file: Add) -> None:
    add_file(
        sweeps,
        "width",
        """
from dataclasses import replace

from experiments import Sweep, expect

SWEEP = Sweep(
    name="width",
    question="Does a wider encoder help?",
    shape=(expect.rises(),),
    arms=lambda base: {f"width={w}": replace(base, encoder=replace(base.encoder, width=w)) for w in (8, 16)},
    varies=("encoder.width",),
    axis="encoder.width",
    baseline="width=16",
)
""",
    )
    assert sweeps.questions()["width"].question == "Does a wider encoder help?"
    assert "| `width` | Does a wider encoder help? | rises with width |" in readme_lists.filled(
        readme_lists.README.read_text()
    )


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


FORGETFUL = """
from dataclasses import dataclass

from moco.config.fields import require
from moco.config.method import Momentum, Negatives


@dataclass(frozen=True)
class Forgetful(Negatives):
    'The keys of earlier steps, `size` of them; a new one takes the place of one at random.'

    size: int = 512

    goes_with = (Momentum,)

    def __post_init__(self) -> None:
        require(self.size >= 1, f"negatives.size = {self.size}: must be at least 1")

    @property
    def stored(self) -> int:
        return self.size
"""

FORGETFUL_KEYS = """
import torch
import torch.nn.functional as F

from moco.config import Head
from moco.config.forgetful import Forgetful
from moco.negatives import Source, source
from moco.randomness import generator


@source(Forgetful)
class ForgetfulKeys(Source):
    def __init__(self, config, images, view):
        super().__init__("own")
        self.seed, size = config.train.seed, config.part(Forgetful).size
        self.candidates = 1 + size
        start = torch.randn(size, config.part(Head).dim, generator=generator("cpu", self.seed, "forgetful", view))
        self.register_buffer("keys_KC", F.normalize(start, dim=1))

    def scores(self, queries_BC, keys_MC, sample):
        own_B1 = (queries_BC * keys_MC[sample.own_B]).sum(1, keepdim=True)
        scores_BN = torch.cat([own_B1, queries_BC @ self.keys_KC.T], dim=1)
        return scores_BN, torch.arange(self.candidates).expand_as(scores_BN) == 0

    def slots(self, step):
        return torch.randperm(len(self.keys_KC), generator=generator("cpu", self.seed, "forget", step))

    @torch.no_grad()
    def update(self, keys_MC, sample):
        keys_MC = keys_MC[-len(self.keys_KC) :]
        self.keys_KC[self.slots(sample.step)[: len(keys_MC)]] = keys_MC.to(self.keys_KC.dtype)
"""

FORGETFUL_METHOD = """
def forgetful(base=None):
    'v1 with a queue that forgets at random.'
    from moco.config.forgetful import Forgetful

    return replace(base or moco_v1(), negatives=Forgetful())
"""


def test_a_method_is_a_value_a_module_and_a_line(
    add_file: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_id(digits())
    monkeypatch.setattr(methods, "forgetful", None, raising=False)  # taken away afterwards
    add_file(moco.config, "forgetful", FORGETFUL)
    add_file(moco, "forgetful_keys", FORGETFUL_KEYS)
    exec(FORGETFUL_METHOD, vars(methods))

    config = apply(digits(), ["negatives=forgetful", "negatives.size=700"])
    default = apply(digits(), ["negatives=forgetful"])
    assert default == methods.forgetful(digits())  # type: ignore[attr-defined]
    assert len({before, run_id(digits()), run_id(config), run_id(default)}) == 3
    assert from_plain(Config, to_plain(config)) == config
    with pytest.raises(ValueError, match=r"absent, forgetful; did you mean forgetful\?"):
        apply(digits(), ["negatives=forgetfull"])
    with pytest.raises(ValueError, match=r"keys that carry gradients live for one step; negatives=inbatch or "):
        apply(digits(), ["negatives=forgetful", "key_encoder=shared"])
    with pytest.raises(
        ValueError, match=r"for its batch; negatives=queue or negatives=inbatch or negatives=forgetful$"
    ):
        apply(digits(), ["negatives=memorybank"])

    sweep = Sweep(
        name="forgetting",
        question="Does forgetting at random harm?",
        claim="no",
        arms=lambda base: {"ring": base, "random": methods.forgetful(base)},  # type: ignore[attr-defined]
        varies=("negatives",),
        baseline="ring",
    )
    assert plan(sweep, digits(), base_name="digits").arms["random"] == default
    with pytest.raises(ValueError, match=r"negatives\.size = 2000 is larger than the 1293 training images"):
        check_sizes("random", apply(default, ["negatives.size=2000"]))

    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MOCO_TRACKING", "off")
    settings = [
        "negatives=forgetful",
        "train.epochs=1",
        "train.batch_size=640",
        "train.log_every=1",
        "train.device=cpu",
    ]
    assert main(["pretrain", "--baseline", "digits", "--set", *settings]) == 0
    (path,) = (tmp_path / "runs").glob("*/results.json")
    run = RunDirectory(path.parent)
    assert [record["step"] for record in run.records() if "train/loss" in record["values"]] == [1, 2]
    assert run.config()["negatives"] == {"kind": "forgetful", "size": 512}


def test_its_source_is_a_plain_reference(add_file: Add) -> None:
    """Written in Python numbers: a list of keys, of which those at the drawn places are replaced."""
    add_file(moco.config, "forgetful", FORGETFUL)
    add_file(moco, "forgetful_keys", FORGETFUL_KEYS)
    config = apply(digits(), ["negatives=forgetful", "negatives.size=7", "head.dim=4"])
    source = negatives.build_source(config, images=100, view=0)
    kept = source.keys_KC.tolist()
    draw = torch.Generator().manual_seed(0)
    for step in range(5):
        queries_BC, keys_BC = torch.randn(2, 3, config.part(Head).dim, generator=draw)
        rows = torch.arange(3)
        sample = negatives.Sample(step, images_M=rows, labels_M=rows, own_B=rows)
        scores_BN, is_positive_BN = source.scores(queries_BC, keys_BC, sample)
        for query, own, scores in zip(queries_BC.tolist(), keys_BC.tolist(), scores_BN.tolist(), strict=True):
            expected = [sum(a * b for a, b in zip(query, key, strict=True)) for key in [own, *kept]]
            assert scores == pytest.approx(expected, abs=1e-6)
        assert is_positive_BN.nonzero().tolist() == [[0, 0], [1, 0], [2, 0]]
        source.update(keys_BC, sample)
        for slot, key in zip(source.slots(step).tolist(), keys_BC.tolist(), strict=False):  # type: ignore[operator]
            kept[slot] = key
        assert source.keys_KC.tolist() == kept


FIXED = """
from dataclasses import dataclass

from moco.config.method import InBatch, KeyEncoder, Queue


@dataclass(frozen=True)
class Fixed(KeyEncoder):
    'Keys from the encoder as it was drawn.'

    goes_with = (Queue, InBatch)
"""

FIXED_CONTRAST = """
import copy

import torch

from moco.config.fixed import Fixed
from moco.model import Contrast, contrast


@contrast(Fixed)
class FixedContrast(Contrast):
    def __init__(self, config, images):
        super().__init__(config, images)
        self.drawn = copy.deepcopy(self.query).requires_grad_(False)

    @torch.no_grad()
    def keys(self, views, step):
        return (self.whole(views[1], step, shuffle=False, through=self.drawn),)

    def forward(self, views, keys, sample):
        return self.outcome([self.queries(views[0])], keys, sample)

    def end(self, outcome, keys, sample):
        self.source(0).update(keys[0], sample)
"""


def test_a_key_encoder_is_a_value_and_a_module(add_file: Add) -> None:
    """Oracle of two steps: what the trained encoder's weights were at the start, bit by bit."""
    add_file(moco.config, "fixed", FIXED)
    add_file(moco, "fixed_contrast", FIXED_CONTRAST)
    config = apply(digits(), ["key_encoder=fixed", "train.batch_size=640", "train.epochs=1", "train.device=cpu"])
    assert from_plain(Config, to_plain(config)) == config
    with pytest.raises(ValueError, match=r"negatives=queue or negatives=inbatch, or key_encoder=momentum$"):
        apply(config, ["negatives=memorybank"])

    trainer = Trainer(config, load(config.data, lambda line: None), torch.device("cpu"))
    start = {name: value.clone() for name, value in trainer.model.query.named_parameters()}
    for batch in trainer.batches.epoch(0):
        trainer.take_step(batch)
    assert trainer.step == 2
    drawn = trainer.model.drawn
    assert isinstance(drawn, torch.nn.Module)
    assert all(torch.equal(value, start[name]) for name, value in drawn.named_parameters())
    assert not any(torch.equal(value, start[name]) for name, value in trainer.model.query.named_parameters())


def test_a_value_without_its_module_or_with_the_name_of_another_is_one_sentence(add_file: Add) -> None:
    add_file(moco.config, "forgetful", FORGETFUL)
    config = apply(digits(), ["negatives=forgetful"])
    with pytest.raises(
        ValueError, match=r"^forgetful: no file of moco builds it; decorate .* with @source\(Forgetful\)$"
    ):
        model.build(config, images=1293, classes=10)
    add_file(moco.config, "forgetful_too", FORGETFUL)
    with pytest.raises(
        ValueError, match=r"forgetful is in moco\.config\.forgetful already; give one of them another name$"
    ):
        apply(digits(), ["negatives=forgetful"])


def test_a_value_that_is_no_dataclass_is_refused(add_file: Add) -> None:
    add_file(
        moco.config, "bare", "from moco.config.method import Negatives\n\n\nclass Bare(Negatives):\n    size: int = 3\n"
    )
    with pytest.raises(ValueError, match=r"^moco\.config\.bare\.Bare: has no fields yet; decorate it"):
        apply(digits(), ["negatives=bare"])
