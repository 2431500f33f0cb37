"""What a user says about a file of weights: which network, what tensors do not tell, which settings count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from experiments.__main__ import main, parser
from experiments.evaluate.weights import Reading, weights
from experiments.plan.baselines import digits4
from experiments.plan.registry import baselines
from moco import checkpoint
from moco.config import Config, Momentum, ResNet, ViT
from moco.config.plain import to_plain
from moco.methods import supervised
from moco.model import build_query
from tests.moco.test_weights import authors_v2, encoder


def of_ours(config: Config) -> dict[str, object]:
    query = build_query(config, 4)
    return {
        "encoder": query.encoder.state_dict(),
        "head": query.head.state_dict(),
        "step": 1,
        "config": to_plain(config),
    }


def small_vit() -> dict[str, Tensor]:
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 0}
    return dict(timm.models.VisionTransformer(img_size=32, **sizes).state_dict())


def refused(capsys: pytest.CaptureFixture[str], file: Path, *options: str) -> str:
    assert main(["evaluate", str(file), "--protocol", "knn", "--device", "cpu", *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    return line


DIGITS = ("--baseline", "digits4")


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (lambda: of_ours(digits4()), ("--set", "encoder.stem=small"), "--set encoder.stem: would change nothing"),
        (
            lambda: of_ours(digits4()),
            ("--prefix", "encoder"),
            "--prefix encoder: for a file of weights of another tool",
        ),
        (lambda: of_ours(digits4()), (*DIGITS, "--set", "optim.lr=1"), "--set optim.lr: would change nothing"),
        (lambda: of_ours(digits4()), (*DIGITS, "--set", "augment.flip=0"), "--set augment.flip: would change nothing"),
        (
            lambda: authors_v2(encoder(ResNet(depth=18))),
            (*DIGITS, "--set", "loss.temperature=1"),
            "would change nothing",
        ),
        (lambda: authors_v2(encoder(ResNet(depth=18))), (*DIGITS, "--set", "encoder.heads=4"), "would change nothing"),
        (lambda: authors_v2(encoder(ResNet(depth=18))), (*DIGITS, "--set", "encoder.head=4"), "no such field"),
        (lambda: authors_v2(encoder(ResNet(depth=18))), (*DIGITS, "--set", "encoder.stem=tiny"), "must be one of"),
        (lambda: authors_v2(encoder(ResNet(depth=18))), (*DIGITS, "--branch", "left"), "must be one of query, key"),
        (lambda: authors_v2(encoder(ResNet(depth=18))), (*DIGITS, "--prefix", "trunk"), "no network there"),
        (small_vit, (*DIGITS, "--set", "encoder.heads=4"), "or --interpolate-positions to resample them"),
        (small_vit, DIGITS, "add --set encoder.heads=1"),
        (small_vit, (*DIGITS, "--set", "encoder.heads=5"), "the width must divide among the heads"),
    ],
)
def test_what_would_change_nothing_or_is_not_said_is_refused(
    content: Callable[[], dict],
    options: tuple[str, ...],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkpoint.save(content(), tmp_path / "file.pth")
    assert words in refused(capsys, tmp_path / "file.pth", *options)


def test_the_key_encoder_is_another_network(tmp_path: Path) -> None:
    file, net = tmp_path / "file.pth", encoder(ResNet(depth=18))
    state = authors_v2(net)
    tensors = state["state_dict"]
    assert isinstance(tensors, dict)
    tensors |= {n: 0.9 * t for n, t in tensors.items() if "encoder_k" in n and t.is_floating_point()}
    checkpoint.save(state, file)
    for reading, factor in (
        (Reading(), 1.0),
        (Reading(branch="query"), 1.0),
        (Reading(branch="key"), 0.9),
        (Reading(prefix="module.encoder_k."), 0.9),
    ):
        _, query_of = weights(file, digits4(), reading)
        found = query_of(4).encoder.backbone.state_dict()["layer1.0.conv1.weight"]
        assert torch.equal(found, factor * net.backbone.state_dict()["layer1.0.conv1.weight"])


def test_knn_of_a_file_without_a_head_says_that_it_is_on_the_encoder_s_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = baselines()["cifar10_moco_v1"]()
    assert base.evaluation.knn_features == "projection"
    checkpoint.save(authors_v2(encoder(ResNet(depth=18))), tmp_path / "file.pth")
    config, _ = weights(tmp_path / "file.pth", base)
    assert config == replace(base, evaluation=replace(base.evaluation, knn_features="encoder"))
    assert "assumed: kNN on the features of the encoder" in capsys.readouterr().err
    reading = Reading(settings=("evaluation.knn_features",))
    with pytest.raises(ValueError, match="read without a projection head; leave it out"):
        weights(tmp_path / "file.pth", base, reading)


@pytest.mark.parametrize("position", ["sincos", "learned"])
def test_positions_of_our_own_transformer_for_another_size(position: str, tmp_path: Path) -> None:
    """Oracle: fixed waves are those of a new network; learned ones are torch's bicubic, antialiased."""
    config = replace(
        digits4(),
        encoder=ViT(width=32, depth=1, heads=2, patch=4, position=position),  # type: ignore[arg-type]
        key_encoder=Momentum(0.99, shuffle=False),
    )
    checkpoint.save(of_ours(config), tmp_path / "encoder.pt")
    wider = replace(config, data=replace(config.data, image_size=24))
    with pytest.raises(ValueError, match="--interpolate-positions"):
        weights(tmp_path / "encoder.pt", wider)
    _, query_of = weights(tmp_path / "encoder.pt", wider, Reading(interpolate=True))
    name = "encoder.backbone.encoder.pos_embedding"
    found = query_of(4).state_dict()[name]
    if position == "sincos":
        assert torch.equal(found, build_query(wider, 4).state_dict()[name])
        return
    before = build_query(config, 4).state_dict()[name]
    grid = before[:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, (6, 6), mode="bicubic", antialias=True).permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(found, torch.cat([before[:, :1], grid], 1))


