"""Each benchmark once, small: that both sides do the same work. How fast they are is for a quiet machine to say."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as reference
from PIL import Image

from experiments.__main__ import main
from moco.augment import crop_boxes
from moco.config import Augment
from moco.data.loader import VIEWS
from moco.data.splits import Streamed
from moco.evaluation.knn import highest
from moco.methods import AUGMENT_V2
from moco.randomness import generator
from tests.benchmarks import peers
from tests.benchmarks.registry import benchmark_named, names
from tests.benchmarks.result import PEERS, Options
from tests.benchmarks.suite import augment, knn, probe, queue, startup, table, tracking

INSTALLED = [peer for peer in PEERS if peer == "plain" or find_spec(peer)]
OTHERS = set(names()) - {"step", "train", "memory"}  # those have tests of their own


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """The verb sets torch's threads for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def options(name: str, against: str = "plain", **settings: float) -> Options:
    defaults = benchmark_named(name).settings
    assert set(settings) <= set(defaults)
    return Options(against=against, rounds=1, settings={**defaults, **settings})


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_every_file_has_the_benchmark_of_its_name(name: str) -> None:
    assert benchmark_named(name).name == name


@pytest.mark.parametrize("against", INSTALLED)
def test_knn_predictions_are_identical(against: str) -> None:
    asked = options("knn", against, bank=3000, queries=64, dim=16, k=50, classes=70, few_classes=4)
    for result, classes in zip(knn.run(asked), (70, 4), strict=True):
        assert result.settings["identical"] == 64, classes
    bank, queries_QD = knn.clusters(asked, 70)
    predicted = [predict().tolist() for predict in knn.predictors(asked, bank, queries_QD, 70)]
    votes_QC = torch.zeros(64, 70, dtype=torch.float64)
    for row, similarity_N in enumerate((queries_QD @ bank.features_ND.T).double()):
        for place in similarity_N.argsort(descending=True)[:50].tolist():
            votes_QC[row, bank.labels_N[place]] += np.exp(similarity_N[place].item() / knn.TEMPERATURE)
    assert predicted == [votes_QC.argmax(dim=1).tolist()] * 2


@pytest.mark.parametrize("columns", [4_000, 4_001, 4_007, 300])
def test_highest_is_topk(columns: int) -> None:
    """Sorted values equal those of `topk`, the columns point at them and none comes twice; ties included."""
    row_BN = torch.randn(7, columns, generator=generator("cpu", "highest", columns))
    for similarity_BN in (row_BN, (row_BN * 20).round()):
        values_BK, index_BK = highest(similarity_BN, 60)
        assert torch.equal(values_BK, similarity_BN.topk(60, dim=1).values)
        assert torch.equal(similarity_BN.gather(1, index_BK), values_BK)
        assert all(len(set(row)) == 60 for row in index_BK.tolist())


def test_the_plain_views_are_the_recipe() -> None:
    """With every probability 0 or 1 and ranges that are points: crop of all, greyed, turned around, normalised."""
    image = augment.pictures(1, 40, 40)[0]
    recipe = Augment(
        (1.0, 1.0), (1.0, 1.0), grey=1.0, jitter=(0.0,) * 4, flip=1.0, mean=(0.1, 0.2, 0.3), std=(0.5,) * 3
    )
    random.seed(0)
    first, second = augment.plain_views(recipe, 40)(augment.to_pil(image))
    grey = augment.to_pil(image).convert("L").convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    expected = (
        torch.from_numpy(np.array(grey)).permute(2, 0, 1) / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    ) / 0.5
    torch.testing.assert_close(first, expected, atol=1e-6, rtol=0)
    assert torch.equal(first, second)


def test_the_cpu_half_gives_pillows_crops_of_our_boxes(tmp_path: Path) -> None:
    files = Streamed(augment.write_jpegs(tmp_path, 3), 64)
    width, height = augment.LARGE
    for view, crops in zip(VIEWS, augment.crops_of(files)(), strict=True):
        boxes = crop_boxes(torch.full((3,), height), torch.full((3,), width), AUGMENT_V2, 0, 0, view).tolist()
        for crop, path, (top, left, h, w) in zip(crops, files.paths, boxes, strict=True):
            picture = Image.open(path).convert("RGB")
            assert picture.size == (width, height)
            cut = reference.crop(picture, top, left, h, w)
            expected = reference.pil_to_tensor(reference.resize(cut, [64, 64]))
            assert torch.equal(crop, expected)


@pytest.mark.parametrize("against", INSTALLED)
def test_augment_counts_the_same_images_on_both_sides(against: str) -> None:
    small = options("augment", against, batch=16, files=2, large_side=64, compile=0)
    results = augment.run(small)
    assert [result.name.partition(", ")[2] for result in results] == [
        "32 px, eager",
        "64 px from JPEG, the CPU half (decode, two crops), exact",
        "64 px from JPEG, the CPU half, quick",
        "64 px from JPEG, all, exact crops and eager",
    ]
    query, key = augment.collate(
        [augment.peer_views(against, 32)(augment.to_pil(augment.pictures(1, 32, 32)[0]))], "cpu"
    )
    assert query.shape == key.shape == (1, 3, 32, 32)
    assert not torch.equal(query, key)


