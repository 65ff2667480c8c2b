"""Seven exercises on a temporal net: accuracy against bytes, over receptive field and dilation.

`pit` decides which taps and channels of the causal kernels are needed, `mps` in how many bits.

Data: `imu_watch_128x6.npz` in the folder `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

from functools import partial

from torch.nn import functional as F

from data.augment import moved_signals
from data.signals import imu_watch
from nets.tcn import tcn
from plinio_sweep import Task, accuracy
from presets import CPU_LAMBDAS, Preset, chosen, layered

NAME, PRESET = chosen(
    cpu=Preset(most=None, epochs=(30, 20, 10), trials=24, lambdas=CPU_LAMBDAS),
    full=Preset(most=None, epochs=(200, 100, 50), trials=100),
)
TASK = Task(
    net=tcn,
    data=partial(imu_watch, PRESET.most),
    loss=F.cross_entropy,
    metrics={"accuracy": accuracy},
    augment=partial(moved_signals, axis=2, most=8, noise=0.1),
)
sweep = layered(f"imu-tcn-{NAME}", TASK, PRESET, lr=2e-3, batch_size=64)
