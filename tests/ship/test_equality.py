"""Integer nets on real data: what they decide on items they never saw, trained briefly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.images import cifar10
from data.source import CACHE, place
from data.words import speech_commands
from nets.dscnn import dscnn
from nets.resnet8 import resnet8
from plinio_sweep import Splits
from plinio_sweep.methods.mps import MPS
from plinio_sweep.plugin import load_file
from plinio_sweep.ship.integer import integerize

STUDIES = Path(__file__).parent.parent.parent / "studies"
Data = tuple[Tensor, Tensor, Tensor]  # inputs and target to train on, inputs to test on
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Images are decoded once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path_factory.mktemp("cache")))
        yield


def parts(data: Splits) -> Data:
    train, test = data.part("train"), data.part("test")
    return train.inputs[0], train.target, test.inputs[0]


def needs(name: str) -> None:
    if place(name) is None:
        pytest.skip(f"needs {name} in the folder PLINIO_SWEEP_DATA")


def digits() -> Data:
    return parts(load_file(STUDIES / "digits.py").digits())


def words() -> Data:
    needs("kws12_mfcc.npz")
    data = speech_commands()
    x, y, test = parts(data)
    # A near tie may fall either way: one in a thousand, so more than a thousand are looked at.
    return x, y, torch.cat([test, data.part("validation").inputs[0]])


def pictures() -> Data:
    pytest.importorskip("PIL.Image")
    needs("cifar10_exact_dev_40k_5k.npz")
    x, y, test = parts(cifar10(most=2000))
    return x, y, test[:1000]


def digits_net() -> nn.Module:
    return load_file(STUDIES / "digits.py").DigitsNet()


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
    [(digits, digits_net), (words, dscnn), (pictures, resnet8)],
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
