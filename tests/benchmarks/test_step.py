"""One training step of each method against a plain step of the same net, equally tuned.

A step is forward, loss, cost, backward and both optimisers. The plain net has the same memory
format and the same fused optimiser; one thread, time of the process, in turns.

    pytest tests/benchmarks -m benchmark -k step -s
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from costs import size_bits
from plinio_sweep import MPS, PIT, SuperNet
from plinio_sweep.methods.search import Search
from tests.benchmarks.nets import dscnn, dscnn_choices, resnet8, resnet8_choices
from tests.benchmarks.timing import ratios


@dataclass(frozen=True)
class Task:
    net: Callable[[], nn.Module]
    choices: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class Variant:
    search: type[Search] | None
    settings: dict[str, Any] = field(default_factory=dict)
    goal: float | None = None


TASKS = {
    "resnet8": Task(resnet8, resnet8_choices, (3, 32, 32), 10),
    "dscnn": Task(dscnn, dscnn_choices, (1, 49, 10), 12),
}
VARIANTS = {
    "plain": Variant(None),
    "PIT": Variant(PIT, goal=1.05),
    "MPS w8 x8 (QAT)": Variant(MPS, {"w_bits": (8,)}),
    "MPS w248 x8": Variant(MPS, goal=1.25),
    "MPS w0248 x8": Variant(MPS, {"w_bits": (0, 2, 4, 8)}, 1.25),
    "MPS w248 x248": Variant(MPS, {"x_bits": (2, 4, 8)}, 1.25),
    "SuperNet hard": Variant(SuperNet, {"hard": True}, 2.0),
    "SuperNet soft": Variant(SuperNet),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(task: Task, variant: Variant) -> nn.Module:
    torch.manual_seed(0)
    if variant.search is None:
        return task.net().train()
    seed = task.choices() if variant.search is SuperNet else task.net()
    return variant.search(
        seed.train(), {"size": size_bits}, input_shape=task.shape, **variant.settings
    )


def step_of(model: nn.Module, inputs: Tensor, target: Tensor) -> Callable[[], None]:
    groups = [list(model.parameters())]
    if isinstance(model, Search):
        groups = [list(model.net_parameters()), list(model.nas_parameters())]
    optimizers = [torch.optim.Adam(group, fused=True) for group in groups if group]

    def step() -> None:
        loss = F.cross_entropy(model(inputs), target)
        if isinstance(model, Search):
            loss = loss + 1e-9 * model.get_cost("size")
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


@pytest.mark.parametrize("batch", [32, 128])
@pytest.mark.parametrize("name", TASKS)
def test_step(name: str, batch: int) -> None:
    task = TASKS[name]
    torch.manual_seed(0)
    inputs = torch.randn(batch, *task.shape).contiguous(memory_format=torch.channels_last)
    target = torch.randint(task.classes, (batch,))
    steps, costs = {}, {}
    for label, variant in VARIANTS.items():
        model = model_of(task, variant).to(memory_format=torch.channels_last)
        steps[label] = step_of(model, inputs, target)
        if isinstance(model, Search):
            costs[label] = cost_of(model)
    seconds, found = ratios(steps, "plain")
    _, shares = ratios({"plain": steps["plain"], **costs}, "plain", rounds=5)
    print(f"\n{name}, batch {batch}: plain step {seconds * 1e3:.1f} ms")
    for label, (middle, low, high) in found.items():
        goal = VARIANTS[label].goal
        against = f"  goal {goal}" if goal else ""
        share = f"  cost {shares[label][0]:.1%} of it" if label in shares and label in costs else ""
        print(f"  {label:18s} {middle:5.2f}  ({low:.2f} to {high:.2f}){share}{against}")
    assert set(found) == set(VARIANTS)


def cost_of(model: Search) -> Callable[[], None]:
    def step() -> None:
        cost = model.get_cost("size")
        if cost.requires_grad:
            cost.backward()

    return step
