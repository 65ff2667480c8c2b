"""CIFAR-10 on ResNet-8: accuracy against bytes of weights, pruned and quantised.

Data: `cifar-10-batches-bin` in the folder `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

from functools import partial

from torch.nn import functional as F

from costs import size_bytes
from data.augment import moved_images
from data.images import cifar10
from nets.resnet8 import resnet8
from plinio_sweep import LogUniform, Phase, Recipe, Space, Sweep, Task, accuracy
from plinio_sweep.train.recipe import cosine
from presets import CPU_LAMBDAS, Preset, chosen

NAME, PRESET = chosen(
    cpu=Preset(most=10_000, epochs=(20, 10, 5), trials=24, lambdas=CPU_LAMBDAS),
    full=Preset(most=None, epochs=(500, 200, 100), trials=100),
)
WARMUP, SEARCH, FINETUNE = PRESET.epochs

sweep = Sweep(
    name=f"icl-resnet8-{NAME}",
    task=Task(
        net=resnet8,
        data=partial(cifar10, PRESET.most),
        loss=F.cross_entropy,
        metrics={"accuracy": accuracy},
        augment=partial(moved_images, share=0.1),
    ),
    recipe=Recipe(
        warmup=Phase(epochs=WARMUP, lr=1e-3, schedule=cosine),
        search=Phase(epochs=SEARCH, lr=1e-3, arch_lr=1e-2),
        finetune=Phase(epochs=FINETUNE, lr=1e-3, schedule=cosine),
        batch_size=128,
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
