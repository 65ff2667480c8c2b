"""DS-CNN, the keyword spotting net of MLPerf Tiny: 22,016 weights, 2.657 million MACs.

References:
    Zhang et al., "Hello Edge: Keyword Spotting on Microcontrollers", 2017 (arXiv 1711.07128);
    Banbury et al., "MLPerf Tiny Benchmark", 2021 (arXiv 2106.07597), section 4.
"""

from __future__ import annotations

from torch import nn

CHANNELS = 64


def separable(channels: int = CHANNELS, kernel: int = 3) -> nn.Module:
    """A depthwise and a pointwise convolution, each with its norm and activation."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


def dscnn(classes: int = 12) -> nn.Module:
    """The net for spectra `(1, 49, 10)`: 49 frames of 10 coefficients."""
    return nn.Sequential(
        nn.ZeroPad2d((1, 1, 4, 5)),  # what "same" means in TensorFlow for an even kernel
        nn.Conv2d(1, CHANNELS, (10, 4), 2, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.Dropout(0.2),
        *[separable() for _ in range(4)],
        nn.Dropout(0.4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, classes),
    )
