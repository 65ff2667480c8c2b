"""What keeping the channels last saves: epochs of the loop on the nets of the studies, one thread.

The baseline is the same loop on a net that is left in the usual order. The step that is tried first
counts.

    pytest tests/benchmarks -m benchmark -k layout -s
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from costs import size_bytes
from plinio_sweep import MPSSettings, Phase, PITSettings, Splits, SuperNetSettings, Task, accuracy
from plinio_sweep.methods.search import Method
from plinio_sweep.train import loop
from plinio_sweep.train.recipe import Split
from tests.benchmarks.nets import dscnn, dscnn_choices, resnet8, resnet8_choices
from tests.benchmarks.timing import ratios

NETS = {
    "resnet8": (resnet8, resnet8_choices, (3, 32, 32), 10),
    "dscnn": (dscnn, dscnn_choices, (1, 49, 10), 12),
}
METHODS: dict[str, Method | None] = {
    "plain": None,
    "PIT": PITSettings(),
    "MPS w0248 x8": MPSSettings(w_bits=(0, 2, 4, 8)),
    "SuperNet": SuperNetSettings(),
}


@contextmanager
def usual(net: nn.Module, inputs: Any, step: Any) -> Iterator[bool]:
    """In the place of `channels_last`."""
    yield False


@pytest.mark.parametrize("name", NETS)
def test_layout(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    plain, choices, shape, classes = NETS[name]
    split = Split((torch.randn(1024, *shape),), torch.randint(classes, (1024,)))
    data = Splits(train=split, validation=split, test=split)
    task = Task(net=plain, data=lambda: data, loss=F.cross_entropy, metrics={"accuracy": accuracy})
    own = loop.channels_last

    def epoch(net: nn.Module, layout: Callable[..., Any]) -> None:
        monkeypatch.setattr(loop, "channels_last", layout)
        loop.fit(net, data, task, Phase(epochs=1), name=name, batch_size=32, seed=0)

    def opened(method: Method | None) -> nn.Module:
        if method is None:
            return plain()
        net = choices() if isinstance(method, SuperNetSettings) else plain()
        return method.open(net, data.example(), {"size_bytes": size_bytes})

    for label, method in METHODS.items():
        steps = {
            "usual": partial(epoch, opened(method), usual),
            "last": partial(epoch, opened(method), own),
        }
        seconds, found = ratios(steps, "usual", rounds=3, repeats=1)
        middle, low, high = found["last"]
        print(f"\n{name}, {label}: {middle:.2f} ({low:.2f} to {high:.2f}) of {seconds:.2f} CPU s")
