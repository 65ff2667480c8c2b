"""CIFAR-10 on ResNet-8: each convolution is a choice, then pruned and quantised.

Data and training are those of `icl_resnet8.py`.
"""

from __future__ import annotations

import icl_resnet8
from nets.choices import resnet8_choices
from presets import chosen_layers

sweep = chosen_layers(
    icl_resnet8.sweep, f"icl-supernet-{icl_resnet8.NAME}", resnet8_choices, icl_resnet8.PRESET
)
