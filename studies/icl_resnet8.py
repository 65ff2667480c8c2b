"""CIFAR-10 on ResNet-8: accuracy against bytes of weights, pruned and quantised.

Data: `cifar-10-batches-bin` in the folder `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch.nn import functional as F

from data.augment import moved_images
from data.images import cifar10
from nets.resnet8 import resnet8
from plinio_sweep import LogUniform, Task, accuracy
from presets import CHANNELS_AND_BITS, CPU_LAMBDAS, Preset, chosen, layered

NAME, PRESET = chosen(
    cpu=Preset(most=5_000, epochs=(60, 8, 8), trials=12, lambdas=CPU_LAMBDAS),
    full=Preset(most=None, epochs=(500, 200, 100), trials=100),
)
TASK = Task(
    net=resnet8,
    data=partial(cifar10, PRESET.most),
    loss=F.cross_entropy,
    metrics={"accuracy": accuracy},
    augment=partial(moved_images, share=0.1),
)
# Above 3 the cpu preset leaves one channel of each layer, and accuracy as of guesses.
SPACE = replace(CHANNELS_AND_BITS, strength=LogUniform(low=0.05, high=3.0))
sweep = layered(f"icl-resnet8-{NAME}", TASK, PRESET, batch_size=128, space=SPACE)
