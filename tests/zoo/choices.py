"""Nets with choices, one structure each, `(B, 3, 8, 8)` in unless they say otherwise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plinio_sweep.methods.supernet import SuperNetModule
from tests.zoo.images import Head, conv_norm


def _double(x: Tensor) -> Tensor:
    return 2 * x


class SubNet(nn.Module):
    """A branch that is a net of its own, with a shortcut inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = conv_norm(channels, 4), conv_norm(4, channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.two(torch.relu(self.one(x))))


class Layers(nn.Module):
    """Branches of one layer, of several, of a sub-net; identity as module and as function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6)
        self.block = SuperNetModule(
            [
                nn.Conv2d(6, 6, 3, padding=1),
                nn.Sequential(conv_norm(6, 4), nn.ReLU(), nn.Conv2d(4, 6, 1)),
                SubNet(6),
                nn.Identity(),
                F.relu,
                _double,
            ]
        )
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(torch.relu(self.stem(x))))


class Nested(nn.Module):
    """A choice within a choice within a choice."""

    def __init__(self) -> None:
        super().__init__()
        inner = SuperNetModule([nn.Conv2d(5, 5, 1), nn.Conv2d(5, 5, 1, bias=False), nn.Identity()])
        middle = SuperNetModule([nn.Sequential(inner, nn.BatchNorm2d(5)), nn.ReLU()])
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.block = SuperNetModule(
            [nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), middle), conv_norm(5, 5), nn.Identity()]
        )
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)))


class Siblings(nn.Module):
    """A choice between choices: the one that is taken takes the place where the other was."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        one = SuperNetModule([nn.Conv2d(5, 5, 1), nn.Conv2d(5, 5, 3, padding=1)])
        two = SuperNetModule([nn.Conv2d(5, 5, 3, padding=1, groups=5), conv_norm(5, 5)])
        self.block = SuperNetModule([one, two])
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(torch.relu(self.stem(x))))


class Resolutions(nn.Module):
    """One block at two resolutions, its branches with layers that both calls share."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6)
        self.block = SuperNetModule([conv_norm(6, 6), nn.Conv2d(6, 6, 1), nn.Identity()])
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(torch.relu(self.stem(x)))
        return self.head(self.block(F.max_pool2d(x, 2)))


class InResidual(nn.Module):
    """Choices on both paths of an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6)
        self.body = SuperNetModule([conv_norm(6, 6), nn.Conv2d(6, 6, 5, padding=2), nn.Identity()])
        self.short = SuperNetModule([nn.Conv2d(6, 6, 1), nn.Identity()])
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.body(x) + self.short(x)))


class InConcat(nn.Module):
    """Choices between branches that are joined, at different widths, then a choice over all."""

    def __init__(self) -> None:
        super().__init__()
        self.left = SuperNetModule([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)])
        self.right = SuperNetModule([conv_norm(3, 2), nn.Conv2d(3, 2, 5, padding=2)])
        self.last = SuperNetModule([nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Identity()])
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), torch.relu(self.right(x))], 1)
        return self.head(self.last(x))


class InSeparable(nn.Module):
    """Depthwise kernels of several sizes to choose from, and whole separable blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6)
        self.depthwise = SuperNetModule(
            [nn.Conv2d(6, 6, k, padding=k // 2, groups=6, bias=False) for k in (3, 5)]
        )
        self.norm = nn.BatchNorm2d(6)
        self.point = SuperNetModule(
            [
                nn.Conv2d(6, 8, 1),
                nn.Sequential(conv_norm(6, 6, groups=6), nn.ReLU(), nn.Conv2d(6, 8, 1)),
            ]
        )
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.depthwise(torch.relu(self.stem(x)))))
        return self.head(torch.relu(self.point(x)))


class NormBehind(nn.Module):
    """Norms that fold into one layer or another or none, as the choices around them are made."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        before = nn.Sequential(nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 5, 3, padding=1))
        self.one = SuperNetModule([before, nn.Conv2d(5, 5, 1, bias=False), _double])
        self.two = SuperNetModule([nn.Conv2d(5, 5, 1, bias=False), lambda x: x])
        self.norm = nn.BatchNorm2d(5)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.two(self.one(self.stem(x))))
        x = torch.relu(x)
        return self.head(torch.relu(self.norm(self.two(x))))


class Strided(nn.Module):
    """Branches that halve the resolution, each in its way, and change the width."""

    def __init__(self) -> None:
        super().__init__()
        self.block = SuperNetModule(
            [
                nn.Conv2d(3, 6, 3, stride=2, padding=1),
                nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(3, 6, 1)),
                nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.PReLU(4), nn.Conv2d(4, 6, 1)),
            ]
        )
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x))


class Repeated(nn.Module):
    """Choices in a row that are one module: all calls decide alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        block = SuperNetModule([nn.Conv2d(6, 6, 3, padding=1), torch.tanh])
        self.blocks = nn.Sequential(block, nn.ReLU(), block)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class Signals(nn.Module):
    """`(B, 4, 16)` in: kernels of several lengths and dilations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU())
        self.block = SuperNetModule(
            [
                nn.Conv1d(6, 6, 3, padding=2, dilation=2),
                nn.Sequential(nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(6, 6, 5)),
                nn.Identity(),
            ]
        )
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.stem(x)).mean(2))


class Volumes(nn.Module):
    """`(B, 2, 4, 6, 6)` in: three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.block = SuperNetModule(
            [
                nn.Conv3d(2, 4, 3, padding=1),
                nn.Sequential(nn.Conv3d(2, 4, 1), nn.BatchNorm3d(4), nn.ReLU()),
            ]
        )
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.block(x)).flatten(1))


class SeveralInputs(nn.Module):
    """`(B, 3, 8, 8)` and `(B, 4)` in: a choice on each input, and one where they meet."""

    def __init__(self) -> None:
        super().__init__()
        self.image = SuperNetModule([nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 1)])
        self.vector = SuperNetModule(
            [nn.Linear(4, 6), nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6))]
        )
        self.joint = SuperNetModule([nn.Linear(12, 12), nn.Identity(), torch.sigmoid])
        self.fc = nn.Linear(12, 3)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        image = torch.relu(self.image(image)).mean((2, 3))
        return self.fc(self.joint(torch.cat([image, self.vector(vector)], 1)))
