"""The reference nets of the benchmarks, and the same nets with choices in the place of layers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from plinio_sweep import SuperNetModule
from plinio_sweep.plugin import load_file

STUDIES = Path(__file__).parents[2] / "studies"
resnet8 = load_file(STUDIES / "nets" / "resnet8.py").resnet8
_dscnn = load_file(STUDIES / "nets" / "dscnn.py")
dscnn, separable = _dscnn.dscnn, _dscnn.separable


def branches(inputs: int, outputs: int, stride: int, *, relu: bool = True) -> SuperNetModule:
    """A convolution of 3 or 5, a separable one, and nothing where shapes allow."""

    def last() -> list[nn.Module]:
        return [nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else [])]

    def square(kernel: int) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        return nn.Sequential(conv, *last())

    depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
    split = nn.Sequential(depthwise, nn.BatchNorm2d(inputs), nn.ReLU(), pointwise, *last())
    same = [nn.Identity()] if stride == 1 and inputs == outputs else []
    return SuperNetModule([square(3), square(5), split, *same])


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = branches(inputs, outputs, stride)
        self.second = branches(outputs, outputs, 1, relu=False)
        same = stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.second(self.first(x)) + self.shortcut(x))
        return y


def resnet8_choices() -> nn.Module:
    """ResNet-8 with a choice for each 3x3 convolution: 3.87 times its MACs."""
    blocks = [_Block(16, 16, 1), _Block(16, 32, 2), _Block(32, 64, 2)]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(branches(3, 16, 1), *blocks, *tail)


def separable_choice(channels: int = 64) -> SuperNetModule:
    """A separable block of 3 or 5, a full convolution, or nothing."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    full = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())
    return SuperNetModule([separable(channels), separable(channels, 5), full, nn.Identity()])


def dscnn_choices() -> nn.Module:
    """DS-CNN with a choice for each of its separable blocks."""
    layers = list(dscnn().children())
    return nn.Sequential(*layers[:5], *[separable_choice() for _ in range(4)], *layers[9:])
