"""How long validation takes by the size of its batches: nets of CIFAR-10, one thread.

pytest tests/benchmarks -m benchmark -k measured -s
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from plinio_sweep import MPSSettings, Split, Task, accuracy
from plinio_sweep.train.loop import MEASURED, evaluate
from tests.benchmarks.nets import resnet8
from tests.benchmarks.timing import ratios

SIZES = (64, MEASURED, 1024)


def test_measured() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    split = Split((torch.randn(2048, 3, 32, 32),), torch.randint(0, 10, (2048,)))
    plain = resnet8().eval()
    search = MPSSettings(w_bits=(8,), x_bits=(8,)).open(plain, (split.inputs[0][:2],), {})
    for name, net in (("plain", plain), ("w8a8", search)):
        _measure(name, net, split)


def _measure(name: str, net: nn.Module, split: Split) -> None:
    task = Task(net=resnet8, data=None, loss=F.cross_entropy, metrics={"accuracy": accuracy})
    steps = {f"{size}": partial(evaluate, net, split, task, size) for size in SIZES}
    own, found = ratios(steps, str(MEASURED), rounds=5, repeats=1)
    print(f"\n{name}: {MEASURED} at a time take {own:.2f} CPU s")
    for size, (middle, low, high) in found.items():
        print(f"  {size:>4}: {middle:.2f} ({low:.2f} to {high:.2f})")
