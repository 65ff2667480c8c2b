"""Small image nets, `(B, 3, 8, 8)` in: how convolutions are joined."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_norm(cin: int, cout: int, kernel: int = 3, **settings: int) -> nn.Sequential:
    conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False, **settings)
    return nn.Sequential(conv, nn.BatchNorm2d(cout))


class Head(nn.Module):
    """Pools all positions and classifies into 3."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(cin, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(x).flatten(1))


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 5, 1),
        nn.Sigmoid(),
        Head(5),
    )


class Residual(nn.Module):
    """Two blocks, the second with a projection in its shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6)
        self.one, self.two = conv_norm(6, 5), conv_norm(5, 6)
        self.three, self.four = conv_norm(6, 4, stride=2), conv_norm(4, 7)
        self.short = conv_norm(6, 7, 1, stride=2)
        self.head = Head(7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.two(torch.relu(self.one(x))))
        x = torch.relu(self.short(x) + self.four(torch.relu(self.three(x))))
        return self.head(x)


def depthwise_separable() -> nn.Module:
    return nn.Sequential(
        conv_norm(3, 6),
        nn.ReLU(),
        conv_norm(6, 6, groups=6),
        nn.ReLU6(),
        conv_norm(6, 8, 1),
        nn.ReLU(),
        Head(8),
    )


class InvertedResidual(nn.Module):
    """Expand, depthwise, and a linear bottleneck with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 4)
        self.expand, self.spread = conv_norm(4, 12, 1), conv_norm(12, 12, groups=12)
        self.project = conv_norm(12, 4, 1)
        self.activation = nn.Hardswish()
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.activation(self.spread(self.activation(self.expand(x))))
        return self.head(x + self.project(y))


class Concat(nn.Module):
    """Two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv_norm(3, 4), nn.Conv2d(3, 5, 1)
        self.join = conv_norm(9, 6)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.relu(self.left(x)), torch.sigmoid(self.right(x))], dim=-3)
        return self.head(torch.relu(self.join(x)))


class Dense(nn.Module):
    """Each layer reads everything before it (DenseNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4 + 3 * i) for i in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(4 + 3 * i, 3, 3, padding=1) for i in range(2))
        self.head = Head(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(torch.relu(norm(x)))], 1)
        return self.head(x)


class SqueezeExcite(nn.Module):
    """Channels scaled by a sigmoid of their own means."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6)
        self.reduce, self.expand = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        scale = x.mean((2, 3), keepdim=True)
        scale = torch.sigmoid(self.expand(torch.relu(self.reduce(scale))))
        return self.head(x * scale)


class PreActivation(nn.Module):
    """Norms before the convolutions, so that some fold into none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(5), nn.Conv2d(5, 6, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(6, affine=False)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv1(torch.relu(self.norm1(x)))
        x = x + self.norm3(self.conv2(torch.relu(self.norm2(y))))
        return self.head(x)


class ConcatNorm(nn.Module):
    """One norm over two joined branches."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.depthwise = nn.Conv2d(7, 7, 3, padding=1, groups=7)
        self.head = Head(7)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.left(x), self.right(x)), 1)
        return self.head(self.depthwise(torch.relu(self.norm(x))))


class AddInput(nn.Module):
    """A shortcut from the input of the net."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)
        self.three = nn.Conv2d(3, 4, 3)
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.two(torch.relu(self.one(x)))
        return self.head(torch.relu(self.three(x)))


class ConcatInput(nn.Module):
    """The input beside what was made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 5, 3, padding=1)
        self.two = nn.Conv2d(8, 4, 3, padding=1)
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.relu(self.one(x))], 1)
        return self.head(torch.relu(self.two(x)))


class CalledTwice(nn.Module):
    """One convolution applied to its own output, and one to two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 1)
        self.shared, self.again = nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.shared(self.left(x)), self.shared(torch.tanh(self.right(x)))
        x = torch.relu(left) * right
        return self.head(self.again(torch.relu(self.again(x))))


class TwoResolutions(nn.Module):
    """A block with a norm, called at two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 5)
        self.block = nn.Sequential(conv_norm(5, 4), nn.ReLU(), conv_norm(4, 5))
        self.pool = nn.AvgPool2d(2)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.block(x)
        return self.head(self.block(self.pool(x)))
