"""Figure 10: bits of 2, 4 and 8 on a net that SuperNet chose and PIT pruned, beside uniform ones.

Goes on from `figure9.py`. Activations have 8 bits.
"""

from __future__ import annotations

import figure9
from chain import PRESET, figure, point_of
from nets.choices import resnet8_choices
from plinio_sweep import MPSSettings, grid, uniform

start = point_of(figure9.sweep, "figure9.py", figure9.seed)
sweep = figure(
    "figure10",
    resnet8_choices,
    "supernet>pit>mps",
    first=start.stages,
    beside=(
        *uniform(*PRESET.w_bits),
        *grid(MPSSettings(w_bits=(2, 4, 8), x_bits=(8,)), PRESET.lambdas),
    ),
)
