"""Nets that are exported and tracked whole, as a user has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Convolution, batch norm, dropout and a residual sum: what train and eval mode tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.stem(x)))
        features = features + self.body(features)
        return self.head(self.dropout(features.mean((2, 3))))


class TwoInputs(nn.Module):
    """Sum and difference."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x + y, x - y
