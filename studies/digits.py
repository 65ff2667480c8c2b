"""Handwritten digits: accuracy against bytes of a small net, pruned and quantised.

Data: scikit-learn's digits, 1,797 real images of 8 by 8 (E. Alpaydin and C. Kaynak, "Optical
Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998).
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from costs import size_bytes
from plinio_sweep import (
    LogUniform,
    Phase,
    Recipe,
    Space,
    Splits,
    Sweep,
    Task,
    accuracy,
    longer,
    magnitude,
    uniform,
)
from plinio_sweep.train.recipe import cosine


class DigitsNet(nn.Module):
    """Stem, residual block, depthwise-separable block, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(24)
        self.first = nn.Conv2d(24, 24, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(24)
        self.second = nn.Conv2d(24, 24, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(24)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(24)
        self.pointwise = nn.Conv2d(24, 48, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(48)
        self.classifier = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores `(B, 10)` of images `(B, 1, 8, 8)` in [0, 1]."""
        x = F.relu(self.stem_norm(self.stem(x)))
        y = F.relu(self.first_norm(self.first(x)))
        x = F.relu(x + self.second_norm(self.second(y)))
        x = F.max_pool2d(x, 2)
        x = F.relu(self.depthwise_norm(self.depthwise(x)))
        x = F.relu(self.pointwise_norm(self.pointwise(x)))
        return self.classifier(x.mean((2, 3)))


def digits() -> Splits:
    """The images in three fixed parts, stratified by class: 60, 20 and 20 percent."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target, dtype=torch.long)
    rest, test = train_test_split(
        range(len(labels)), test_size=0.2, random_state=0, stratify=data.target
    )
    train, validation = train_test_split(
        rest, test_size=0.25, random_state=0, stratify=data.target[rest]
    )
    return Splits(
        train=(images[train], labels[train]),
        validation=(images[validation], labels[validation]),
        test=(images[test], labels[test]),
    )


sweep = Sweep(
    name="digits",
    task=Task(net=DigitsNet, data=digits, loss=F.cross_entropy, metrics={"accuracy": accuracy}),
    recipe=Recipe(
        warmup=Phase(epochs=10, lr=3e-3),
        search=Phase(epochs=20, lr=3e-3, arch_lr=2e-2),
        finetune=Phase(epochs=12, lr=3e-3, schedule=cosine),
        batch_size=64,
        ramp=0.6,
    ),
    space=Space(
        orders=("pit>mps", "mps"),
        strength=LogUniform(low=0.2, high=20.0),
        choices={"mps.w_bits": ((2, 4, 8), (0, 2, 4, 8))},
    ),
    pressure=size_bytes,
    objectives=("-accuracy", "size_bytes"),
    # A chain is trained longer than what one method makes: so are some of its rivals.
    baselines=(*uniform(8, 4, 2), *magnitude(0.25, 0.5, 0.75), *longer(1, *uniform(8, 4, 2))),
    trials=24,
)
