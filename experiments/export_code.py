"""The lines that load an exported encoder in each tool, as the model card shows them; `net(images)` gives the features."""

from __future__ import annotations

from moco.config import Config, ResNet, ViT


def loading(target: str, file: str, config: Config) -> str:
    if target == "detectron2":
        return _detectron2(file, config)
    build = _vit(target, config.encoder, config.data.image_size) if isinstance(config.encoder, ViT) else None
    if isinstance(config.encoder, ResNet):
        build = _timm_resnet(config.encoder) if target == "timm" else _resnet(config.encoder)
    if target == "safetensors":
        own = isinstance(config.encoder, ResNet) and config.encoder.depth == 8
        lines = _own(config) if own else f"import safetensors.torch, torch, torchvision\n{build}"
        return f'{lines}\nnet.load_state_dict(safetensors.torch.load_file("{file}"))'
    return f'import torch, {target}\n{build}\nnet.load_state_dict(torch.load("{file}", weights_only=True))'


def _own(config: Config) -> str:
    """No other tool has a ResNet-8."""
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
    return (
        f"net = torchvision.models.VisionTransformer({side}, {encoder.patch}, {encoder.depth}, {encoder.heads}, "
        f"{encoder.width}, {4 * encoder.width})\nnet.heads = torch.nn.Identity()"
    )


def _detectron2(file: str, config: Config) -> str:
    mean, std = ([round(255 * part, 3) for part in parts] for parts in (config.augment.mean, config.augment.std))
    return (
        f'cfg.MODEL.WEIGHTS = "{file}"\ncfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = {mean}, {std}\n'
        'cfg.INPUT.FORMAT = "RGB"'
    )
