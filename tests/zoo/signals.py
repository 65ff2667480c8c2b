"""Small nets over sequences and volumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Causal(nn.Module):
    """Dilated convolutions over the past, `(B, 4, 16)` in."""

    def __init__(self) -> None:
        super().__init__()
        self.pad1, self.conv1 = nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(4, 6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.pad2, self.conv2 = nn.ConstantPad1d((4, 0), 0.5), nn.Conv1d(6, 5, 3, dilation=2)
        self.pool, self.fc = nn.AvgPool1d(4), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv1(self.pad1(x))))
        x = torch.relu(self.conv2(self.pad2(x)))
        return self.fc(self.pool(x).flatten(1))


class Paddings(nn.Module):
    """Every way to say how much a convolution pads, even kernels among them, `(B, 4, 16)` in."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.norm = nn.Conv1d(4, 6, 5, padding=2, bias=False), nn.BatchNorm1d(6)
        self.same = nn.Conv1d(6, 5, 4, padding="same", dilation=2)
        self.wide = nn.Conv1d(5, 5, 3, padding=4)
        self.valid = nn.Conv1d(5, 4, 6, padding="valid", dilation=2)
        self.none, self.fc = nn.Conv1d(4, 4, 2), nn.Linear(4 * 11, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.number(x)))
        x = self.wide(torch.relu(self.same(x)))
        return self.fc(self.none(torch.relu(self.valid(x))).flatten(1))


class PaddingModes(nn.Module):
    """Every way to fill what a convolution pads, `(B, 4, 16)` in."""

    def __init__(self) -> None:
        super().__init__()
        self.reflect = nn.Conv1d(4, 6, 7, padding=2, padding_mode="reflect")
        self.replicate = nn.Conv1d(6, 5, 4, padding="same", padding_mode="replicate")
        self.circular = nn.Conv1d(5, 5, 5, padding=3, padding_mode="circular")
        self.short = nn.Conv1d(5, 4, 8, padding=1, padding_mode="circular")
        self.fc = nn.Linear(4 * 11, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.replicate(torch.relu(self.reflect(x)))
        return self.fc(self.short(torch.relu(self.circular(x))).flatten(1))


class PaddedBefore(nn.Module):
    """Pads by modules, one of them used twice, and by functions, `(B, 4, 16)` in."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.mirror = nn.ConstantPad1d((4, 0), 0.5), nn.ReflectionPad1d((3, 1))
        self.one, self.two = nn.Conv1d(4, 5, 5), nn.Conv1d(5, 5, 3, dilation=2)
        self.three, self.four = nn.Conv1d(5, 6, 5), nn.Conv1d(6, 4, 9)
        self.fc = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(self.pad(x)))
        x = x + torch.relu(self.two(self.pad(x)))
        x = F.relu(self.three(self.mirror(x)))
        return self.fc(self.four(F.pad(x, (8, 0))).flatten(1))


class Temporal(nn.Module):
    """Long depthwise, grouped, strided and twice called kernels, `(B, 4, 16)` in."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(4, 6, 7, padding="same"), nn.BatchNorm1d(6)
        self.depthwise = nn.Conv1d(6, 6, 9, padding=4, groups=6)
        self.point, self.twice = nn.Conv1d(6, 6, 1), nn.Conv1d(6, 6, 5, padding=2)
        self.grouped = nn.Conv1d(6, 4, 4, padding=3, groups=2)
        self.strided, self.fc = nn.Conv1d(4, 4, 3, stride=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.relu(self.point(self.depthwise(x)))
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return self.fc(self.strided(torch.relu(self.grouped(x))).mean(2))


class UNet(nn.Module):
    """Down, up, and across, `(B, 4, 16)` in."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.norm1 = nn.Conv1d(4, 5, 3, padding=1), nn.InstanceNorm1d(5, affine=True)
        self.down2, self.act = nn.Conv1d(5, 6, 3, stride=2, padding=1), nn.PReLU(6)
        self.bottom, self.norm2 = nn.Conv1d(6, 6, 3, padding=1, bias=False), nn.BatchNorm1d(6)
        self.up = nn.Upsample(scale_factor=2)
        self.merge, self.last = nn.Conv1d(11, 5, 3, padding=1), nn.Conv1d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.norm1(self.down1(x)))
        x = self.act(self.down2(skip))
        x = x + torch.relu(self.norm2(self.bottom(x)))
        return self.last(torch.relu(self.merge(torch.cat([skip, self.up(x)], 1))))


class Volumes(nn.Module):
    """Convolutions over three axes, `(B, 2, 4, 6, 6)` in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(2, 5, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm3d(5)
        self.conv2 = nn.Conv3d(5, 5, 3, padding=1, groups=5)
        self.conv3 = nn.Conv3d(5, 4, (1, 3, 3))
        self.pool, self.fc = nn.MaxPool3d(2), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = self.pool(self.conv3(torch.relu(self.conv2(x))))
        return self.fc(x.flatten(1))


class Attention(nn.Module):
    """One transformer block on `(B, T, C)`, `(B, 5, 6)` in."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm1 = nn.Linear(6, 8), nn.LayerNorm(8)
        self.query, self.key, self.value = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(8, 8)
        self.norm2 = nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm1(x)
        scores = torch.matmul(self.query(y), self.key(y).transpose(1, 2)) / 2.0
        x = x + torch.matmul(torch.softmax(scores, -1), self.value(y))
        x = x + self.narrow(nn.functional.gelu(self.wide(self.norm2(x))))
        return self.fc(x.mean(1))


class Tokens(nn.Module):
    """A class token before the others and a position added to each, `(B, 5, 6)` in."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.place = nn.Embedding(6, 8)
        self.wide, self.fc = nn.Linear(8, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.size(0), -1, -1), self.embed(x)], dim=1)
        x = x + self.place(torch.arange(x.size(1)))
        return self.fc(torch.relu(self.wide(x))[:, 0])


class Words(nn.Module):
    """Whole numbers in, `(B, 7)`: an embedding and a convolution over time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 6)
        self.conv, self.norm = nn.Conv1d(6, 5, 3), nn.BatchNorm1d(5)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(self.embed(x).permute(0, 2, 1))))
        return self.fc(x.amax(-1))


class Recurrent(nn.Module):
    """An LSTM between two linear layers, `(B, 5, 6)` in."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Linear(6, 4), nn.LSTM(4, 5, batch_first=True)
        self.hidden, self.fc = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(torch.relu(self.embed(x)))
        return self.fc(torch.relu(self.hidden(x[:, -1])))
