"""LARS against steps by hand and a slow version; what each optimiser moves and what it leaves alone."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from moco import config as c
from moco.optim import LARS, build_optimiser, set_rates
from moco.randomness import generator


def parameter(values: list[float] | list[list[float]], gradient: list[float] | list[list[float]]) -> nn.Parameter:
    p = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    p.grad = torch.tensor(gradient, dtype=torch.float64)
    return p


def test_two_steps_by_hand() -> None:
    """|w| = 5 and g + 0.5 w = (0, 0, 0, 2) of length 2: scaled by 0.01 x 5 / 2 = 0.025 to (0, 0, 0, 0.05).

    First step: momentum (0, 0, 0, 0.05), w - 2 x that = (3, 0, 0, 3.9). Second, gradient (-1.5, 0, 0, 1.65): g + 0.5 w is
    (0, 0, 0, 3.6), scaled to 0.01 |w|; momentum 0.9 x 0.05 + 0.01 |w|.
    """
    weight = parameter([[3.0, 0.0], [0.0, 4.0]], [[-1.5, 0.0], [0.0, 0.0]])
    bias = parameter([1.0, 2.0], [0.5, -1.0])
    optimiser = LARS([weight, bias], lr=2.0, weight_decay=0.5, momentum=0.9, trust=0.01)
    optimiser.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([[3.0, 0.0], [0.0, 3.9]], dtype=torch.float64))
    torch.testing.assert_close(bias.detach(), torch.tensor([0.0, 4.0], dtype=torch.float64))  # neither decay nor scale
    assert weight.grad is not None
    weight.grad[1, 1] = 1.65
    optimiser.step()
    expected = 3.9 - 2.0 * (0.9 * 0.05 + 0.01 * math.hypot(3.0, 3.9))
    assert weight[0].tolist() == [3.0, 0.0]
    assert weight[1, 1].item() == pytest.approx(expected, rel=1e-14)
    assert bias.tolist() == pytest.approx([0.0 - 2 * 1.9 * 0.5, 4.0 + 2 * 1.9 * 1.0], rel=1e-14)


def slow_lars(weights: list[Tensor], momenta: list[Tensor], gradients: list[Tensor], lr: float, decay: float) -> None:
    """One tensor after another, with Python's branches."""
    for w, m, g in zip(weights, momenta, gradients, strict=True):
        update = g.clone()
        if w.ndim > 1:
            update += decay * w
            length, update_length = w.square().sum().sqrt().item(), update.square().sum().sqrt().item()
            if length > 0 and update_length > 0:
                update *= 0.001 * length / update_length
        m.copy_(0.9 * m + update)
        w -= lr * m


def test_many_steps_equal_a_slow_version() -> None:
    shapes = [(4, 3, 3, 3), (7,), (5, 4), (), (1, 1, 6)]
    draw = generator("cpu", "lars")
    start = [torch.randn(shape, dtype=torch.float64, generator=draw) for shape in shapes]
    parameters = [nn.Parameter(w.clone()) for w in start]
    weights, momenta = [w.clone() for w in start], [torch.zeros_like(w) for w in start]
    optimiser = LARS(parameters, lr=0.0)
    for step in range(20):
        lr, decay = 0.1 * step, 1e-2 / (step + 1)
        gradients = [torch.randn(w.shape, dtype=torch.float64, generator=draw) for w in start]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        set_rates(optimiser, lr, decay)
        optimiser.step()
        slow_lars(weights, momenta, gradients, lr, decay)
        assert all(torch.equal(p.grad, g) for p, g in zip(parameters, gradients, strict=True) if p.grad is not None)
    for p, w in zip(parameters, weights, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-12)


def test_clipped_steps_equal_a_slow_version() -> None:
    """As solo-learn has it: rates from far above the clip to 0, tensors of zeros, vectors left alone."""
    shapes = [(4, 3, 3, 3), (7,), (5, 4), (1, 1, 6), (2, 2)]
    draw = generator("cpu", "larc")
    start = [torch.randn(shape, dtype=torch.float64, generator=draw) for shape in shapes]
    start[-1].zero_()
    parameters = [nn.Parameter(w.clone()) for w in start]
    weights, momenta = [w.clone() for w in start], [torch.zeros_like(w) for w in start]
    config = c.LARS(momentum=0.8, trust=0.02, adaptation="clipped")
    optimiser = build_optimiser(config, [(str(i), p) for i, p in enumerate(parameters)])
    clipped = set()
    for lr in (1e-6, 3e-3, 0.5, 0.0, 0.1):
        gradients = [torch.randn(w.shape, dtype=torch.float64, generator=draw) * 4 for w in start]
        if lr == 0.5:
            gradients[2].zero_()
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone()
        set_rates(optimiser, lr, 0.3)
        optimiser.step()
        for w, m, g in zip(weights, momenta, gradients, strict=True):
            length, gradient_length = w.square().sum().sqrt().item(), g.square().sum().sqrt().item()
            if w.ndim > 1 and length > 0 and gradient_length > 0:
                layer_rate = 0.02 * length / (gradient_length + 0.3 * length + 1e-8)
                clipped.add(layer_rate >= lr)
                g = (g + 0.3 * w) * (min(layer_rate / lr, 1.0) if lr else 1.0)
            m.copy_(0.8 * m + g)
            w -= lr * m
    assert clipped == {True, False}
    for p, w in zip(parameters, weights, strict=True):
        torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-12)


