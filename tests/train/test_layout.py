"""The order in memory of what is trained. Shapes: `B` items of a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from costs import size_bytes
from plinio_sweep import MPSSettings, PITSettings
from plinio_sweep.train.layout import channels_last
from plinio_sweep.train.loop import evaluate, fit, restore_norms
from plinio_sweep.train.metrics import accuracy
from plinio_sweep.train.recipe import Phase, Split, Splits, Task

torch.manual_seed(0)
IMAGES = Split((torch.randn(48, 3, 6, 6),), torch.randint(2, (48,)))
DATA = Splits(train=IMAGES, validation=IMAGES, test=IMAGES)


class Seen(nn.Module):
    """Notes in which order its maps lie."""

    def __init__(self) -> None:
        super().__init__()
        self.last: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        """The same maps `(B, C, H, W)`."""
        self.last.append(x.is_contiguous(memory_format=torch.channels_last))
        return x


class ViewNet(nn.Module):
    """Flattens its maps as old code does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `(B, 2)` of images `(B, 3, 6, 6)`."""
        x = self.conv(x)
        return self.linear(x.view(len(x), -1))


class ViewsInTraining(ViewNet):
    """Has its trouble in training only."""

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `(B, 2)` of images `(B, 3, 6, 6)`."""
        x = self.conv(x)
        return self.linear(x.view(len(x), -1) if self.training else x.flatten(1))


class OwnNorm(torch.autograd.Function):
    """Has its trouble on the way back only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The same maps."""
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The same gradient, by way of rows."""
        return grad.view(len(grad), -1).view(grad.shape)


class ViewsOnTheWayBack(ViewNet):
    """Trains through a function of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `(B, 2)` of images `(B, 3, 6, 6)`."""
        return self.linear(OwnNorm.apply(self.conv(x)).mul(2).flatten(1))


def plain() -> nn.Sequential:
    """Two convolutions with a norm and dropout between them."""
    first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Seen())
    return nn.Sequential(
        *first, nn.Dropout(0.2), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(64, 2)
    )


def task(loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy, **metrics: Any) -> Task:
    return Task(net=plain, data=lambda: DATA, loss=loss, metrics=metrics)


def train(net: nn.Module, of: Task | None = None, epochs: int = 2) -> None:
    phase = Phase(epochs=epochs, lr=1e-2)
    fit(net, DATA, of or task(accuracy=accuracy), phase, name="some", batch_size=16, seed=0)


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return kind()


def test_maps_are_trained_and_measured_with_channels_last() -> None:
    net = plain()
    train(net)
    (seen,) = [module for module in net.modules() if isinstance(module, Seen)]
    assert all(seen.last)
    seen.last.clear()
    restore_norms(net, IMAGES, 16)
    assert all(seen.last)


@pytest.mark.parametrize("method", [PITSettings(), MPSSettings()])
def test_a_search_is_trained_so_too(method: Any) -> None:
    search = method.open(plain(), DATA.example(), {"size_bytes": size_bytes})
    search.prepare([IMAGES.inputs])
    found = []
    with channels_last(search, IMAGES.inputs, lambda: search(*IMAGES.inputs)) as borne:
        found = [w.stride() for w in search.parameters() if w.dim() == 4]
        out = search(*IMAGES.inputs)
    assert borne
    assert found[0] == (27, 1, 9, 3)
    assert out.isfinite().all()


def test_weights_lie_as_before_and_are_as_good() -> None:
    net, same = made(plain), made(plain)
    strides = [value.stride() for value in net.state_dict().values()]
    train(net)
    assert [value.stride() for value in net.state_dict().values()] == strides
    # What a store gives back trains on bit by bit as what was kept in memory.
    same.load_state_dict(copy.deepcopy(net.state_dict()))
    train(net)
    train(same)
    assert all(map(torch.equal, net.state_dict().values(), same.state_dict().values()))


@pytest.mark.parametrize("kind", [ViewNet, ViewsInTraining, ViewsOnTheWayBack])
def test_a_net_that_needs_the_usual_order_is_trained_in_it(kind: Callable[[], nn.Module]) -> None:
    net = made(kind)
    before = evaluate(net, IMAGES, task()).loss
    train(net, epochs=8)
    assert evaluate(net, IMAGES, task()).loss < before


def test_a_loss_and_a_metric_may_need_the_usual_order() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def loss(outputs: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(outputs.view(len(outputs), 2, 16).mean(2), target)

    train(net, task(loss, spread=lambda outputs, target: outputs.view(-1).std()))


def test_to_try_leaves_no_trace() -> None:
    net, example = made(plain), IMAGES.inputs
    state, torch_state = copy.deepcopy(net.state_dict()), torch.get_rng_state()

    def step() -> None:
        net.eval()(*example)
        net.train()(*example).sum().backward()
        torch.rand(3)

    net.eval()
    with channels_last(net, example, step) as borne:
        assert borne
        assert not net.training
        assert all(map(torch.equal, net.state_dict().values(), state.values()))
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("net", "inputs"),
    [
        (nn.Linear(3, 2), torch.randn(2, 3)),
        (nn.Conv1d(3, 2, 3), torch.randn(2, 3, 6)),
        (nn.Conv3d(3, 2, 3), torch.randn(2, 3, 6, 6, 6)),
        (nn.Linear(6, 2), torch.randn(2, 3, 6, 6)),
    ],
    ids=["linear", "1-d", "3-d", "no convolution"],
)
def test_other_nets_are_left_alone(net: nn.Module, inputs: Tensor) -> None:
    with channels_last(net, (inputs,), lambda: net(inputs)) as borne:
        assert not borne
        assert not net._forward_pre_hooks


def test_weights_that_share_memory_keep_sharing_it() -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1))
    first, second = net[0], net[1]
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
    second.weight.data = first.weight.data
    with channels_last(net, IMAGES.inputs, lambda: net(*IMAGES.inputs)), torch.no_grad():
        first.weight.fill_(3.0)
    assert float(second.weight.detach().mean()) == 3.0


def test_an_order_of_the_user_s_own_is_kept() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    net = net.to(memory_format=torch.channels_last)
    train(net)
    weight = next(net.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)
