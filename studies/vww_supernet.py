"""Is there a person? On MobileNet: each convolution is a choice, then pruned and quantised.

Data and training are those of `vww_mobilenet.py`.
"""

from __future__ import annotations

from dataclasses import replace

import vww_mobilenet
from nets.choices import mobilenet_choices
from plinio_sweep import LogUniform, Space

PLAIN = vww_mobilenet.sweep.task

sweep = replace(
    vww_mobilenet.sweep,
    name=f"vww-supernet-{vww_mobilenet.NAME}",
    task=replace(PLAIN, net=mobilenet_choices),
    space=Space(
        orders=("supernet", "supernet>pit>mps"),
        strength=LogUniform(low=0.01, high=10.0),
        choices={"mps.w_bits": ((2, 4, 8), (0, 2, 4, 8))},
    ),
    baselines=vww_mobilenet.PRESET.beside_choices,
)
