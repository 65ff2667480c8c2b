"""Sounds of toy cars on an autoencoder: how well odd ones are found against bytes of weights.

Trained on sound cars to give back what it hears; what it gives back badly is odd.

Data: `ToyCar` in the folder `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

from functools import partial

from data.machines import detection_auc, reconstruction_error, toy_car
from nets.autoencoder import autoencoder
from plinio_sweep import Task
from presets import CPU_LAMBDAS, Preset, chosen, layered

NAME, PRESET = chosen(
    # Recordings of 196 items each.
    cpu=Preset(most=400, epochs=(20, 10, 5), trials=24, lambdas=CPU_LAMBDAS),
    full=Preset(most=None, epochs=(100, 50, 25), trials=100),
)
TASK = Task(
    net=autoencoder,
    data=partial(toy_car, PRESET.most),
    loss=reconstruction_error,
    metrics={"auc": detection_auc},
)
sweep = layered(f"ad-autoencoder-{NAME}", TASK, PRESET, batch_size=512)
