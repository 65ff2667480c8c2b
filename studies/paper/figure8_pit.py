"""Figure 8, PIT alone: ResNet-8 with fewer channels, beside uniform bits and pruning by L1 norms.

Data: `cifar-10-batches-bin` in the folder `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

from chain import PRESET, figure
from nets.resnet8 import resnet8
from plinio_sweep import Space

sweep = figure("figure8-pit", resnet8, "pit", beside=PRESET.beside_channels(Space(orders=("pit",))))
