"""`card_of`: the model card of an exported encoder: method, data, difference to named recipes, readouts, how to load it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments.plan.registry import baselines
from experiments.plan.sweep import difference
from experiments.state.find import Found, cells_of
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.manifests import all_manifests
from experiments.store.run import RunDirectory
from experiments.store.summary import t_interval
from moco.config import Absent, Config, CrossEntropy, InfoNCE, ResNet, ViT
from moco.config.plain import flatten

WITHOUT = ("train.seed",)  # fields that are not part of a recipe


def loading(target: str, file: str, config: Config) -> str:
    """The Python lines that load the file in a tool, as the card shows them; `net(images)` gives the features."""
    if target == "detectron2":
        return _detectron2(file, config)
    if target == "lincls":
        return _lincls(file, config)
    build = _vit(target, config.encoder, config.data.image_size) if isinstance(config.encoder, ViT) else None
    if isinstance(config.encoder, ResNet):
        build = _timm_resnet(config.encoder) if target == "timm" else _resnet(config.encoder)
    if target == "safetensors":
        own = isinstance(config.encoder, ResNet) and config.encoder.depth == 8
        lines = _own(config) if own else f"import safetensors.torch, torch, torchvision\n{build}"
        return f'{lines}\nnet.load_state_dict(safetensors.torch.load_file("{file}"))'
    return f'import torch, {target}\n{build}\nnet.load_state_dict(torch.load("{file}", weights_only=True))'


def _own(config: Config) -> str:
    """With our own package: no other tool has a ResNet-8."""
    return (
        "import safetensors.torch, moco.encoders\nfrom moco.config import ResNet\n"
        f"net = moco.encoders.build_encoder({config.encoder!r}, {config.data.image_size}).backbone"
    )


def _resnet(encoder: ResNet) -> str:
    kinds = ""
    if (encoder.groups, encoder.width_per_group) != (1, 64):
        kinds = f"groups={encoder.groups}, width_per_group={encoder.width_per_group}"
    lines = [f"net = torchvision.models.resnet{encoder.depth}({kinds})", "net.fc = torch.nn.Identity()"]
    if encoder.stem != "imagenet":
        stride = 2 if encoder.stem == "strided" else 1
        lines.append(f"net.conv1 = torch.nn.Conv2d(3, 64, 3, stride={stride}, padding=1, bias=False)")
        lines.append("net.maxpool = torch.nn.Identity()")
    return "\n".join(lines)


def _timm_resnet(encoder: ResNet) -> str:
    block = "Bottleneck" if encoder.depth >= 50 else "BasicBlock"
    layers = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}[
        encoder.depth
    ]
    kinds = ""
    if (encoder.groups, encoder.width_per_group) != (1, 64):
        kinds = f", cardinality={encoder.groups}, base_width={encoder.width_per_group}"
    lines = [f"net = timm.models.resnet.ResNet(timm.models.resnet.{block}, {layers}, num_classes=0{kinds})"]
    if encoder.stem != "imagenet":
        stride = 2 if encoder.stem == "strided" else 1
        lines.append(f"net.conv1 = torch.nn.Conv2d(3, 64, 3, stride={stride}, padding=1, bias=False)")
        lines.append("net.maxpool = torch.nn.Identity()")
    return "\n".join(lines)


def _vit(target: str, encoder: ViT, side: int) -> str:
    if target == "timm":
        return (
            f"net = timm.models.VisionTransformer(img_size={side}, patch_size={encoder.patch}, embed_dim={encoder.width}, "
            f"depth={encoder.depth}, num_heads={encoder.heads}, num_classes=0)"
        )
    if encoder.pool == "mean" or encoder.stem == "conv":  # torchvision's constructor has neither as we do
        own = "import moco.encoders\nfrom moco.config import ViT"
        return f"{own}\nnet = moco.encoders.build_encoder({encoder!r}, {side}).backbone"
    return (
        f"net = torchvision.models.VisionTransformer({side}, {encoder.patch}, {encoder.depth}, {encoder.heads}, "
        f"{encoder.width}, {4 * encoder.width})\nnet.heads = torch.nn.Identity()"
    )


def _lincls(file: str, config: Config) -> str:
    """A command, as the authors' README has it; in Python it is a comment."""
    from moco.weights.write import name_of

    assert isinstance(config.encoder, ResNet)
    return (
        f"# python main_lincls.py -a {name_of(config.encoder)} --pretrained {file} ... DATA, of facebookresearch/moco"
    )