def test_weights_or_updates_of_zero_are_not_scaled() -> None:
    zeros, still, absent = (
        parameter([[0.0, 0.0]], [[3.0, 4.0]]),
        parameter([[1.0, 1.0]], [[0.0, 0.0]]),
        nn.Parameter(torch.ones(2, 2)),
    )
    LARS([zeros, still, absent], lr=1.0, weight_decay=0.0).step()
    assert zeros.tolist() == [[-3.0, -4.0]]
    assert still.tolist() == [[1.0, 1.0]]
    assert torch.equal(absent, torch.ones(2, 2))


OPTIMISERS = (c.SGD(lr=0.1, weight_decay=0.5), c.AdamW(lr=0.1, weight_decay=0.5), c.LARS(lr=0.1, weight_decay=0.5))


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4), nn.Linear(4, 3))
    net[2].requires_grad_(False)
    return net


@pytest.mark.parametrize("config", OPTIMISERS, ids=lambda config: type(config).__name__)
def test_decay_falls_on_all_that_moves_but_not_on_lars_vectors(config: c.SGD | c.AdamW | c.LARS) -> None:
    """Without a gradient, SGD and AdamW leave w (1 - lr decay), LARS w (1 - lr trust) of a matrix and w of a vector."""
    net = network()
    before = copy.deepcopy(net.state_dict())
    optimiser = build_optimiser(config, net.named_parameters())
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    for name, p in net.named_parameters():
        kept = 1.0 - 0.1 * 0.5
        if isinstance(config, c.LARS):
            kept = 1.0 - 0.1 * 0.001 if p.ndim > 1 else 1.0
        torch.testing.assert_close(p.detach(), before[name] * (1.0 if name.startswith("2.") else kept))


@pytest.mark.parametrize("config", OPTIMISERS, ids=lambda config: type(config).__name__)
def test_a_resumed_optimiser_takes_the_same_steps(config: c.SGD | c.AdamW | c.LARS) -> None:
    def step(net: nn.Module, optimiser: torch.optim.Optimizer, number: int) -> None:
        set_rates(optimiser, 0.01 * (number + 1), 0.1 / (number + 1))
        inputs = torch.randn(8, 6, generator=generator("cpu", "inputs", number))
        optimiser.zero_grad(set_to_none=True)
        net(inputs).square().mean().backward()
        optimiser.step()

    net = network()
    optimiser = build_optimiser(config, net.named_parameters())
    for number in range(3):
        step(net, optimiser, number)
    resumed = network()
    resumed.load_state_dict(copy.deepcopy(net.state_dict()))
    other = build_optimiser(config, resumed.named_parameters())
    other.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for number in range(3, 6):
        step(net, optimiser, number)
        step(resumed, other, number)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), resumed.parameters(), strict=True))
    names = optimiser.state_dict()["param_groups"][0]["param_names"]
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]


def test_steps_whose_gradients_overflowed_are_skipped() -> None:
    """The scaler of float16 asks for nothing that LARS lacks: an infinite gradient moves neither weights nor momentum."""
    net = network()
    optimiser = build_optimiser(OPTIMISERS[2], net.named_parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = copy.deepcopy(net.state_dict())
    for factor, moved in ((math.inf, False), (1.0, True)):
        optimiser.zero_grad(set_to_none=True)
        (scaler.scale(torch.tensor(1.0)) * net[3].weight.sum() * factor).backward()
        scaler.step(optimiser)
        scaler.update()
        assert torch.equal(net[3].weight, before["3.weight"]) is not moved
    plain = network()
    (plain[3].weight.sum()).backward()
    build_optimiser(OPTIMISERS[2], plain.named_parameters()).step()
    torch.testing.assert_close(net[3].weight, plain[3].weight)
