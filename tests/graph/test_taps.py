from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from plinio_sweep.graph.table import analyze
from plinio_sweep.graph.taps import Kernel, keep_taps
from plinio_sweep.graph.trace import trace

LENGTH = 20
X = torch.randn(2, 3, LENGTH, generator=torch.Generator().manual_seed(0))
# Taps, first one to stay at least, step.
CHOICES = ((2, 1, 1), (5, 0, 2), (5, 2, 1), (5, 4, 1), (8, 3, 2), (8, 0, 4))


class Padded(nn.Module):
    """`pad`, a module or a function, before one convolution."""

    def __init__(self, pad: Any, **given: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pad, self.conv = pad, nn.Conv1d(3, 4, **given)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pad(x))


def cut(net: nn.Module, first: int, step: int) -> tuple[Tensor, Tensor, fx.GraphModule]:
    """What `net` computes with zeros, what it computes cut, and the net after the cut."""
    conv: Any = net.get_submodule("conv")
    size = conv.kernel_size[0]
    taps = range((size - 1 - first) % step + first, size, step)
    masked = copy.deepcopy(net)
    with torch.no_grad():
        removed = [tap for tap in range(size) if tap not in taps]
        masked.get_parameter("conv.weight")[..., removed] = 0.0
        small = trace(copy.deepcopy(net), (X,))
        keep_taps(small, {"conv": taps})
        return masked(X), small(X), small


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [0, 3, 7, "same", "valid"])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_every_padding_keeps_length_and_alignment(mode: str, padding: Any, dilation: int) -> None:
    for size, first, step in CHOICES:
        given = {"padding": padding, "dilation": dilation, "padding_mode": mode}
        net = Padded(nn.Identity(), kernel_size=size, **given)
        expected, actual, small = cut(net, first, step)
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
        assert type(small.get_submodule("conv")) is nn.Conv1d


@pytest.mark.parametrize(
    "pad",
    [
        nn.ConstantPad1d((8, 0), 0.5),
        nn.ConstantPad1d((3, 4), -1.0),
        nn.ZeroPad1d((2, 2)),
        nn.ReflectionPad1d((5, 1)),
        nn.CircularPad1d((9, 2)),
        lambda x: F.pad(x, (8, 0)),
        lambda x: F.pad(x, (6, 1), value=2.0),
        lambda x: F.pad(x, (4, 1), mode="circular"),
        lambda x: F.pad(x, (4, 0, 0, 0)),
    ],
)
@pytest.mark.parametrize("padding", [0, 2])
def test_a_pad_before_the_layer_keeps_length_and_alignment(pad: Any, padding: int) -> None:
    for size, first, step in CHOICES:
        net = Padded(pad, kernel_size=size, padding=padding)
        expected, actual, _ = cut(net, first, step)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("pad", "left"),
    [
        (nn.ConstantPad1d((8, 0), 0.5), [(4, 0)]),  # what the first tap read before is not made
        (lambda x: F.pad(x, (8, 0)), [(4, 0)]),
        (nn.ConstantPad1d((4, 0), 0.5), []),
        (nn.ReflectionPad1d((8, 0)), [(8, 0), (-4, 0)]),
    ],
)
def test_less_is_padded_rather_than_cropped(pad: Any, left: list[tuple[int, int]]) -> None:
    _, _, small = cut(Padded(pad, kernel_size=9), 4, 1)
    pads = [m for n, m in small.named_modules() if "pad" in n]
    assert [tuple(pad.padding) for pad in pads] == left


def test_a_symmetric_remainder_needs_no_pad() -> None:
    _, _, small = cut(Padded(nn.Identity(), kernel_size=5, padding="same"), 0, 2)
    assert [name for name, _ in small.named_modules()] == ["", "pad", "conv"]
    conv: Any = small.get_submodule("conv")
    assert (conv.kernel_size, conv.dilation, conv.padding) == ((3,), (2,), (2,))


class SharedPad(nn.Module):
    """One pad before two layers, of which one alone is cut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pad = nn.ConstantPad1d((4, 0), 0.5)
        self.conv, self.other = nn.Conv1d(3, 4, 5), nn.Conv1d(3, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pad(x)
        return self.conv(y) - self.other(y)


def test_a_pad_that_another_layer_reads_stays() -> None:
    expected, actual, small = cut(SharedPad(), 2, 1)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    pads = [tuple(m.padding) for n, m in small.named_modules() if "pad" in n]
    assert sorted(pads) == [(2, 0), (4, 0)]


def test_what_is_not_trained_stays_untrained() -> None:
    net = Padded(nn.Identity(), kernel_size=5)
    net.get_parameter("conv.weight").requires_grad_(False)
    _, _, small = cut(net, 2, 2)
    assert not small.get_parameter("conv.weight").requires_grad
    assert small.get_parameter("conv.bias").requires_grad


class Mixed(nn.Module):
    """Layers whose taps must stay, each for a reason of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.strided, self.point = nn.Conv1d(3, 4, 5, stride=2), nn.Conv1d(4, 4, 1)
        self.left, self.right = nn.Conv1d(4, 4, 3), nn.Conv1d(4, 4, 3)
        self.right.weight = self.left.weight
        self.image, self.free = nn.Conv2d(4, 4, (1, 3)), nn.Conv1d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.left(self.point(self.strided(x))) + self.right(self.point(self.strided(x)))
        return self.free(self.image(x.unsqueeze(2)).squeeze(2))


def test_a_kernel_that_must_stay_whole_says_why() -> None:
    _, table = analyze(Mixed(), X)
    assert {kernel.name: kernel.frozen for kernel in table.kernels} == {
        "strided": "stride 2 in strided",
        "point": "a single tap",
        "left": "left and right share a parameter",
        "right": "left and right share a parameter",
        "free": None,
    }
    assert "strided  5     frozen: stride 2 in strided" in str(table)


@pytest.mark.parametrize(
    ("taps", "steps"),
    [(1, ()), (2, (1,)), (3, (1, 2)), (4, (1, 2)), (5, (1, 2, 4)), (9, (1, 2, 4, 8))],
)
def test_steps_are_the_powers_of_two_below_the_number_of_taps(
    taps: int, steps: tuple[int, ...]
) -> None:
    assert Kernel(name="conv", taps=taps, dilation=3).steps == steps
