"""The nets of images and words with a choice in the place of each convolution.

Every choice is between a convolution of 3 by 3, one of 5 by 5, a depthwise-separable one and, where
shapes allow, nothing at all. In DS-CNN and MobileNet it stands for a whole separable block, and the
first layer stays what it is: no other one has its kernel or its stride.

References:
    Jahier Pagliari et al., "PLiNIO", 2023 (arXiv 2307.09488), section IV.
"""

from __future__ import annotations

from torch import Tensor, nn

from nets.dscnn import CHANNELS, dscnn
from nets.mobilenet import BLOCKS, STEM, mobilenet
from plinio_sweep import SuperNetModule


def branches(inputs: int, outputs: int, stride: int, *, relu: bool = True) -> SuperNetModule:
    """The choice from `inputs` to `outputs` channels; `relu` asks for an activation at its end."""

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


def resnet8_choices(classes: int = 10) -> nn.Module:
    """ResNet-8 with a choice for each 3x3 convolution: 3.87 times its MACs."""
    blocks = [_Block(16, 16, 1), _Block(16, 32, 2), _Block(32, 64, 2)]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)]
    return nn.Sequential(branches(3, 16, 1), *blocks, *tail)


def dscnn_choices(classes: int = 12) -> nn.Module:
    """DS-CNN with a choice for each of its four separable blocks."""
    layers = list(dscnn(classes).children())
    blocks = [branches(CHANNELS, CHANNELS, 1) for _ in range(4)]
    return nn.Sequential(*layers[:5], *blocks, *layers[9:])


def mobilenet_choices(classes: int = 2) -> nn.Module:
    """MobileNet with a choice for each of its thirteen separable blocks."""
    layers = list(mobilenet(classes).children())
    inputs = (STEM, *(channels for channels, _ in BLOCKS))
    blocks = [branches(cin, *block) for cin, block in zip(inputs, BLOCKS, strict=False)]
    return nn.Sequential(*layers[:3], *blocks, *layers[3 + len(BLOCKS) :])