def _detectron2(file: str, config: Config) -> str:
    mean, std = ([round(255 * part, 3) for part in parts] for parts in (config.augment.mean, config.augment.std))
    return (
        f'cfg.MODEL.WEIGHTS = "{file}"\ncfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = {mean}, {std}\n'
        'cfg.INPUT.FORMAT = "RGB"'
    )


def papers() -> tuple[str, ...]:
    """The baselines that are a paper's own recipe."""
    return tuple(name for name in baselines() if name.startswith("imagenet_"))


def card_of(run: Path, config: Config, files: dict[str, Path]) -> str:
    """The card of a run's encoder, Markdown. `files`: target -> the file written for it."""
    lines = [f"# Encoder of run {run.name}", "", *_method(config), "", *_data(config), "", *_training(run, config), ""]
    lines += [
        "## Difference to named recipes",
        "",
        *_against(config, tuple(baselines()), "the nearest of this suite"),
        "",
    ]
    lines += [*_against(config, papers(), "the nearest of the papers"), ""]
    lines += ["## Readouts, test split", "", *_readouts(run), ""]
    lines += ["## Loading", "", _pixels(config)]
    for target, path in files.items():
        lines += ["", f"In {target}:", "", "```python", loading(target, path.name, config), "```"]
    return "\n".join(lines) + "\n"


def _method(config: Config) -> list[str]:
    near, changed = nearest(config, tuple(baselines()))
    contract = (baselines()[near].__doc__ or "").strip().splitlines()[0]
    loss = config.loss
    if isinstance(loss, CrossEntropy):
        how = "Supervised: cross entropy over the classes."
    elif config.train.epochs == 0:
        how = "Not trained: initial weights, BatchNorm's statistics measured."
    else:
        assert isinstance(loss, InfoNCE)
        keys = "no key encoder" if isinstance(config.key_encoder, Absent) else f"keys {_words(config, 'key_encoder')}"
        how = f"Contrastive: InfoNCE at temperature {loss.temperature:g}, {keys}, negatives {_words(config, 'negatives')}."
    count = f"{len(changed)} field{'s' if len(changed) > 1 else ''} changed" if changed else "unchanged"
    recipe = f"Recipe `{near}`, {count}"
    return [
        "## Method",
        "",
        how,
        f"Encoder {_words(config, 'encoder')}; head {_words(config, 'head')}.",
        f"{recipe}. That recipe: {contract}",
    ]


def _words(config: Config, part: str) -> str:
    """`queue (size 1024)`: a part of the config with its fields."""
    value = getattr(config, part)
    fields = {name.partition(".")[2]: v for name, v in flatten(config).items() if name.startswith(f"{part}.")}
    shown = ", ".join(f"{name} {v}" for name, v in fields.items() if name != "kind" and v is not None)
    return f"{type(value).__name__} ({shown})" if shown else type(value).__name__


def _data(config: Config) -> list[str]:
    data = config.data
    source = f"folder `{data.root}`, fingerprint {data.fingerprint}" if data.name == "folder" else data.name
    return [
        "## Data",
        "",
        f"Trained on {source}, {data.image_size} pixels; {100 * data.validation_share:g} % of its training images held out: "
        "every choice was made on those, the test split decided nothing.",
    ]


