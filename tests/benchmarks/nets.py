"""The reference nets of the benchmarks, and the same nets with choices in the place of layers."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from nets.choices import resnet8_choices as resnet8_choices
from nets.dscnn import dscnn, separable
from nets.resnet8 import resnet8 as resnet8
from plinio_sweep import SuperNetModule

STUDIES = Path(__file__).parents[2] / "studies"


def separable_choice(channels: int = 64) -> SuperNetModule:
    """A separable block of 3 or 5, a full convolution, or nothing."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    full = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())
    return SuperNetModule([separable(channels), separable(channels, 5), full, nn.Identity()])


def dscnn_choices() -> nn.Module:
    """DS-CNN with choices between separable blocks, as it was measured ever since."""
    layers = list(dscnn().children())
    return nn.Sequential(*layers[:5], *[separable_choice() for _ in range(4)], *layers[9:])
