from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from costs import params
from plinio_sweep.graph.fold import Folded, fold_norms, unfold_norms
from plinio_sweep.graph.table import Analysis, analyse_graph
from plinio_sweep.graph.trace import trace
from plinio_sweep.methods.pit import PIT
from tests.contract.method_contract import assert_close, outputs
from tests.graph.expected import FOLDED
from tests.nets import CASES, Case, randomize, rows
from tests.zoo.images import CalledTwice

SIGNAL = (torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0)),)


def opened(net: nn.Module, inputs: tuple[Tensor, ...], **given: Any) -> Analysis:
    return analyse_graph(trace(copy.deepcopy(net), inputs), inputs, **given)


def folded(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[fx.GraphModule, tuple[Folded, ...]]:
    analysis = opened(net, inputs)
    return analysis.net, fold_norms(analysis.net, analysis.table)


def layer_and_norm(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """The two, random and in eval mode, before a layer that reads them."""
    torch.manual_seed(0)
    net = nn.Sequential(layer, norm, nn.Sigmoid(), nn.Conv1d(6, 2, 1))
    randomize(net)
    return net.eval()


@pytest.mark.parametrize("case", rows(CASES))
def test_folding_and_unfolding_change_no_output_of_the_zoo(case: Case) -> None:
    net = case.build()
    small, found = folded(net, case.inputs())
    assert {fold.norm for fold in found} == FOLDED.get(case.name, set())
    assert not {fold.norm for fold in found} & {name for name, _ in small.named_modules()}
    assert_close(outputs(net, case.inputs()), outputs(small, case.inputs()))
    unfold_norms(small, found)
    assert_close(outputs(net, case.inputs()), outputs(small, case.inputs()))
    before, after = opened(net, case.inputs()).net.state_dict(), small.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_every_kind_of_layer_and_norm_folds(affine: bool, bias: bool, groups: int) -> None:
    layer = nn.Conv1d(3, 6, 3, bias=bias, groups=groups)
    net = layer_and_norm(layer, nn.BatchNorm1d(6, affine=affine))
    small, found = folded(net, SIGNAL)
    assert [fold.norm for fold in found] == ["1"]
    assert_close(outputs(net, SIGNAL), outputs(small, SIGNAL), 1e-6)
    unfold_norms(small, found)
    assert_close(outputs(net, SIGNAL), outputs(small, SIGNAL), 1e-6)
    assert (small.get_submodule("0").bias is not None) == bias


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_unfolding_keeps_what_was_trained_and_cut(affine: bool, bias: bool) -> None:
    net = layer_and_norm(nn.Conv1d(3, 6, 3, bias=bias), nn.BatchNorm1d(6, affine=affine))
    analysis = opened(net, SIGNAL)
    found = fold_norms(analysis.net, analysis.table)
    with torch.no_grad():
        for parameter in analysis.net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    search = PIT(analysis.net, params, input_example=SIGNAL)
    with torch.no_grad():
        search.decisions["channels"][[0, 3, 4]] = 0.0
    exported = search.export().eval()
    expected = outputs(exported, SIGNAL)
    unfold_norms(exported, found, {"0": torch.tensor([1, 2, 5])})
    assert_close(expected, outputs(exported, SIGNAL), 1e-5)
    norm: Any = exported.get_submodule("1")
    assert (norm.num_features, len(norm.running_var)) == (3, 3)
    assert (exported.get_submodule("0").bias is not None) == bias


def test_a_channel_that_its_norm_had_switched_off_comes_back_as_trained() -> None:
    net = layer_and_norm(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6))
    with torch.no_grad():
        net.get_parameter("1.weight")[2] = 0.0
    small, found = folded(net, SIGNAL)
    with torch.no_grad():
        small.get_parameter("0.weight")[2] = 1.5
    expected = outputs(small, SIGNAL)
    unfold_norms(small, found)
    assert_close(expected, outputs(small, SIGNAL), 1e-6)


def test_an_unfolded_norm_can_be_measured_anew_with_little_change() -> None:
    inputs = (torch.randn(256, 3, 9, generator=torch.Generator().manual_seed(1)),)
    net = layer_and_norm(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6, momentum=None))
    net.train()(*inputs)
    small, found = folded(net.eval(), inputs)
    unfold_norms(small, found)
    expected = outputs(small, inputs)
    norm: Any = small.get_submodule("1")
    norm.reset_running_stats()
    small.train()(*inputs)
    assert_close(expected, outputs(small.eval(), inputs), 1e-4)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.bfloat16, 0.05)])
def test_other_precisions_stay(dtype: torch.dtype, limit: float) -> None:
    net = layer_and_norm(nn.Conv1d(3, 6, 3, bias=False), nn.BatchNorm1d(6)).to(dtype)
    inputs = (SIGNAL[0].to(dtype),)
    small, found = folded(net, inputs)
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert_close(outputs(net, inputs), outputs(small, inputs), limit)
    unfold_norms(small, found)
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert_close(outputs(net, inputs), outputs(small, inputs), limit)


def test_what_is_not_trained_stays_untrained() -> None:
    net = layer_and_norm(nn.Conv1d(3, 6, 3, bias=False), nn.BatchNorm1d(6))
    net.get_parameter("0.weight").requires_grad_(False)
    small, _ = folded(net, SIGNAL)
    assert not small.get_parameter("0.weight").requires_grad
    assert small.get_parameter("0.bias").requires_grad
    net.get_parameter("1.bias").requires_grad_(False)
    small, _ = folded(net, SIGNAL)
    assert not small.get_parameter("0.bias").requires_grad


def test_a_layer_called_twice_folds_once() -> None:
    torch.manual_seed(0)
    net = CalledTwice().eval()
    randomize(net)
    inputs = (torch.randn(2, 3, 8, 8),)
    small, found = folded(net, inputs)
    assert len({fold.layer for fold in found}) == len(found)
    assert_close(outputs(net, inputs), outputs(small, inputs))


class TiedWeights(nn.Module):
    """Two layers over one weight, each with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv1d(3, 6, 3), nn.Conv1d(3, 6, 3)
        self.right.weight = self.left.weight
        self.norm1, self.norm2 = nn.BatchNorm1d(6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm1(self.left(x)) - self.norm2(self.right(x))


def test_layers_that_share_a_parameter_keep_their_norms() -> None:
    torch.manual_seed(0)
    net = TiedWeights().eval()
    randomize(net)
    small, found = folded(net, SIGNAL)
    assert found == ()
    assert small.get_submodule("left").weight is small.get_submodule("right").weight
    assert_close(outputs(net, SIGNAL), outputs(small, SIGNAL), 0.0)


def test_a_norm_without_statistics_of_its_own_does_not_fold() -> None:
    net = layer_and_norm(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6, track_running_stats=False))
    analysis = opened(net, SIGNAL)
    assert [row.norm for row in analysis.table.rows] == [None, None, None]


@pytest.mark.parametrize("name", ["0", "1"])
def test_what_is_excluded_is_not_folded(name: str) -> None:
    net = layer_and_norm(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6))
    analysis = opened(net, SIGNAL, exclude_names=(name,))
    assert fold_norms(analysis.net, analysis.table) == ()
    assert all(row.norm is None for row in analysis.table.rows)
