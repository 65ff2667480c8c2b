"""Is there a person? On MobileNet: each convolution is a choice, then pruned and quantised.

Data and training are those of `vww_mobilenet.py`.
"""

from __future__ import annotations

import vww_mobilenet
from nets.choices import mobilenet_choices
from presets import chosen_layers

sweep = chosen_layers(
    vww_mobilenet.sweep,
    f"vww-supernet-{vww_mobilenet.NAME}",
    mobilenet_choices,
    vww_mobilenet.PRESET,
)
