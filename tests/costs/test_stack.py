from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from costs import LayerSpec, Scalar, cost, macs, params, peak_activation_bytes, stacked, total

CERTAIN = torch.ones(())


def tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


CONV = LayerSpec(
    name="conv",
    op="conv",
    cin=tensor(8.0),
    cout=tensor(12.0),
    kernel=(3, 5),
    out=(4, 6),
    stride=(1, 1),
)
WIDE = replace(CONV, name="wide", cout=tensor(20.0), out=(2, 6), stride=(2, 1))


def test_counts_and_sizes_lie_along_a_new_axis() -> None:
    ((both, share),) = stacked([(CONV, CERTAIN), (WIDE, CERTAIN)])
    assert both.name == "conv, wide"
    assert torch.as_tensor(both.cout).tolist() == [[[12]], [[20]]]
    assert torch.as_tensor(both.out[0]).tolist() == [[[4]], [[2]]]
    assert torch.as_tensor(both.stride[0]).tolist() == [[[1]], [[2]]]
    assert (both.out[1], both.stride[1]) == (6, 1)  # equal in both
    assert share.shape == (2, 1, 1)
    assert torch.as_tensor(macs(both)).flatten().tolist() == [8 * 12 * 15 * 24, 8 * 20 * 15 * 12]


@pytest.mark.parametrize(
    "changes",
    [
        {"op": "affine"},
        {"kernel": (5, 3)},
        {"kernel": (tensor(3.0), 5)},
        {"out": (4,)},
        {"stride": (1,)},
        {"depthwise": True},
        {"bias": False},
        {"groups": 4},
        {"groups": tensor(4.0)},
        {"cin": 8},
        {"w_bits": 8},
        {"w_bits": tensor(8.0)},
        {"cout": torch.ones(1, 2)},
        {"repeat": 1},
    ],
)
def test_what_a_formula_treats_differently_is_another_kind(changes: dict[str, Any]) -> None:
    calls = [(CONV, CERTAIN), (replace(CONV, **changes), CERTAIN)]
    assert [layer for layer, _ in stacked(calls)] == [layer for layer, _ in calls]


def test_plain_numbers_stay_layers_of_their_own() -> None:
    plain = replace(CONV, cin=8, cout=12)
    calls = [(plain, CERTAIN), (plain, CERTAIN)]
    assert stacked(calls) == calls
    assert total(macs, stacked(calls)).dtype == torch.float64  # as whole numbers are


@pytest.mark.parametrize("same", [False, True])
def test_a_share_counts_for_each_layer_also_where_all_have_the_same(same: bool) -> None:
    shares = [torch.tensor([[0.25, 0.5]]) for _ in range(2)]
    pair = replace(CONV, w_bits=torch.tensor([[2.0, 8.0]]))
    calls = [(pair, shares[0]), (pair, shares[0 if same else 1])]
    assert len(stacked(calls)) == 1

    @cost(unit="layer", stacks=True)
    def layers(layer: LayerSpec) -> Scalar:
        return 1

    assert total(layers, calls).item() == total(layers, stacked(calls)).item() == 1.5


def test_moments_are_one_and_the_largest_counts() -> None:
    sizes = torch.tensor([16.0, 64.0, 60.0], requires_grad=True)
    moments = [
        (LayerSpec(name=str(index), op="moment", cin=0, cout=size, x_bits=8), CERTAIN)
        for index, size in enumerate(sizes)
    ]
    ((_, share),) = stacked(moments)
    assert share.shape == (3, 1, 1)
    single, joined = (total(peak_activation_bytes, m) for m in (moments, stacked(moments)))
    assert single.item() == joined.item() == 64
    (expected,) = torch.autograd.grad(single, sizes)
    (slope,) = torch.autograd.grad(joined, sizes)
    torch.testing.assert_close(slope, expected)


def test_sizes_stay_whole_beside_counts_in_half_precision() -> None:
    half = [
        replace(layer, cin=torch.ones(()), cout=torch.ones((), dtype=torch.bfloat16), out=out)
        for layer, out in ((CONV, (1001, 1)), (WIDE, (1003, 1)))
    ]
    ((both, _),) = stacked([(layer, CERTAIN) for layer in half])
    assert torch.as_tensor(both.positions).flatten().tolist() == [1001, 1003]


def test_costs_run_over_lanes_of_stacks() -> None:
    def net_cost(keep: Tensor) -> Tensor:
        calls = [(replace(layer, cout=12 * keep), CERTAIN) for layer in (CONV, WIDE)]
        return total(params, stacked(calls))

    keep = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    found = torch.func.vmap(net_cost)(keep)
    assert found.tolist() == [net_cost(one).item() for one in keep]