def _training(run: Path, config: Config) -> list[str]:
    directory = RunDirectory(run)
    starts = [line for line in directory.attempts() if line["event"] == "start"]
    results = directory.results() or schema.Results()
    code = dict.fromkeys(_code(line) for line in starts)
    hardware = dict.fromkeys(a["hardware"] for a in starts if a.get("hardware"))
    return [
        "## Training",
        "",
        f"Seed {config.train.seed}, {config.train.epochs} epochs, {results.get('steps', '?')} steps of "
        f"{config.train.batch_size} images, {results.get('seconds', 0.0) / 60:.1f} min on {', '.join(hardware) or 'unknown'}; "
        f"code {', '.join(code) or 'unknown'}.",
    ]


def _code(attempt: schema.Attempt) -> str:
    commit = attempt.get("commit")
    if commit is None:
        return "of no commit"
    return commit[:12] + (" with uncommitted changes" if attempt.get("uncommitted") else "")


def nearest(config: Config, names: Sequence[str]) -> tuple[str, dict[str, tuple[Any, Any]]]:
    """The named recipe with the fewest differences, and the differences: field -> (here, there)."""
    found = {name: difference(config, baselines()[name]()) for name in names}
    name = min(found, key=lambda one: len(found[one]))
    return name, {field: values for field, values in found[name].items() if field not in WITHOUT}


def _against(config: Config, names: Sequence[str], which: str) -> list[str]:
    name, changed = nearest(config, names)
    if not changed:
        return [f"`{name}`, {which}: none."]
    rows = [f"| `{field}` | {_plain(here)} | {_plain(there)} |" for field, (here, there) in changed.items()]
    return [f"`{name}`, {which}:", "", "| field | here | there |", "| :-- | --: | --: |", *rows]


def _plain(value: Any) -> str:
    return "—" if value is None else str(value)


def _readouts(run: Path) -> Iterator[str]:
    """A row for each readout of the run, with the mean over the finished seeds of the same arm."""
    own = (RunDirectory(run).results() or schema.Results()).get("test", {})
    arm, done = siblings(run)
    others = [(RunDirectory(run.parent / one.run_id).results() or schema.Results()).get("test", {}) for one in done]
    if len(done) > 1:
        seeds = ", ".join(str(one.seed) for one in done)
        yield f"Percent. The arm {arm} of {done[0].label}, seeds {seeds}: mean over n of them and its 95 % t interval."
    else:
        yield "Percent. One seed (n = 1): there is no interval, and another seed may differ by points."
    yield from ("", "| readout | this seed | mean | 95 % interval | n |", "| :-- | --: | --: | :-: | --: |")
    for name in sorted(own, key=_order):
        values = [test[name] for test in others if name in test]
        spread = t_interval(values)
        shown = f"{spread[0]:.1f} to {spread[1]:.1f}" if spread else "none"
        yield f"| {name} | {own[name]:.1f} | {fmean(values):.1f} | {shown} | {len(values)} |"


def _order(readout: str) -> tuple[int, str]:
    known = list(schema.READOUTS)
    return (known.index(readout) if readout in known else len(known)), readout


def siblings(run: Path) -> tuple[str | None, list[Found]]:
    """The run's arm and that arm's finished runs, in the first sweep that has it; no arm and the run alone if none."""
    for manifest in all_manifests(run.parent):
        cells = cells_of(manifest)
        arm = next((cell.arm for cell in cells if cell.run_id == run.name), None)
        if arm is not None:
            same = [cell for cell in cells if cell.arm == arm]
            return arm, [one for one in same if state_of(run.parent / one.run_id).state == schema.DONE]
    return None, [Found(run.name, None, None, None)]


def _pixels(config: Config) -> str:
    width, side = (
        ("" if isinstance(config.encoder, ResNet) else f" (N, {config.encoder.width})"),
        config.data.image_size,
    )
    mean, std = (tuple(round(value, 6) for value in part) for part in (config.augment.mean, config.augment.std))
    return (
        f"`net(images)` gives the features{width} of images (N, 3, {side}, {side}) in 0..1, "
        f"less mean {mean}, over std {std}. Nothing in these files is executed when they are read, but for detectron2's own "
        "format, which is a pickle."
    )