def test_a_transformer_on_images_of_another_size_gives_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(small_vit(), tmp_path / "file.pth")
    options = ("--baseline", "digits4", "--set", "encoder.heads=4", "--interpolate-positions", "--device", "cpu")
    assert main(["evaluate", str(tmp_path / "file.pth"), "--protocol", "knn", *options]) == 0
    assert "assumed: positions for 32 pixels resampled for 16 (bicubic, as timm does)" in capsys.readouterr().err


def test_an_export_on_other_images_keeps_its_own_normalisation(tmp_path: Path) -> None:
    from moco.weights.carried import Carried
    from moco.weights.write import export

    own = replace(digits4(), augment=replace(digits4().augment, mean=(0.1, 0.2, 0.3)))
    query = build_query(own, 4)
    file = export(query.encoder.backbone.state_dict(), own.encoder, "safetensors", tmp_path, Carried(own))
    base = baselines()["digits"]()
    config, _ = weights(file, base)
    assert config == replace(own, data=base.data, evaluation=base.evaluation)


def test_a_classifier_is_read_without_it(tmp_path: Path) -> None:
    """An export of a supervised run has the encoder alone."""
    from moco.weights.carried import Carried
    from moco.weights.write import export

    own = supervised(digits4())
    query = build_query(own, 4)
    file = export(query.encoder.backbone.state_dict(), own.encoder, "safetensors", tmp_path, Carried(own))
    _, query_of = weights(file, None)
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(query_of(4).eval().encoder(images), query.eval().encoder(images))


def test_transfer_takes_what_is_said_of_a_file_apart_from_its_recipe(tmp_path: Path) -> None:
    from experiments.evaluate.transfer.run import Source, encoder_of
    from experiments.evaluate.transfer.verb import TransferOptions

    recipe = ["--set", "iterations=3", "encoder.stem=strided"]
    given = parser().parse_args(["transfer", "FILE", "--task", "detection", "--baseline", "digits4", *recipe])
    options = TransferOptions.of(given)
    assert options.job.recipe.iterations == 3
    assert options.reading == Reading(encoder=(("stem", "strided"),))
    net = encoder(ResNet(depth=18, stem="strided"))
    checkpoint.save(dict(net.backbone.state_dict()), tmp_path / "file.pth")
    _, found = encoder_of(Source(tmp_path / "file.pth", options.base, reading=options.reading))
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found.eval()(images), net(images))
