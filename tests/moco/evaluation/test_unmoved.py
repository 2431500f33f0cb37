"""Oracle: a copy of all bits. Every single flipped bit must be seen and named; nothing else may be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moco.evaluation.frozen import BackboneMovedError, checksum, fingerprint, unmoved


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3, bias=False))
    net.register_buffer("hidden", torch.zeros(3), persistent=False)
    return net.to(memory_format=torch.channels_last)


def flip_bit(tensor: torch.Tensor, element: int, bit: int) -> None:
    bits_N = tensor.detach().view({4: torch.int32, 8: torch.int64}[tensor.element_size()])
    place = torch.unravel_index(torch.tensor(element), bits_N.shape)
    bits_N[place] ^= torch.tensor(1, dtype=bits_N.dtype) << bit


def test_forward_in_eval_mode_passes() -> None:
    net = network().eval()
    with unmoved(net):
        net(torch.randn(2, 3, 9, 9))


@pytest.mark.parametrize("bit", [0, 13, 31])
@pytest.mark.parametrize("name", ["0.weight", "2.weight", "1.running_var", "1.num_batches_tracked", "hidden"])
def test_one_flipped_bit_is_named(name: str, bit: int) -> None:
    net = network()
    tensor = dict(net.named_parameters()) | dict(net.named_buffers())
    with pytest.raises(BackboneMovedError, match=rf"1 of 9 tensors .* readout: {name};"), unmoved(net):
        flip_bit(tensor[name], tensor[name].numel() // 2, bit)


def test_batch_norm_in_train_mode_is_caught() -> None:
    net = network().train()
    expected = r"3 of 9 .*: 1.num_batches_tracked, 1.running_mean, 1.running_var;"
    with pytest.raises(BackboneMovedError, match=expected), unmoved(net):
        net(torch.randn(2, 3, 9, 9))


def test_each_single_bit_of_a_tensor_changes_the_checksum() -> None:
    values_N = torch.randn(6)
    seen = {int(checksum(values_N))}
    for element in range(6):
        for bit in range(32):
            changed_N = values_N.clone()
            flip_bit(changed_N, element, bit)
            seen.add(int(checksum(changed_N)))
    assert len(seen) == 1 + 6 * 32


def test_swapped_elements_and_negative_zero_change_it_and_nan_does_not() -> None:
    assert checksum(torch.tensor([1.0, 2.0])) != checksum(torch.tensor([2.0, 1.0]))
    assert checksum(torch.tensor([0.0])) != checksum(torch.tensor([-0.0]))
    not_a_number = torch.tensor([float("nan"), 1.0])
    assert checksum(not_a_number) == checksum(not_a_number.clone())


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.bfloat16, torch.float16, torch.float64, torch.complex64]
)
def test_every_type_of_tensor_has_a_checksum(dtype: torch.dtype) -> None:
    zeros_N = torch.zeros(5, dtype=dtype)
    one_N = zeros_N.clone()
    one_N[3] = 1
    assert checksum(zeros_N) != checksum(one_N)


def test_memory_layout_is_not_a_change() -> None:
    weight = torch.randn(4, 3, 2, 2)
    assert checksum(weight) == checksum(weight.to(memory_format=torch.channels_last))


def test_a_tensor_that_was_added_is_named() -> None:
    net = network()
    with pytest.raises(BackboneMovedError, match="late"), unmoved(net):
        net.register_buffer("late", torch.zeros(1))


def test_an_error_inside_is_not_hidden() -> None:
    net = network()
    with pytest.raises(KeyError), unmoved(net):
        raise KeyError


def test_a_module_without_tensors() -> None:
    assert fingerprint(nn.ReLU()) == {}
