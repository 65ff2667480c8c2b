"""MobileNetV1 at a quarter of its width, the visual wake words net of MLPerf Tiny.

208,112 weights and 7.490 million MACs for images of 96 by 96.

References:
    Howard et al., "MobileNets", 2017 (arXiv 1704.04861), table 1;
    Banbury et al., "MLPerf Tiny Benchmark", 2021 (arXiv 2106.07597), section 4.
"""

from __future__ import annotations

from torch import nn

STEM = 8
# Channels and stride of the separable blocks: a quarter of those of the paper.
BLOCKS = (
    *((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2)),
    *((128, 1), (128, 1), (128, 1), (128, 1), (128, 1), (256, 2), (256, 1)),
)


def separable(inputs: int, outputs: int, stride: int) -> nn.Module:
    """A depthwise and a pointwise convolution, each with its norm and activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def mobilenet(classes: int = 2) -> nn.Module:
    """The net for images `(3, 96, 96)`."""
    inputs = (STEM, *(channels for channels, _ in BLOCKS))
    blocks = [separable(cin, *block) for cin, block in zip(inputs, BLOCKS, strict=False)]
    return nn.Sequential(
        nn.Conv2d(3, STEM, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(STEM),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(inputs[-1], classes),
    )
