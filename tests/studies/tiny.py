"""The smallest study that has something to search: noisy bars, two convolutions, a second a trial.

Shapes: `N` images of a split.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from costs import size_bytes
from plinio_sweep import LogUniform, Phase, Recipe, Space, Splits, Sweep, Task, accuracy


class TinyNet(nn.Module):
    """Two convolutions with norms, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `(B, 2)` of images `(B, 1, 6, 6)`."""
        x = F.relu(self.first_norm(self.first(x)))
        x = F.relu(self.second_norm(self.second(x)))
        return self.classifier(x.mean((2, 3)))


def bars() -> Splits:
    """Images with a bar in noise: class 0 holds a row, class 1 a column."""
    return Splits(train=_images(96, 0), validation=_images(48, 1), test=_images(48, 2))


def _images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = 0.5 * torch.randn(count, 1, 6, 6, generator=generator)
    target = torch.arange(count) % 2
    places = torch.randint(6, (count,), generator=generator)
    for image, column, place in zip(images, target, places, strict=True):
        image[0].select(int(column), int(place)).add_(1.5)
    return images, target


sweep = Sweep(
    name="tiny",
    task=Task(net=TinyNet, data=bars, loss=F.cross_entropy, metrics={"accuracy": accuracy}),
    recipe=Recipe(
        warmup=Phase(epochs=1, lr=1e-2),
        search=Phase(epochs=3, lr=1e-2, arch_lr=0.3),
        finetune=Phase(epochs=1, lr=1e-2),
        batch_size=32,
    ),
    space=Space(
        strength=LogUniform(low=0.1, high=30.0), choices={"pit.gate": ("norm", "consumer")}
    ),
    pressure=size_bytes,
    trials=2,
)


def tiny(**changes: Any) -> Sweep:
    """The study with other fields; those of its task go by their own names."""
    own = {
        name: changes.pop(name) for name in ("net", "data", "loss", "metrics") if name in changes
    }
    return replace(sweep, task=replace(sweep.task, **own), **changes)
