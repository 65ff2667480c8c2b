"""The autoencoder of MLPerf Tiny for sounds of machines: 264,192 weights and as many MACs.

References:
    Koizumi et al., "DCASE 2020 challenge task 2", 2020 (arXiv 2006.05822), section 4, the baseline;
    Banbury et al., "MLPerf Tiny Benchmark", 2021 (arXiv 2106.07597), section 4.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

WIDTH = 128
CODE = 8


def autoencoder(features: int = 640) -> nn.Module:
    """The net for spectra `(features,)`, which it gives back: 5 frames of 128 mel bins."""
    widths = (features, *4 * (WIDTH,), CODE, *4 * (WIDTH,))
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, features))
