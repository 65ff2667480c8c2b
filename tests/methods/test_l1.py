"""Magnitude pruning: what goes is what is smallest, in every group."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from costs import params
from plinio_sweep.methods.l1 import L1, L1Settings
from plinio_sweep.methods.mps import MPSSettings
from tests.messages import is_sentence
from tests.nets import NETS, Case


def two_layers(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(2, width, 3), nn.ReLU(), nn.Conv1d(width, 3, 1))


def first(net: nn.Module) -> nn.Conv1d:
    layer = net.get_submodule("0")
    assert isinstance(layer, nn.Conv1d)
    return layer


def set_rows(layer: nn.Conv1d, rows: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(rows[:, None, None].expand_as(layer.weight))


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 40),
    sparsity=st.integers(0, 99).map(lambda percent: percent / 100),
    seed=st.integers(0, 2**16),
)
def test_exactly_the_smallest_rows_go(width: int, sparsity: float, seed: int) -> None:
    net = two_layers(width)
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    signs = torch.tensor([-1.0, 1.0]).repeat(width)[:width]
    set_rows(first(net), (order + 1) * signs)
    exported = L1(net, input_shape=(2, 8), sparsity=sparsity).export()
    kept = first(exported).weight[:, 0, 0].abs().int().tolist()
    gone = min(width - 1, round(sparsity * 100) * width // 100)  # in whole numbers
    assert sorted(kept) == list(range(gone + 1, width + 1))


def test_layers_of_one_group_weigh_alike() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv1d(1, 4, 1), nn.Conv1d(1, 4, 1)
            self.last = nn.Conv1d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(self.left(x) + self.right(x))
            return result

    net = Sum()
    # By sums alone the first layer decides, being a thousand times as large.
    set_rows(net.left, 1000 * torch.tensor([4.0, 4.0, 4.0, 3.0]))
    set_rows(net.right, torch.tensor([1.0, 2.0, 8.0, 9.0]))
    model = L1(net, input_shape=(1, 5), sparsity=0.5)
    assert model.encode(model.theta(hard=True))["channels"] == {"left": [2, 3]}


def test_the_net_trains_whole_and_has_nothing_else_to_learn() -> None:
    net = two_layers(6)
    model = L1(net, input_shape=(2, 8), sparsity=0.5)
    x = torch.randn(4, 2, 8)
    assert torch.equal(model(x), net(x))
    assert list(model.nas_parameters()) == []
    assert model.cost.item() == sum(p.numel() for p in net.parameters())
    assert not model.cost.requires_grad


def test_what_is_small_at_the_end_goes_not_what_was_at_the_start() -> None:
    net = two_layers(2)
    set_rows(first(net), torch.tensor([1.0, 2.0]))
    model = L1(net, input_shape=(2, 8), sparsity=0.5)
    assert model.encode(model.theta(hard=True))["channels"] == {"0": [1]}
    with torch.no_grad():
        first(model.net).weight.mul_(torch.tensor([3.0, 1.0])[:, None, None])
    assert model.encode(model.theta(hard=True))["channels"] == {"0": [0]}


@pytest.mark.parametrize(
    "name", ["Residual", "depthwise_separable", "Concat", "Shuffle", "grouped"]
)
def test_nets_of_the_zoo_lose_half(name: str) -> None:
    case: Case = NETS[name]
    model = L1Settings(sparsity=0.5).open(case.build(), case.inputs(), params)
    hard = model.theta(hard=True)
    exported = model.export(hard)  # compares its outputs with the search's
    found = model.encode(hard)["channels"]
    assert found
    for group in model.table.groups:
        if group.labels:
            assert len(found[group.name]) >= max(1, math.ceil(len(group.labels) / 2))
    cut = L1Settings(sparsity=0.0).open(exported, case.inputs(), params)
    assert cut.cost.item() == model.get_cost(hard=True).item() < model.cost.item()
    again = copy.deepcopy(model)
    assert torch.equal(again.decode(again.encode(hard))["channels"], hard["channels"])


@pytest.mark.parametrize(
    "make", [L1Settings, lambda **s: L1(two_layers(2), input_shape=(2, 8), **s)]
)
@pytest.mark.parametrize("sparsity", [-0.1, 1.0, math.nan])
def test_a_sparsity_is_a_fraction(make: Callable[..., object], sparsity: float) -> None:
    with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\)") as error:
        make(sparsity=sparsity)
    assert is_sentence(error.value)


@pytest.mark.parametrize("name", ["Residual", "depthwise_separable"])
def test_it_prunes_what_other_methods_export(name: str) -> None:
    case = NETS[name]
    rounded = MPSSettings(w_bits=(2, 8)).open(case.build(), case.inputs(), params).export()
    model = L1Settings(sparsity=0.5).open(rounded, case.inputs(), params)
    exported = model.export()  # compares its outputs with the search's
    again = L1Settings(sparsity=0.0).open(exported, case.inputs(), params)
    assert again.cost.item() == model.get_cost(hard=True).item() < model.cost.item()
