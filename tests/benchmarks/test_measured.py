"""How long validation takes by the size of its batches: nets of CIFAR-10, one thread.

pytest tests/benchmarks -m benchmark -k measured -s
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F

from plinio_sweep import MPSSettings, Splits, Task, accuracy
from plinio_sweep.train.loop import MEASURED, evaluate
from plinio_sweep.train.recipe import Split
from tests.benchmarks.nets import resnet8
from tests.benchmarks.timing import ratios

SIZES = (32, MEASURED, 256, 1024)


def test_measured() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    split = Split((torch.randn(2048, 3, 32, 32),), torch.randint(0, 10, (2048,)))
    data = Splits(train=split, validation=split, test=split)
    task = Task(
        net=resnet8, data=lambda: data, loss=F.cross_entropy, metrics={"accuracy": accuracy}
    )
    plain = resnet8().eval()
    search = MPSSettings(w_bits=(8,), x_bits=(8,)).open(plain, data.example(), {})
    for name, net in (("plain", plain), ("w8a8", search)):
        steps = {f"{size}": partial(evaluate, net, split, task, size) for size in SIZES}
        own, found = ratios(steps, str(MEASURED), rounds=5, repeats=1)
        print(f"\n{name}: {MEASURED} at a time take {own:.2f} CPU s")
        for size, (middle, low, high) in found.items():
            print(f"  {size:>4}: {middle:.2f} ({low:.2f} to {high:.2f})")
