"""Figure 9: PIT on a net that SuperNet chose, beside pruning the same net by L1 norms.

Goes on from `figure8_supernet.py`; how accurate a net must be says the seed of `figure8_pit.py`.
"""

from __future__ import annotations

import figure8_pit
import figure8_supernet
from chain import PRESET, figure, point_of, stored
from nets.choices import resnet8_choices
from plinio_sweep import PITSettings, grid, magnitude

seed = stored(figure8_pit.sweep, "figure8_pit.py").baseline
start = point_of(figure8_supernet.sweep, "figure8_supernet.py", seed)
sweep = figure(
    "figure9",
    resnet8_choices,
    "supernet>pit",
    first=start.stages,
    beside=(*magnitude(*PRESET.sparsities), *grid(PITSettings(), PRESET.lambdas)),
)
