"""BatchNorm over parts of the batch: three ways to compute it, against one call a part in float64 and torch's own module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from moco.batchnorm import SplitBatchNorm2d, Way, one_by_one, share_statistics, together, way_of
from moco.randomness import generator
from tests.support.parts import require_part

PARTS, CHANNELS = 4, 6
FORMATS = [torch.contiguous_format, torch.channels_last]
Results = dict[str, Tensor]


EACH_DEVICE = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def images(memory_format: torch.memory_format, device: torch.device) -> Tensor:
    """Each channel somewhere else, up to eight deviations from 0."""
    unit = torch.randn(12, CHANNELS, 5, 3, generator=generator("cpu", 0))
    scale, shift = torch.linspace(0.5, 3, CHANNELS), torch.linspace(-4, 9, CHANNELS)
    moved = unit * scale[:, None, None] + shift[:, None, None]
    return moved.to(device).contiguous(memory_format=memory_format)


def affine(device: torch.device) -> tuple[Tensor, Tensor]:
    draw = generator("cpu", 1)
    weight, bias = (torch.randn(CHANNELS, generator=draw).to(device).requires_grad_() for _ in range(2))
    return weight, bias


def computed(way: Way, images_NCHW: Tensor, dtype: torch.dtype = torch.float32) -> Results:
    """What a way returns, and the gradients of a loss that looks at every number."""
    x = images_NCHW.to(dtype).requires_grad_()
    weight, bias = (one.detach().to(dtype).requires_grad_() for one in affine(x.device))
    out, mean, variance = together(x, weight, bias, PARTS, 1e-5)
    cotangent = torch.randn(out.shape, generator=generator("cpu", 2)).to(out.device, dtype)
    gradients = torch.autograd.grad((out * cotangent).sum(), (x, weight, bias))
    assert not mean.requires_grad
    assert not variance.requires_grad
    names = ("images", "mean", "variance", "of images", "of weight", "of bias")
    return dict(zip(names, (out, mean, variance, *gradients), strict=True))


def assert_same(results: Results, expected: Results) -> None:
    for name, tensor in results.items():
        torch.testing.assert_close(
            tensor.double(), expected[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@EACH_DEVICE
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("way", [one_by_one, together])
def test_all_ways_are_batch_norm_of_each_part(way: Way, memory_format: torch.memory_format, device: str) -> None:
    """Values, gradients and statistics, against the loop in float64."""
    x = images(memory_format, torch.device(device))
    results = computed(way, x)
    assert results["images"].is_contiguous(memory_format=memory_format)
    assert_same(results, computed(one_by_one, x, torch.float64))


@EACH_DEVICE
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.filterwarnings("default")  # torch's own, about itself
def test_compiled_parts_are_one_computation_and_equal(memory_format: torch.memory_format, device: str) -> None:
    require_part("c++" if device == "cpu" else "gcc")
    x = images(memory_format, torch.device(device))
    torch.compiler.reset()
    compiled = torch.compile(together, fullgraph=True, dynamic=False)
    results = computed(compiled, x)
    assert results["images"].is_contiguous(memory_format=memory_format)
    assert_same(results, computed(one_by_one, x, torch.float64))


@EACH_DEVICE
def test_in_bf16_statistics_are_float32_and_images_keep_their_type(device: str) -> None:
    x = images(torch.channels_last, torch.device(device)).to(torch.bfloat16)
    out, mean, variance = together(x, *affine(x.device), PARTS, 1e-5)
    theirs, their_mean, their_variance = one_by_one(x, *affine(x.device), PARTS, 1e-5)
    assert out.dtype == theirs.dtype == torch.bfloat16
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(mean, their_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance, their_variance, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out, theirs, rtol=2**-7, atol=2**-7)  # one step of bf16


def test_gradients_are_those_of_finite_differences() -> None:
    x = images(torch.channels_last, torch.device("cpu")).double()[:8, :2].requires_grad_()
    weight, bias = (one.detach()[:2].double().requires_grad_() for one in affine(x.device))
    assert torch.autograd.gradcheck(lambda *inputs: together(*inputs, 2, 1e-5)[0], (x, weight, bias))


def test_a_mean_a_thousand_times_the_spread_does_no_harm() -> None:
    """Float32 knows such an input to 1e-4 of its spread; a mean of squares less the square of the mean would be off by 0.1."""
    x = images(torch.contiguous_format, torch.device("cpu")) * 1e-3 + 8.0
    expected = one_by_one(x.double(), *(one.double() for one in affine(x.device)), PARTS, 1e-5)
    for mine, theirs in zip(together(x, *affine(x.device), PARTS, 1e-5), expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("device", "ways"), [("cpu", [one_by_one] * 2), pytest.param("cuda", [together] * 2, marks=pytest.mark.gpu)]
)
@pytest.mark.filterwarnings("default")  # torch's own, about itself
def test_the_way_is_chosen_by_device_and_compiler(device: str, ways: list[Way]) -> None:
    """By the operations in the graph: eight norms, or one variance."""
    x = images(torch.contiguous_format, torch.device(device))
    assert way_of(x) is ways[0]
    names: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        names.extend(node.name for node in graph.graph.nodes)
        return graph

    torch.compiler.reset()
    torch.compile(SplitBatchNorm2d(CHANNELS, PARTS).to(x.device), backend=backend, fullgraph=True)(x)
    assert sum("var_mean" in name for name in names) == (1 if ways[1] is together else 0)
    assert sum("batch_norm" in name for name in names) == (PARTS if ways[1] is one_by_one else 0)


def test_running_statistics_move_once_by_the_mean_over_parts_and_passes() -> None:
    """Two passes of one step, each of its own parts, as `share_statistics` weighs them."""
    x = images(torch.channels_last, torch.device("cpu"))
    norm, norms = SplitBatchNorm2d(CHANNELS, 2), [nn.BatchNorm2d(CHANNELS) for _ in range(4)]
    for part, half in enumerate(x.chunk(2)):
        share_statistics(norm, part, 2)
        norm(half)
    for plain, part in zip(norms, x.chunk(4), strict=True):
        plain(part)
    torch.testing.assert_close(norm.running_mean, torch.stack([n.running_mean for n in norms]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([n.running_var for n in norms]).mean(0))
    with pytest.raises(ValueError, match="batch of 9 images does not divide into 2 parts"):
        norm(x[:9])