def test_the_peers_probe_on_features_is_its_probe_through_the_backbone() -> None:
    """What the accuracy of the peer rests on: the backbone is frozen, so its features can be taken once."""
    backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.ReLU()).requires_grad_(False)
    draw = generator("cpu", "probe")
    images, labels = torch.rand(50, 3, 2, 2, generator=draw), torch.randint(0, 4, (50,), generator=draw)
    heads: list[torch.nn.Module] = []
    for network, inputs in ((backbone, images), (torch.nn.Identity(), backbone(images))):
        torch.manual_seed(0)
        heads.append(probe.plain_linear(network, inputs, labels, 5, 4, 3, 3, 16))
    through_backbone, on_features = (dict(head.named_parameters()) for head in heads)
    torch.testing.assert_close(through_backbone, on_features, atol=1e-6, rtol=0)


@pytest.mark.parametrize("against", INSTALLED)
def test_probe(against: str) -> None:
    asked = options("probe", against, side=16, pretrain_epochs=0, epochs=2, timed_epochs=1)
    many, one = probe.run(asked)
    assert (many.settings["pairs"], one.settings["pairs"], many.unit) == (48, 1, "epochs per core-second")
    # Both readings of the peer's accuracy are of one classifier.
    (words,) = {result.notes[0].split("peer's recipe ")[1].split(" %")[0] for result in (many, one)}
    assert 0 < float(words) < 100


def test_the_steps_of_every_queue_are_taken() -> None:
    asked = options("queue", keys=64, steps=1)
    (result,) = queue.run(asked)
    assert [size for size, _ in result.settings["points"]] == [64, 128, 256, 512]
    turn = queue.Steps(64, asked)
    turn()
    turn()
    assert turn.trainer.step == 2


def test_the_parts_of_a_runs_time_add_up() -> None:
    result = startup.outside_training(options("startup", runs=1, epochs=1))
    assert sum(result.settings["seconds"].values()) == pytest.approx(result.ours)
    assert all(seconds >= 0 for seconds in result.settings["seconds"].values())
    assert result.ratio == result.ours / result.peer
    assert 0 < result.ours < result.peer


def test_tracking_is_on_and_off() -> None:
    """The mirror's process takes CPU time only where tracking is on."""
    asked = options("tracking", runs=1, epochs=1)
    seen = {switch: tracking.watched(switch, asked) for switch in tracking.SWITCH}
    assert seen["on"].mirror > 1.0  # MLflow's imports alone
    assert seen["off"].mirror < 0.1
    assert all(one.turn.cpu > one.turn.wall / 10 > 0 for one in seen.values())


def test_the_table_is_shown_of_as_many_runs_as_are_said(capfd: pytest.CaptureFixture[str]) -> None:
    (result,) = table.run(options("table", runs=4))
    assert [size for size, _ in result.settings["points"]] == [4, 8, 16, 32]


def test_a_peer_that_is_not_installed_is_one_line_that_says_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert main(["benchmark", "knn", "--against", "lightly"]) == 2
    assert capsys.readouterr() == (
        "",
        "error: --against lightly: not installed; pip install 'moco-ablation-suite[bench]' brings it\n",
    )


def test_the_verb_prints_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["bank=500", "queries=8", "classes=9", "few_classes=3", "k=5", "dim=8"]
    assert main(["benchmark", "knn", "--rounds", "1", "--json", "--set", *sizes]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"name", "ratio", "ours", "peer", "unit", "machine", "comparisons"} <= set(told)
    assert told["machine"]["versions"]["torch"] == torch.__version__
    assert told["machine"]["threads"] == 1
    assert told["comparisons"][0]["settings"]["bank"] == 500


def test_peak_memory_is_what_was_filled() -> None:
    """In a process of its own: in one that has freed memory before, new memory may be resident already."""
    code = (
        "import torch; from tests.benchmarks import peak\n"
        "print(peak.extra_bytes(lambda: torch.ones(64 * 2**18), 'cpu'))"  # 64 MiB of float32, gone afterwards
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if result.stdout.strip() == "None":
        (pytest.fail if os.environ.get("CI") else pytest.skip)("this kernel does not tell a process its peak memory")
    assert 60 * 2**20 < int(result.stdout) < 80 * 2**20


def test_the_bank_is_of_unit_length_and_separable() -> None:
    """Else every prediction would be chance, and identical predictions no achievement."""
    bank, queries_QD = knn.clusters(options("knn", bank=2000, queries=100, dim=32), 20)
    torch.testing.assert_close(bank.features_ND, F.normalize(bank.features_ND))
    votes_QC = knn.one_hot_votes(queries_QD @ bank.features_ND.T, bank.labels_N, 20, 20)
    assert len(votes_QC.argmax(dim=1).unique()) > 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("table --set runs=3", "--set runs=3: must be 4 or more"),
        ("sweep --threads 2", "--threads 2: means nothing to sweep, .*; leave it out"),
        ("startup --device cuda", "--device cuda: means nothing to startup, .*; leave it out"),
        ("queue --against lightly", "--against lightly: (not installed|means nothing to queue), .*"),
        ("step --set narrow=0 resnet18=0 --json", "step: no network is left; set one of narrow, .* to 1"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *arguments.split()]) == 2
    said, told = capsys.readouterr()
    assert said == ""
    assert re.fullmatch(f"error: {words}", told.strip()), told
