"""The study of the command line's tests: noisy bars, two convolutions, a second a trial."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plinio_sweep import LogUniform, Phase, Recipe, Space, Splits, Sweep, Task, accuracy


class BarNet(nn.Module):
    """Two convolutions with norms, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(6)
        self.classifier = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `(B, 2)` of images `(B, 1, 6, 6)`."""
        x = F.relu(self.first_norm(self.first(x)))
        x = F.relu(self.second_norm(self.second(x)))
        scores: Tensor = self.classifier(x.mean((2, 3)))
        return scores


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a bright row in class 0 and a bright column in class 1."""
    generator = torch.Generator().manual_seed(seed)
    pixels = 0.5 * torch.randn(count, 1, 6, 6, generator=generator)
    target = torch.arange(count) % 2
    pixels[0::2, 0, 3, :] += 1.5
    pixels[1::2, 0, :, 3] += 1.5
    return pixels, target


def bars() -> Splits:
    """Three splits of such images."""
    return Splits(train=images(64, 0), validation=images(32, 1), test=images(32, 2))


def patient_loss(outputs: Tensor, target: Tensor) -> Tensor:
    """Cross entropy. Takes its time where the environment asks for it, to be interrupted in."""
    time.sleep(float(os.environ.get("BARS_PAUSE", "0")))
    return F.cross_entropy(outputs, target)


sweep = Sweep(
    name="bars",
    task=Task(net=BarNet, data=bars, loss=patient_loss, metrics={"accuracy": accuracy}),
    recipe=Recipe(
        warmup=Phase(epochs=1, lr=1e-2),
        search=Phase(epochs=3, lr=1e-2, arch_lr=0.3),
        finetune=Phase(epochs=1, lr=1e-2),
        batch_size=16,
    ),
    space=Space(strength=LogUniform(low=0.1, high=30.0)),
    trials=4,
)
