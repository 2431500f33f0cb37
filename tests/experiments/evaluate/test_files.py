"""Files in the layouts of other tools through `evaluate FILE`. Oracle: scikit-learn's kNN on the original's features."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from experiments.__main__ import main
from experiments.plan.baselines import digits4
from moco import checkpoint
from moco.config import ResNet
from moco.data import load
from moco.encoders import Encoder
from moco.evaluation.features import extract_all
from tests.moco.test_weights import authors_v2, authors_v3, encoder, half, lightly, prefixed, solo_learn


@cache
def on_digits4(net: nn.Module) -> float:
    """Percent of the four digit classes that the nearest 20 vote for."""
    config = digits4()
    features = extract_all(net, load(config.data, print), config.augment, "cpu")
    bank_ND, queries_QD = (nn.functional.normalize(part.features_ND) for part in (features.train, features.test))
    model = KNeighborsClassifier(20, weights=lambda d: torch.tensor(1 - d**2 / 2).div(0.1).exp().numpy())
    return 100 * float(model.fit(bank_ND, features.train.labels_N).score(queries_QD, features.test.labels_N))


@cache
def resnet18() -> Encoder:
    return encoder(ResNet(depth=18))


def evaluated(file: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[float, str]:
    assert main(["evaluate", str(file), "--protocol", "knn", "--baseline", "digits4", "--device", "cpu", *more]) == 0
    said = capsys.readouterr()
    values = dict(line.split() for line in said.out.splitlines())
    return float(values["test/knn20_top1"]), said.err


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (
            authors_v2,
            "recognised the authors' MoCo v1 or v2: ResNet-18 with the imagenet stem, 120 tensors under "
            "state_dict.module.encoder_q.; 125 others left out; assumed: stride, padding and pooling as torchvision's",
        ),
        (authors_v3, "recognised the authors' MoCo v3: ResNet-18"),
        (lightly, "recognised lightly: ResNet-18"),
        (solo_learn, "recognised solo-learn: ResNet-18"),
    ],
    ids=["authors v2", "authors v3", "lightly", "solo-learn"],
)
def test_a_resnet_of_each_maker(
    layout: Callable, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = resnet18()
    checkpoint.save(layout(net), tmp_path / "file.pth")
    top1, said = evaluated(tmp_path / "file.pth", capsys)
    assert top1 == pytest.approx(on_digits4(net), abs=0.01)
    assert words in said


def test_a_transformer_of_the_authors_v3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net = timm.models.VisionTransformer(img_size=16, patch_size=8, embed_dim=192, depth=2, num_heads=3, num_classes=0)
    state = prefixed("module.base_encoder.", net.state_dict())
    checkpoint.save({"arch": "vit_tiny", "state_dict": state}, tmp_path / "v3.pth")
    top1, said = evaluated(tmp_path / "v3.pth", capsys, "--set", "encoder.heads=3")
    assert top1 == pytest.approx(on_digits4(net), abs=0.01)
    assert "recognised the authors' MoCo v3: ViT of width 192, depth 2, 3 heads, patch 8, 16 pixels" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: half(resnet18()), "missing (layer4.1.bn1.weight"),
        (lambda: {"features.0.weight": torch.zeros(3)}, "the first tensors are features.0.weight"),
        (lambda: {"epoch": 3, "arch": "resnet50"}, "holds no weights, only epoch, arch"),
    ],
    ids=["half", "another network", "no weights"],
)
def test_one_that_is_not_whole_is_a_line_with_its_keys(
    content: Callable[[], dict], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(content(), tmp_path / "file.pth")
    assert main(["evaluate", str(tmp_path / "file.pth"), "--protocol", "knn", "--baseline", "digits4"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("recognised")]
    assert line.startswith(f"error: {tmp_path / 'file.pth'}: ")
    assert words in line


def test_without_a_baseline_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(authors_v2(resnet18()), tmp_path / "file.pth")
    assert main(["evaluate", str(tmp_path / "file.pth"), "--protocol", "knn"]) == 2
    assert "says nothing about images; add --baseline NAME" in capsys.readouterr().err


def test_a_file_of_another_kind_is_one_line_without_advice_to_execute_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("# What was said")
    assert main(["evaluate", str(tmp_path / "notes.txt"), "--protocol", "knn"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'notes.txt'}: not a readable checkpoint (not a file that torch wrote, or a damaged one)\n"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"a,b,c\n1,2,3\n",
        b"hello there",
        b"name\tvalue\n",
        b"{}",
        b"\x89PNG\r\n\x1a\n",
        b"h\x00.",
        b"]q",
        b"0",
        b"\x80\x02.",
    ],
    ids=["csv", "hello", "tsv", "json", "png", "memo", "list", "pop", "pickle of nothing"],
)
def test_whatever_the_bytes_it_is_one_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """torch's unpickler takes the bytes for instructions, and fails in as many ways."""
    (tmp_path / "file.pth").write_bytes(content)
    assert main(["evaluate", str(tmp_path / "file.pth"), "--protocol", "knn"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'file.pth'}: not a readable checkpoint (not a file that torch wrote, or a damaged one)\n"
    )
