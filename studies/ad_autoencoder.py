"""Sounds of toy cars on an autoencoder: how well odd ones are found against bytes of weights.

Trained on sound cars to give back what it hears; what it gives back badly is odd.

Data: `ToyCar` in the folder `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

from functools import partial

from costs import size_bytes
from data.machines import detection_auc, reconstruction_error, toy_car
from nets.autoencoder import autoencoder
from plinio_sweep import LogUniform, Phase, Recipe, Space, Sweep, Task
from plinio_sweep.train.recipe import cosine
from presets import CPU_LAMBDAS, Preset, chosen

NAME, PRESET = chosen(
    # Recordings of 196 items each.
    cpu=Preset(most=400, epochs=(20, 10, 5), trials=24, lambdas=CPU_LAMBDAS),
    full=Preset(most=None, epochs=(100, 50, 25), trials=100),
)
WARMUP, SEARCH, FINETUNE = PRESET.epochs

sweep = Sweep(
    name=f"ad-autoencoder-{NAME}",
    task=Task(
        net=autoencoder,
        data=partial(toy_car, PRESET.most),
        loss=reconstruction_error,
        metrics={"auc": detection_auc},
    ),
    recipe=Recipe(
        warmup=Phase(epochs=WARMUP, lr=1e-3, schedule=cosine),
        search=Phase(epochs=SEARCH, lr=1e-3, arch_lr=1e-2),
        finetune=Phase(epochs=FINETUNE, lr=1e-3, schedule=cosine),
        batch_size=512,
    ),
    space=Space(
        orders=("pit>mps", "mps"),
        strength=LogUniform(low=0.1, high=20.0),
        choices={"mps.w_bits": ((2, 4, 8), (0, 2, 4, 8))},
    ),
    pressure=size_bytes,
    objectives=("-auc", "size_bytes"),
    baselines=PRESET.beside_channels,
    trials=PRESET.trials,
)
