"""The card of an export. Oracles: its own code run as it stands, scipy's t, the run's files."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats

from experiments.export.export import export
from experiments.export.model_card import nearest, papers
from experiments.plan.baselines import digits
from experiments.plan.configs import create
from experiments.plan.manifest import write_manifest
from experiments.plan.sweep import Sweep, plan
from experiments.store import schema
from experiments.store.run import RunDirectory
from moco import checkpoint
from moco.config import Config, Momentum, Queue, ResNet
from moco.config.plain import from_plain, to_plain
from moco.model import build_query

LINEAR = (97.5, 98.25, 96.0)


def base(encoder: ResNet) -> Config:
    return replace(digits(), encoder=encoder, key_encoder=Momentum(0.99, shuffle=False))


def done(root: Path, config: Config, linear: float) -> RunDirectory:
    run = RunDirectory(root / schema_id(config))
    create(run, config)
    query = build_query(config, 10)
    state = {"encoder": query.encoder.state_dict(), "head": query.head.state_dict(), "step": 50}
    checkpoint.save(state | {"config": to_plain(config)}, run.path / schema.ENCODER)
    run.append_attempt(
        {
            "event": "start",
            "attempt": 1,
            "time": "2026-11-01T12:00:00.000+00:00",
            "hardware": "an H100",
            "commit": "0123456789abcdef",
            "uncommitted": None,
        }
    )
    results = {"test": {schema.LINEAR: linear, "retrieval_map": 60.0}, "seconds": 90.0, "steps": 50}
    (run.path / schema.RESULTS).write_text(json.dumps(results))
    run.write_status({"state": schema.DONE})
    return run


def schema_id(config: Config) -> str:
    from moco.config.plain import run_id

    return run_id(config)


def sweep_of(root: Path, encoder: ResNet, seeds: int) -> list[RunDirectory]:
    sweep = Sweep(
        name="carded",
        question="What is it?",
        claim="known",
        varies=("negatives.size",),
        baseline="K=256",
        arms=lambda config: {f"K={k}": replace(config, negatives=Queue(k)) for k in (256, 512)},
    )
    manifest = write_manifest(
        root, plan(sweep, base(encoder), base_name="digits", preset=base(encoder), seeds=seeds), "c"
    )
    cells = [c for c in manifest["cells"] if c["arm"] == "K=256"]
    return [done(root, from_plain(Config, c["config"]), LINEAR[c["seed"]]) for c in cells]


def test_readouts_have_n_and_the_t_interval_over_the_seeds_of_the_arm(tmp_path: Path) -> None:
    run, *_ = sweep_of(tmp_path / "runs", ResNet(depth=8, width=4, stem="small"), seeds=3)
    *_, card = export(run.path, ["safetensors"], tmp_path / "out").paths
    text = card.read_text()
    low, high = stats.t.interval(0.95, 2, loc=sum(LINEAR) / 3, scale=stats.sem(LINEAR))
    assert f"| linear_top1 | 97.5 | {sum(LINEAR) / 3:.1f} | {low:.1f} to {high:.1f} | 3 |" in text
    assert "| retrieval_map | 60.0 | 60.0 | 60.0 to 60.0 | 3 |" in text
    assert "The arm K=256 of carded@digits, seeds 0, 1, 2" in text
    assert "an H100; code 0123456789ab." in text
    assert "negatives Queue (size 256, shared False)" in text


def test_one_seed_has_no_interval_and_says_so(tmp_path: Path) -> None:
    config = base(ResNet(depth=8, width=4, stem="small"))
    run = done(tmp_path / "runs", config, 97.5)
    *_, card = export(run.path, ["safetensors"], tmp_path / "out").paths
    assert "One seed (n = 1): there is no interval" in card.read_text()
    assert "| linear_top1 | 97.5 | 97.5 | none | 1 |" in card.read_text()


def test_the_differences_to_the_papers_recipe_are_all_there(tmp_path: Path) -> None:
    config = base(ResNet(depth=8, width=4, stem="small"))
    name, changed = nearest(config, papers())
    assert name.startswith("imagenet_moco_v")
    *_, card = export(done(tmp_path / "runs", config, 97.5).path, ["safetensors"], tmp_path / "out").paths
    part = card.read_text().partition(f"`{name}`, the nearest of the papers:")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\S+)` \| .* \| (.*) \|$", part, re.MULTILINE))
    assert set(rows) == set(changed)
    assert rows["train.epochs"] == "200"
    assert "train.seed" not in rows


@pytest.mark.parametrize(
    ("encoder", "targets"),
    [
        (ResNet(depth=8, width=4, stem="small"), ["safetensors"]),
        (ResNet(depth=18, stem="small"), ["safetensors", "torchvision", "timm"]),
    ],
    ids=["resnet8", "resnet18"],
)
def test_its_code_runs_as_it_stands_and_gives_the_features(encoder: ResNet, targets: list[str], tmp_path: Path) -> None:
    config = base(encoder)
    run = done(tmp_path / "runs", config, 97.5)
    *_, card = export(run.path, targets, tmp_path / "out").paths
    query = build_query(config, 10).eval()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    blocks = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    assert len(blocks) == len(targets)
    here = Path.cwd()
    os.chdir(card.parent)
    try:
        for block in blocks:
            names: dict[str, object] = {}
            exec(block, names)
            net = names["net"]
            assert isinstance(net, torch.nn.Module)
            with torch.no_grad():
                torch.testing.assert_close(net.eval()(images), query.encoder(images), rtol=1e-5, atol=1e-6)
    finally:
        os.chdir(here)
