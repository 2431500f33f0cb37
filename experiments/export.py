"""`python -m experiments export`: a run's encoder for the tools people use next, with a card that says what it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from experiments import schema
from experiments.baselines import BASELINES
from experiments.export_code import loading
from experiments.lookup import cells_of
from experiments.manifest import all_manifests
from experiments.run_directory import RunDirectory
from experiments.sweep import difference
from moco.config import Config
from moco.identity import from_plain


def export(run: Path, targets: Sequence[str], out: Path) -> list[Path]:
    """The files and the card. Raises ValueError for a run that is not done, or a target that has no such network."""
    from moco import checkpoint
    from moco.exchange.writing import TARGETS, exportable
    from moco.exchange.writing import export as write

    weights = run / schema.ENCODER
    if not weights.exists():
        raise ValueError(f"{run}: the run is not done, there is no {schema.ENCODER} yet")
    saved = checkpoint.load(weights)
    config: Config = from_plain(Config, saved["config"])
    for target in targets:
        if target not in TARGETS:
            raise ValueError(f"--to {target}: there is no such target, the choices are {', '.join(TARGETS)}")
        exportable(config.encoder, target)
    state = {name.removeprefix("backbone."): tensor for name, tensor in saved["encoder"].items()}
    folder = out / run.name
    files = [write(state, config.encoder, target, folder) for target in targets]
    card = folder / "MODEL_CARD.md"
    card.write_text(card_of(run, config, dict(zip(targets, files, strict=True))))
    return [*files, card]


def card_of(run: Path, config: Config, files: dict[str, Path]) -> str:
    """Method, data, difference to the nearest named recipe, readouts over the arm's seeds, how to load it."""
    near, changed = nearest(config)
    lines = [
        f"# Encoder of run {run.name}",
        "",
        f"Recipe: `{near}`" + (", changed:" if changed else ", unchanged."),
        "",
    ]
    lines += [f"- `{name}` = {ours} (there {theirs})" for name, (ours, theirs) in changed.items()]
    lines += [
        "",
        f"Images: {config.data.name}, {config.data.image_size} pixels, mean {config.augment.mean}, std {config.augment.std}.",
    ]
    lines += [
        "",
        "| readout (test split) | this seed | mean ± std over the arm's finished seeds | n |",
        "| :-- | --: | --: | --: |",
    ]
    lines += [*_readouts(run)]
    for target, path in files.items():
        lines += ["", f"## In {target}", "", "```python", loading(target, path.name, config), "```"]
    return "\n".join(lines) + "\n"


def nearest(config: Config) -> tuple[str, dict[str, Any]]:
    """The named baseline with the fewest differences, and those; the seed is none."""
    found = {name: difference(config, make()) for name, make in BASELINES.items()}
    name = min(found, key=lambda one: len(found[one]))
    return name, {field: values for field, values in found[name].items() if field != "train.seed"}


def _readouts(run: Path) -> list[str]:
    own = (RunDirectory(run).results() or schema.Results()).get("test", {})
    seeds = [RunDirectory(run.parent / sibling).results() for sibling in siblings(run)]
    done = [results["test"] for results in seeds if results]
    rows = []
    for name, value in own.items():
        values = [test[name] for test in done if name in test]
        spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        over = f"{fmean(values):.1f}{spread}" if values else "—"
        rows.append(f"| {name} | {value:.1f} | {over} | {len(values)} |")
    return rows


def siblings(run: Path) -> list[str]:
    """Runs of the same arm, the run itself among them, in the first sweep that planned it."""
    for manifest in all_manifests(run.parent):
        arms = {found.run_id: found.arm for found in cells_of(manifest)}
        if run.name in arms:
            return [run_id for run_id, arm in arms.items() if arm == arms[run.name]]
    return [run.name]
