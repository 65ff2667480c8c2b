"""Integer nets on real data: what they decide on whole test splits, trained briefly."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plinio_sweep.methods.mps import MPS
from plinio_sweep.plugin import load_file
from plinio_sweep.ship.integer import integerize

STUDIES = Path(__file__).parent.parent.parent / "studies"
Data = tuple[Tensor, Tensor, Tensor]  # inputs and target to train on, inputs to test on
pytestmark = pytest.mark.slow


def archive(name: str) -> Any:
    path = Path(os.environ.get("PLINIO_SWEEP_DATA", "")) / name
    if not path.is_file():
        pytest.skip(f"needs {name} in the folder PLINIO_SWEEP_DATA")
    return np.load(path)


def digits() -> Data:
    splits = load_file(STUDIES / "digits.py").digits()
    train, test = splits.part("train"), splits.part("test")
    return train.inputs[0], train.target, test.inputs[0]


def words() -> Data:
    data = archive("kws12_mfcc.npz")
    x, test = (torch.from_numpy(data[key].astype(np.float32)) for key in ("x_train", "x_test"))
    mean, spread = x.mean((0, 1)), x.std((0, 1))
    target = torch.from_numpy(data["y_train"].astype(np.int64))
    return ((x - mean) / spread)[:, None], target, ((test - mean) / spread)[:, None]


def pictures() -> Data:
    image = pytest.importorskip("PIL.Image")
    data = archive("cifar10_exact_dev_40k_5k.npz")

    def part(name: str, count: int) -> Tensor:
        mosaic = image.open(io.BytesIO(data[f"img_{name}_0"].tobytes())).convert("RGB")
        pixels = torch.from_numpy(np.asarray(mosaic).copy())
        tiles = pixels.unfold(0, 32, 32).unfold(1, 32, 32).flatten(0, 1)[:count]
        return tiles.float() / 255 - 0.5

    target = torch.from_numpy(data["y_train"][:2000].astype(np.int64))
    return part("train", 2000), target, part("test", 1000)


def digits_net() -> nn.Module:
    return load_file(STUDIES / "digits.py").DigitsNet()


def words_net() -> nn.Module:
    return load_file(STUDIES / "nets" / "dscnn.py").dscnn()


def pictures_net() -> nn.Module:
    return load_file(STUDIES / "nets" / "resnet8.py").resnet8()


def trained(net: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float) -> nn.Module:
    order = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for _ in range(steps):
        batch = torch.randint(len(x), (64,), generator=order)
        loss = F.cross_entropy(net.train()(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@pytest.mark.parametrize("w_bits", [(8,), (0, 2, 4, 8)], ids=str)
@pytest.mark.parametrize(
    ("data", "make"),
    [(digits, digits_net), (words, words_net), (pictures, pictures_net)],
    ids=["digits", "words", "pictures"],
)
def test_integers_decide_as_the_net_that_was_scored(
    data: Callable[[], Data], make: Callable[[], nn.Module], w_bits: tuple[int, ...]
) -> None:
    x, y, test = data()
    torch.manual_seed(0)
    net = trained(make(), x, y, steps=30, lr=3e-3)
    search = MPS(net, input_example=x[:64], w_bits=w_bits, x_bits=(8,))
    with torch.no_grad():
        for logits in search.nas_parameters():
            logits.add_(torch.randn(logits.shape))
    exported = trained(search.export(), x, y, steps=10, lr=1e-3)
    found = integerize(exported, test).agreement
    assert found is not None
    assert found.items == len(test)
    assert found.codes <= 1
    assert found.same_class >= 0.999
    assert found.output <= 1 / 255  # a code of an output that was rounded to 8 bits
