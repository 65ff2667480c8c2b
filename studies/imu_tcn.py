"""Seven exercises on a temporal net: accuracy against bytes, over receptive field and dilation.

`pit` decides which taps and channels of the causal kernels are needed, `mps` in how many bits.

Data: `imu_watch_128x6.npz` in the folder `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

from functools import partial

from torch.nn import functional as F

from costs import size_bytes
from data.augment import moved_signals
from data.signals import imu_watch
from nets.tcn import tcn
from plinio_sweep import LogUniform, Phase, Recipe, Space, Sweep, Task, accuracy
from plinio_sweep.train.recipe import cosine
from presets import CPU_LAMBDAS, Preset, chosen

NAME, PRESET = chosen(
    cpu=Preset(most=None, epochs=(30, 20, 10), trials=24, lambdas=CPU_LAMBDAS),
    full=Preset(most=None, epochs=(200, 100, 50), trials=100),
)
WARMUP, SEARCH, FINETUNE = PRESET.epochs

sweep = Sweep(
    name=f"imu-tcn-{NAME}",
    task=Task(
        net=tcn,
        data=partial(imu_watch, PRESET.most),
        loss=F.cross_entropy,
        metrics={"accuracy": accuracy},
        augment=partial(moved_signals, axis=2, most=8, noise=0.1),
    ),
    recipe=Recipe(
        warmup=Phase(epochs=WARMUP, lr=2e-3, schedule=cosine),
        search=Phase(epochs=SEARCH, lr=2e-3, arch_lr=1e-2),
        finetune=Phase(epochs=FINETUNE, lr=2e-3, schedule=cosine),
        batch_size=64,
    ),
    space=Space(
        orders=("pit>mps", "mps"),
        strength=LogUniform(low=0.1, high=20.0),
        choices={"mps.w_bits": ((2, 4, 8), (0, 2, 4, 8))},
    ),
    pressure=size_bytes,
    objectives=("-accuracy", "size_bytes"),
    baselines=PRESET.beside_channels,
    trials=PRESET.trials,
)
