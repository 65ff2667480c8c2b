"""Sums of products by way of doubles are those of whole numbers, whichever way they are formed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from plinio_sweep.ship.program import Conv
from plinio_sweep.ship.reference import convolved, multiplied

# Shape of an item, output channels, kernel, and how the one is led over the other.
CASES: dict[str, tuple[tuple[int, ...], int, tuple[int, ...], dict[str, Any]]] = {
    "dilated": ((4, 19), 6, (3,), {"padding": ((6, 0),), "dilation": (2,)}),
    "strided": ((3, 9, 8), 5, (3, 3), {"padding": ((1, 0), (0, 2)), "stride": (2, 1)}),
    "grouped": ((6, 7, 7), 4, (3, 2), {"groups": 2}),
    "depthwise": ((5, 8, 8), 5, (3, 3), {"groups": 5, "padding": ((1, 1), (1, 1))}),
    "3-d": ((2, 5, 4, 6), 3, (3, 1, 2), {"padding": ((1, 1), (0, 0), (0, 1))}),
}


def operation(axes: int, **given: Any) -> Conv:
    ones = (1,) * axes
    plain = {"stride": ones, "dilation": ones, "padding": ((0, 0),) * axes}
    names = {"output": "y", "inputs": ("x",), "layer": "layer", "low": 0, "high": 255}
    return Conv(**{**plain, **names, **given})


def summed(x: Tensor, weight: Tensor, op: Conv) -> Tensor:
    """The same one output position after another, in 64-bit integers."""
    padded = torch.nn.functional.pad(x.long(), [s for pair in op.padding[::-1] for s in pair])
    kernel = weight.shape[2:]
    spans = [d * (k - 1) + 1 for d, k in zip(op.dilation, kernel, strict=True)]
    counts = [
        (size - span) // step + 1
        for size, span, step in zip(padded.shape[2:], spans, op.stride, strict=True)
    ]
    sums = torch.zeros(len(x), *counts, len(weight), dtype=torch.int64)
    inputs, outputs = weight.shape[1], len(weight) // op.groups
    for place in torch.cartesian_prod(*map(torch.arange, counts)).reshape(-1, len(counts)).tolist():
        window = padded
        for axis, (at, step, span, distance) in enumerate(
            zip(place, op.stride, spans, op.dilation, strict=True)
        ):
            window = window.narrow(2 + axis, at * step, span)
            window = window.index_select(2 + axis, torch.arange(0, span, distance))
        for channel in range(len(weight)):
            first = channel // outputs * inputs
            products = window[:, first : first + inputs] * weight[channel].long()
            sums[(slice(None), *place, channel)] = products.flatten(1).sum(1)
    return sums


@pytest.mark.parametrize("name", CASES)
def test_both_ways_give_the_sums_of_whole_numbers(name: str) -> None:
    shape, outputs, kernel, given = CASES[name]
    op = operation(len(kernel), **given)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 256, (3, *shape), generator=generator, dtype=torch.int32)
    size = (outputs, shape[0] // op.groups, *kernel)
    weight = torch.randint(-128, 128, size, generator=generator, dtype=torch.int8)
    expected = summed(x, weight, op)
    for found in (convolved(x, weight, op), multiplied(x, weight, op)):
        assert found.dtype == torch.int32
        assert torch.equal(found.long(), expected)


def test_sums_up_to_the_edge_of_32_bits_are_exact() -> None:
    # Whole numbers of which single precision knows one of 128.
    x = torch.full((1, 65_794, 1), 255, dtype=torch.int32)
    weight = torch.full((1, 65_794, 1), 127, dtype=torch.int8)
    weight[0, 0] = 126
    exact = 255 * (127 * 65_794 - 1)
    assert 2**30 < exact < 2**31
    for products in (convolved, multiplied):
        assert products(x, weight, operation(1)).tolist() == [[[exact]]]
