"""`export`, then `evaluate` of the file: the run's own numbers, for every baseline and every target.

A readout is a function of the config and of the network. Oracles: the run's config and, to the bit, its network's features
and projections; and for a run on the digits the numbers that `evaluate` prints of the run itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from experiments.__main__ import main
from experiments.evaluate.add import evaluate_weights
from experiments.evaluate.weights import weights
from experiments.export.export import Exported, export
from experiments.plan.baselines import digits4
from experiments.plan.registry import baselines
from experiments.store import schema
from moco import checkpoint
from moco.config import Config, Momentum, ResNet, ViT
from moco.config.plain import to_plain
from moco.model import Projector, build_query
from moco.weights.write import TARGETS
from tests.experiments.export.test_model_card import done


def smaller(config: Config) -> Config:
    """A transformer of two blocks, on images of four patches: its heads, patches, stem and pooling stay."""
    if not isinstance(config.encoder, ViT):
        return config
    encoder = replace(config.encoder, depth=2)
    return replace(config, encoder=encoder, data=replace(config.data, image_size=2 * encoder.patch))


@cache
def images(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def outputs(query: Projector, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    features = query.eval().encoder(images(side))
    return features, query.head(features)


def run_of(root: Path, config: Config) -> Path:
    """A finished run whose BatchNorm statistics are not the initial ones."""
    run = done(root, config, 50.0)
    query = build_query(config, 10)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in query.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point() and tensor.dim() == 1:
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    state = {"encoder": query.encoder.state_dict(), "head": query.head.state_dict(), "step": 50}
    checkpoint.save(state | {"config": to_plain(config)}, run.path / schema.ENCODER)
    return run.path


def exported(run: Path, out: Path) -> Exported:
    return export(run, tuple(TARGETS), out)


@pytest.mark.parametrize("name", baselines())
def test_every_target_has_the_config_and_the_network_of_the_run(name: str, tmp_path: Path) -> None:
    config = smaller(baselines()[name]())
    run = run_of(tmp_path / "runs", config)
    _, own = weights(run / schema.ENCODER, None)
    features, projections = outputs(own(10), min(config.data.image_size, 32))
    done = exported(run, tmp_path / "out")
    assert len(done.paths) - 1 + len(done.refused) == len(TARGETS)
    for file in done.paths[:-1]:
        found, query_of = weights(file, None)
        assert found == config, file.name
        query = query_of(10)
        again, projected = outputs(query, min(config.data.image_size, 32))
        assert torch.equal(again, features), file.name
        if config.evaluation.knn_features == "projection":
            assert torch.equal(projected, projections), file.name


KINDS: dict[str, Callable[[], Config]] = {  # of a ResNet-18, which takes longest, one target of those that can take it
    "digits4": digits4,
    "a strided stem": lambda: replace(digits4(), encoder=ResNet(depth=18, stem="strided", batch_norm_splits=8)),
    "the large stem, kNN on the projection": lambda: replace(
        digits4(),
        encoder=ResNet(depth=18),
        key_encoder=Momentum(0.99, shuffle=False),
        evaluation=replace(digits4().evaluation, knn_features="projection"),
    ),
    "a transformer of two heads": lambda: replace(
        digits4(), encoder=ViT(width=64, depth=2, heads=2, patch=4), key_encoder=Momentum(0.99, shuffle=False)
    ),
    "a transformer with the mean of its patches": lambda: replace(
        digits4(),
        encoder=ViT(width=64, depth=1, heads=4, patch=8, pool="mean"),
        key_encoder=Momentum(0.99, shuffle=False),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_evaluate_gives_the_numbers_of_the_run(name: str, tmp_path: Path) -> None:
    config = KINDS[name]()
    run = run_of(tmp_path / "runs", config)
    ((_, own),) = evaluate_weights(run, ["knn"], device="cpu")
    slow = {"a strided stem": ("timm",), "the large stem, kNN on the projection": ("lincls",)}
    done = export(run, slow.get(name, tuple(TARGETS)), tmp_path / "out")
    for file in done.paths[:-1]:
        ((_, of_file),) = evaluate_weights(file, ["knn"], device="cpu")
        assert of_file.values == own.values, file.name


def test_one_target_that_cannot_be_written_leaves_the_others_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path / "runs", KINDS["digits4"]())
    monkeypatch.setenv("MOCO_RUNS", str(tmp_path / "runs"))
    command = ["export", run.name, "--to", "timm", "safetensors", "lincls", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"error: export to {target}: there is no ResNet-8 outside this suite; choose safetensors"
        for target in ("timm", "lincls")
    ]
    folder = tmp_path / "out" / run.name
    assert said.out.splitlines() == [str(folder / "encoder-safetensors.safetensors"), str(folder / "MODEL_CARD.md")]
    assert main([*command[:3], "timm", "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
