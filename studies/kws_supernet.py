"""Twelve spoken words on DS-CNN: each convolution is a choice, then pruned and quantised.

Data and training are those of `kws_dscnn.py`.
"""

from __future__ import annotations

import kws_dscnn
from nets.choices import dscnn_choices
from presets import chosen_layers

sweep = chosen_layers(
    kws_dscnn.sweep, f"kws-supernet-{kws_dscnn.NAME}", dscnn_choices, kws_dscnn.PRESET
)
