"""Twelve spoken words on DS-CNN: accuracy against bytes of weights, pruned and quantised.

Data: `speech_commands_v0.02` in the folder `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

from functools import partial

from torch.nn import functional as F

from costs import size_bytes
from data.augment import moved_signals
from data.words import speech_commands
from nets.dscnn import dscnn
from plinio_sweep import LogUniform, Phase, Recipe, Space, Sweep, Task, accuracy
from plinio_sweep.train.recipe import cosine
from presets import CPU_LAMBDAS, Preset, chosen

NAME, PRESET = chosen(
    cpu=Preset(most=4_000, epochs=(30, 15, 8), trials=24, lambdas=CPU_LAMBDAS),
    full=Preset(most=None, epochs=(36, 36, 18), trials=100),
)
WARMUP, SEARCH, FINETUNE = PRESET.epochs

sweep = Sweep(
    name=f"kws-dscnn-{NAME}",
    task=Task(
        net=dscnn,
        data=partial(speech_commands, PRESET.most),
        loss=F.cross_entropy,
        metrics={"accuracy": accuracy},
        # 100 ms, as the reference.
        augment=partial(moved_signals, axis=2, most=5, noise=0.1),
    ),
    recipe=Recipe(
        warmup=Phase(epochs=WARMUP, lr=1e-3, schedule=cosine),
        search=Phase(epochs=SEARCH, lr=1e-3, arch_lr=1e-2),
        finetune=Phase(epochs=FINETUNE, lr=1e-3, schedule=cosine),
        batch_size=100,
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
