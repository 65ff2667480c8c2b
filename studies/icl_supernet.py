"""CIFAR-10 on ResNet-8: each convolution is a choice, then pruned and quantised.

Data and training are those of `icl_resnet8.py`.
"""

from __future__ import annotations

from dataclasses import replace

import icl_resnet8
from nets.choices import resnet8_choices
from plinio_sweep import LogUniform, Space

PLAIN = icl_resnet8.sweep.task

sweep = replace(
    icl_resnet8.sweep,
    name=f"icl-supernet-{icl_resnet8.NAME}",
    task=replace(PLAIN, net=resnet8_choices),
    space=Space(
        orders=("supernet", "supernet>pit>mps"),
        strength=LogUniform(low=0.01, high=10.0),
        choices={"mps.w_bits": ((2, 4, 8), (0, 2, 4, 8))},
    ),
    baselines=icl_resnet8.PRESET.beside_choices,
)
