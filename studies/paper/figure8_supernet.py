"""Figure 8, SuperNet alone: ResNet-8 with a choice in the place of each convolution.

Data: `cifar-10-batches-bin` in the folder `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

from chain import PRESET, figure
from nets.choices import resnet8_choices
from presets import CHOICES_TOO

sweep = figure(
    "figure8-supernet",
    resnet8_choices,
    "supernet",
    strength=CHOICES_TOO.strength,
    beside=PRESET.beside_choices,
)
