"""Small nets `(B, 3, 8, 8)` in that move, split, and join channels by number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.images import Head, conv_norm


class Chunk(nn.Module):
    """Two halves take two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.relu(self.stem(x)).chunk(2, dim=1)
        return self.head(torch.cat([self.left(left), right], 1))


class Slices(nn.Module):
    """Slices with literal bounds that overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.left, self.right = nn.Conv2d(5, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(self.left(x[:, :5]) + self.right(x[:, 4:]))


class LiteralSplit(nn.Module):
    """A split with literal sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(5, 4, 1)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.split(self.stem(x), [3, 5], dim=1)
        return self.head(torch.cat([self.left(left), self.right(right)], 1))


class Shuffle(nn.Module):
    """ShuffleNet's channel shuffle of a split and a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 8)
        self.branch = conv_norm(4, 4)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.relu(self.stem(x)).chunk(2, 1)
        x = torch.cat([left, torch.relu(self.branch(right))], 1)
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return self.head(x.view(batch, -1, height, width))


class StackShuffle(nn.Module):
    """Two branches whose channels take turns."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv_norm(3, 4), conv_norm(3, 4)
        self.join = nn.Conv2d(8, 5, 3, padding=1)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([self.left(x), torch.relu(self.right(x))], dim=2).flatten(1, 2)
        return self.head(torch.relu(self.join(x)))


class PixelShuffle(nn.Module):
    """Channels become positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = conv_norm(3, 5), nn.Conv2d(5, 8, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.last = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shuffle(self.wide(torch.relu(self.stem(x)))))


class FlattenModule(nn.Module):
    """Positions become features of a linear layer: `nn.Flatten`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = conv_norm(3, 6), nn.MaxPool2d(4)
        self.flatten = nn.Flatten()
        self.hidden, self.norm = nn.Linear(24, 7), nn.BatchNorm1d(7)
        self.fc = nn.Linear(7, 3)

    def features(self, x: Tensor) -> Tensor:
        return self.pool(torch.relu(self.conv(x)))

    def classify(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.hidden(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.flatten(self.features(x)))


class FlattenFunction(FlattenModule):
    """The same by `torch.flatten`."""

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(torch.flatten(self.features(x), 1))


class FlattenView(FlattenModule):
    """The same by a view with the size of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classify(x.view(x.size(0), -1))


class FlattenLiteral(FlattenModule):
    """The same by a view with the number of features written out."""

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x).view(-1, 24))


class FlattenTwo(nn.Module):
    """Two branches of different sizes, flattened and joined."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, stride=4), nn.Conv2d(3, 5, 3, stride=3)
        self.norm = nn.BatchNorm1d(36)
        self.fc = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x).flatten(1), torch.relu(self.right(x)).flatten(1)], 1)
        return self.fc(self.norm(x))


class Squeeze(nn.Module):
    """Axes of size one dropped without naming them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = conv_norm(3, 6), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(torch.relu(self.conv(x))).squeeze())


class SliceBeforeOutput(nn.Module):
    """Some channels of the last layer are thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_norm(3, 5), nn.Conv2d(5, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))[:, 1:4]


class MeanOverChannels(nn.Module):
    """A spatial gate made of the mean of all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_norm(3, 5), nn.Conv2d(5, 4, 3, padding=1)
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(torch.relu(self.one(x)))
        return self.head(x * torch.sigmoid(x.mean(dim=1, keepdim=True)))


class SoftmaxOverChannels(nn.Module):
    """Channels that share one unit of probability."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_norm(3, 5), nn.Conv2d(5, 4, 3, padding=1)
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(torch.relu(self.one(x)))
        x = torch.softmax(x, dim=1)
        return self.head(x)


class SoftmaxOverPositions(nn.Module):
    """Each channel shares one unit of probability among its own positions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_norm(3, 5), nn.Conv2d(5, 4, 3, padding=1)
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(torch.relu(self.one(x))).flatten(2).softmax(-1)
        return self.head(x.unflatten(2, (8, 8)))


class Flipped(nn.Module):
    """Each channel added to its mirror image: pairs live and die together."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_norm(3, 6), nn.Conv2d(6, 4, 3, padding=1)
        self.head = Head(4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        return self.head(self.two(x + x.flip(1)))


class ZeroPadShortcut(nn.Module):
    """A shortcut widened by zeros (ResNet's option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.two = conv_norm(3, 4), conv_norm(4, 6)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        zeros = torch.zeros((x.size(0), 2, x.size(2), x.size(3)), dtype=x.dtype)
        return self.head(torch.cat([x, zeros], 1) + self.two(x))


class Doubled(nn.Module):
    """As many zeros as there are channels, joined to them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.two = conv_norm(3, 4), conv_norm(8, 6)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        zeros = torch.zeros(x.shape, dtype=x.dtype)
        return self.head(self.two(torch.cat([x, zeros], 1)))


class Coordinates(nn.Module):
    """A fixed map joined to the channels (CoordConv)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.two = conv_norm(3, 4), conv_norm(5, 6)
        self.register_buffer("map", torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8))
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(self.two(torch.cat([self.map.expand(x.size(0), -1, -1, -1), x], 1)))
