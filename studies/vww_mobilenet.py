"""Is there a person? On MobileNet: accuracy against bytes of weights, pruned and quantised.

Data: `vw_coco2014_96` in the folder `PLINIO_SWEEP_DATA`.
"""

from __future__ import annotations

from functools import partial

from torch.nn import functional as F

from data.augment import moved_images
from data.images import visual_wake_words
from nets.mobilenet import mobilenet
from plinio_sweep import Task, accuracy
from presets import CPU_LAMBDAS, Preset, chosen, layered

NAME, PRESET = chosen(
    cpu=Preset(most=4_000, epochs=(20, 10, 5), trials=24, lambdas=CPU_LAMBDAS),
    full=Preset(most=None, epochs=(50, 50, 25), trials=100),
)
TASK = Task(
    net=mobilenet,
    data=partial(visual_wake_words, PRESET.most),
    loss=F.cross_entropy,
    metrics={"accuracy": accuracy},
    augment=partial(moved_images, share=0.05),
)
sweep = layered(f"vww-mobilenet-{NAME}", TASK, PRESET, batch_size=32)
