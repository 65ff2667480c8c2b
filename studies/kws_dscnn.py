"""Twelve spoken words on DS-CNN: accuracy against bytes of weights, pruned and quantised.

Data: `speech_commands_v0.02` in the folder `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

from functools import partial

from torch.nn import functional as F

from data.augment import moved_signals
from data.words import speech_commands
from nets.dscnn import dscnn
from plinio_sweep import Task, accuracy
from presets import CPU_LAMBDAS, Preset, chosen, layered

NAME, PRESET = chosen(
    cpu=Preset(most=4_000, epochs=(30, 15, 8), trials=24, lambdas=CPU_LAMBDAS),
    full=Preset(most=None, epochs=(36, 36, 18), trials=100),
)
TASK = Task(
    net=dscnn,
    data=partial(speech_commands, PRESET.most),
    loss=F.cross_entropy,
    metrics={"accuracy": accuracy},
    # 100 ms. The reference mixes in the noise of rooms before the spectrum is taken.
    augment=partial(moved_signals, axis=2, most=5, noise=0.1),
)
sweep = layered(f"kws-dscnn-{NAME}", TASK, PRESET, batch_size=100)
