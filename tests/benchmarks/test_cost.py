"""All cost models of ResNet-8 at once against one training step, batch 128, in one process.

pytest tests/benchmarks -m benchmark -k cost -s
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from costs import MODELS, CostModel, assume_bits
from plinio_sweep import MPS, PIT
from plinio_sweep.methods.search import Search
from tests.benchmarks.nets import resnet8
from tests.benchmarks.timing import ratios

SHAPE = (3, 32, 32)


def priced(model: Search) -> Callable[[], None]:
    def step() -> None:
        costs = [cost for cost in model.get_costs().values() if cost.requires_grad]
        torch.autograd.backward(costs, [torch.ones_like(cost) for cost in costs])

    return step


@pytest.mark.parametrize("method", ["PIT", "MPS"])
def test_cost(method: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models: dict[str, CostModel] = dict(MODELS)
    if method == "PIT":
        models = {name: assume_bits(model, w=8, x=8) for name, model in models.items()}
        search: Search = PIT(resnet8(), models, input_shape=SHAPE)
    else:
        del models["diana_cycles"]  # runs no 4-bit weights
        search = MPS(resnet8(), models, input_shape=SHAPE)
    plain = resnet8().train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(plain.parameters(), fused=True)
    inputs = torch.randn(128, *SHAPE).contiguous(memory_format=torch.channels_last)
    target = torch.randint(10, (128,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(plain(inputs), target).backward()
        optimizer.step()

    steps = {"plain": step, "forward": search.get_costs, "both directions": priced(search)}
    seconds, found = ratios(steps, "plain", rounds=15)
    print(f"\n{method}, {len(models)} models, of a plain step of {seconds * 1e3:.0f} ms:")
    for name in ("forward", "both directions"):
        middle, low, high = found[name]
        print(f"  {middle:.2%} ({low:.2%} to {high:.2%}) {name}")
    assert len(search.get_costs()) == len(models)
