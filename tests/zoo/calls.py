"""Small image nets around what `forward` takes, gives, and calls."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.images import Head, conv_norm


class SeveralInputs(nn.Module):
    """An image `(B, 3, 8, 8)` and four numbers `(B, 4)`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = conv_norm(3, 5), nn.AdaptiveAvgPool2d(1)
        self.numbers, self.hidden = nn.Linear(4, 6), nn.Linear(11, 7)
        self.fc = nn.Linear(7, 3)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        left = self.pool(torch.relu(self.conv(image))).flatten(1)
        x = torch.cat([left, torch.tanh(self.numbers(numbers))], 1)
        return self.fc(torch.relu(self.hidden(x)))


class SeveralOutputs(nn.Module):
    """A class and a map, as a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.trunk = conv_norm(3, 6), conv_norm(6, 5)
        self.map, self.head = nn.Conv2d(5, 2, 1), Head(5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.trunk(torch.relu(self.stem(x))))
        return self.head(x), self.map(x)


class NamedOutputs(SeveralOutputs):
    """The same as a dictionary, with an activation from inside."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        stem = torch.relu(self.stem(x))
        x = torch.relu(self.trunk(stem))
        return {"class": self.head(x), "map": self.map(x), "stem": stem}


class Functional(nn.Module):
    """Everything but the layers themselves by functions, methods and operators."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.two, self.gate = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.one(x))), 2)
        y = F.leaky_relu(self.two(x), 0.1) * torch.sigmoid(self.gate(x))
        y += x
        y = F.avg_pool2d(F.pad(y, (1, 1, 1, 1)), 3, stride=1)
        y = F.interpolate(y, scale_factor=2.0).clamp(-3, 3).relu() / 2 - 0.1
        y = F.adaptive_avg_pool2d(y, 2).mean(dim=[2, 3])
        return F.log_softmax(self.fc(y.view(y.shape[0], 6)), dim=1)


class Defaults(nn.Module):
    """Arguments that are usually left out."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_norm(3, 6), conv_norm(6, 5)
        self.head = Head(5)

    def forward(self, x: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> Tensor:
        x = torch.relu(self.one(x)) * scale
        if mask is not None:
            x = x * mask
        return self.head(torch.relu(self.two(x)))


class FunctionalDropout(nn.Module):
    """Dropout by a function that is told the mode of the net."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_norm(3, 6), conv_norm(6, 5)
        self.head = Head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(torch.relu(self.one(x)), 0.25, training=self.training)
        return self.head(F.dropout(torch.relu(self.two(x)), 0.5, self.training))
