"""Small nets `(B, 3, 8, 8)` in around one kind of layer each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.zoo.images import Head, conv_norm


def between(middle: nn.Module, channels: int = 6, after: int = 6) -> nn.Module:
    """`middle` between two convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        middle,
        nn.Conv2d(after, 4, 3, padding=1),
        nn.ReLU(),
        Head(4),
    )


def instance_norm() -> nn.Module:
    return between(nn.InstanceNorm2d(6, affine=True, track_running_stats=True))


def plain_instance_norm() -> nn.Module:
    return between(nn.InstanceNorm2d(6))


def group_norm() -> nn.Module:
    return between(nn.GroupNorm(2, 6))


def prelu() -> nn.Module:
    return between(nn.PReLU())


def channel_prelu() -> nn.Module:
    return between(nn.PReLU(6))


def grouped() -> nn.Module:
    return between(nn.Conv2d(6, 6, 3, padding=1, groups=2))


def multiplier() -> nn.Module:
    """Two outputs for each input of a depthwise layer."""
    return between(nn.Conv2d(6, 12, 3, padding=1, groups=6), after=12)


def transposed() -> nn.Module:
    return between(nn.ConvTranspose2d(6, 5, 2, stride=2), after=5)


def activations() -> nn.Module:
    return between(nn.Sequential(nn.Sigmoid(), nn.Hardswish(), nn.Softplus(), nn.Dropout2d(0.0)))


def upsample() -> nn.Module:
    return between(nn.Sequential(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1)))


class BareScale(nn.Module):
    """A parameter of the net's own for each channel, and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_norm(3, 6), conv_norm(6, 5)
        self.each, self.all = nn.Parameter(torch.rand(6, 1, 1)), nn.Parameter(torch.rand(1))
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x)) * self.each
        return self.head(torch.relu(self.two(x)) * self.all)


class NamedConv(nn.Conv2d):
    """A convolution under another name."""


class CenteredConv(nn.Conv2d):
    """A convolution with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


def subclass() -> nn.Module:
    return between(NamedConv(6, 6, 3, padding=1))


def own_forward() -> nn.Module:
    return between(CenteredConv(6, 6, 3, padding=1))


def parametrized() -> nn.Module:
    return between(parametrizations.weight_norm(nn.Conv2d(6, 6, 3, padding=1)))


class Tied(nn.Module):
    """Two linear layers over one weight, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = conv_norm(3, 6), nn.AdaptiveAvgPool2d(1)
        self.left, self.middle = nn.Linear(6, 7), nn.Linear(7, 6)
        self.right, self.fc = nn.Linear(6, 7), nn.Linear(7, 3)
        self.right.weight = self.left.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv(x))).flatten(1)
        x = torch.relu(self.middle(torch.relu(self.left(x))))
        return self.fc(torch.relu(self.right(x)))


class Borrowed(nn.Module):
    """A decoder that uses the weight of its encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = conv_norm(3, 6), nn.AdaptiveAvgPool2d(1)
        self.encode, self.fc = nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv(x))).flatten(1)
        x = F.linear(torch.relu(self.encode(x)), self.encode.weight.t())
        return self.fc(torch.relu(x))


class Unused(nn.Module):
    """A layer that the forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.auxiliary = conv_norm(3, 6), nn.Conv2d(6, 2, 1)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)))
