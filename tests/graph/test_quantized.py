"""Quantisers of activations and layers that round themselves, as modules."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plinio_sweep.graph.quantize import MinMax, mix_activation, round_bias, round_rows, weight_step
from plinio_sweep.graph.quantized import (
    QUANTIZED,
    Quantizer,
    is_quantized,
    measure_ranges,
)
from plinio_sweep.methods.mps import MPS


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(4, 6), (4,)),
    (nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), (4, 8)),
    (nn.Conv2d(4, 6, 3, stride=2, groups=2), (4, 7, 7)),
    (nn.Conv3d(4, 6, 2, dilation=2), (4, 5, 5, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("bias", [True, False])
def test_a_quantised_layer_is_its_stock_layer_on_rounded_weights(
    layer: Any, shape: tuple[int, ...], bias: bool
) -> None:
    layer = copy.deepcopy(layer).double()
    if not bias:
        layer.bias = None
    quantised = copy.deepcopy(layer)
    quantised.__class__ = QUANTIZED[type(layer)]
    quantised.register_buffer("w_bits", torch.tensor([1, 2, 4, 8, 3, 4]))
    quantised.register_parameter("log_span", None)
    quantised.ranges, quantised.x_bits = MinMax(), 8
    assert is_quantized(quantised)
    assert not is_quantized(layer)
    x, step = seeded(2, *shape).double(), torch.tensor(0.01).double()
    rows = layer.weight.detach().flatten(1)
    steps = weight_step(MinMax().span(rows), quantised.w_bits)
    with torch.no_grad():
        layer.weight.copy_(round_rows(rows, steps, quantised.w_bits).reshape(layer.weight.shape))
        if bias:
            layer.bias.copy_(round_bias(layer.bias, step * steps))
    torch.testing.assert_close(quantised(x, step), layer(x))


@pytest.mark.parametrize("signed", [False, True])
def test_a_decided_quantiser_has_a_clip_that_learns_and_stays_positive(signed: bool) -> None:
    log_clip = nn.Parameter(torch.tensor([0.5]).log())
    quantizer = Quantizer((4,), signed=signed, log_clip=log_clip)
    x = 3 * seeded(100)
    expected = mix_activation(
        x, torch.tensor([0.5 / (7 if signed else 15)]), torch.ones(1), [4], signed=signed
    )
    torch.testing.assert_close(quantizer(x), expected)
    optimizer = torch.optim.SGD([log_clip], lr=1.0)
    before = (quantizer(x) - x).square().mean()
    for _ in range(10):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
        assert log_clip.exp() > 0
    assert (quantizer(x) - x).square().mean() < before


def test_a_measured_range_is_stored_but_not_trained() -> None:
    quantizer = Quantizer((8,), signed=True, log_clip=torch.zeros(1))
    assert list(quantizer.state_dict()) == ["log_clip"]
    assert not list(quantizer.parameters())


def test_ranges_are_measured_item_by_item_and_leave_the_net_as_it_was() -> None:
    net = nn.Sequential(nn.Dropout(0.5), Quantizer((2,), signed=True)).train()
    batches = [(seeded(3, 4),), (seeded(2, 4, seed=1),)]
    found = measure_ranges(net, {}, batches)
    values = torch.cat([batch[0] for batch in batches])
    assert torch.equal(found["1"], torch.stack([values.amin(1), values.amax(1)]))
    assert net.training
    assert net[0].training
    assert len(torch.unique(net.eval()(values))) <= 4


def test_percentiles_leave_out_rare_extremes() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.cat([seeded(999, 4).clamp(-1, 1), torch.full((1, 4), 100.0)])
    clips = {}
    for percentile in (100.0, 99.0):
        search = MPS(net, input_example=x, percentile=percentile)
        clips[percentile] = search.log_clip.exp()[0].item()
    assert clips[100.0] == pytest.approx(100)
    assert clips[99.0] <= 1.001


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    search = MPS(net, input_shape=(4,))
    with pytest.raises(ValueError, match="Activations must be finite, but those of 'input_1'"):
        search.prepare([(torch.full((2, 4), bad),)])


def test_a_quantiser_says_its_widths_and_sign() -> None:
    assert repr(Quantizer((4, 8), signed=False)) == "Quantizer(4, 8 bit, unsigned)"
