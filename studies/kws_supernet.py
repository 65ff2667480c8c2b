"""Twelve spoken words on DS-CNN: each convolution is a choice, then pruned and quantised.

Data and training are those of `kws_dscnn.py`.
"""

from __future__ import annotations

from dataclasses import replace

import kws_dscnn
from nets.choices import dscnn_choices
from plinio_sweep import LogUniform, Space

PLAIN = kws_dscnn.sweep.task

sweep = replace(
    kws_dscnn.sweep,
    name=f"kws-supernet-{kws_dscnn.NAME}",
    task=replace(PLAIN, net=dscnn_choices),
    space=Space(
        orders=("supernet", "supernet>pit>mps"),
        strength=LogUniform(low=0.01, high=10.0),
        choices={"mps.w_bits": ((2, 4, 8), (0, 2, 4, 8))},
    ),
    baselines=kws_dscnn.PRESET.beside_choices,
)
