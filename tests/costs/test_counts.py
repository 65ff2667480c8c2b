from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from costs import (
    COUNTS,
    MODELS,
    CostModel,
    LayerSpec,
    Scalar,
    bit_ops,
    macs,
    ops,
    params,
    peak_activation_bytes,
    size_bits,
    size_bytes,
    total,
)
from tests.contract.cost_contract import LAYERS, CostContract

# The layers of the contract as the modules they describe, each with the shape of an input.
MODULES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d(6, 9, 5, padding=2), (1, 6, 11)),
    "conv2d": (nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), (1, 3, 11, 8)),
    "conv3d": (nn.Conv3d(2, 3, (3, 1, 2)), (1, 2, 4, 4, 4)),
    "pointwise": (nn.Conv2d(7, 5, 1), (1, 7, 5, 3)),
    "grouped": (nn.Conv2d(8, 12, 3, padding=1, groups=4), (1, 8, 4, 4)),
    "depthwise": (nn.Conv2d(6, 6, 3, padding=1, groups=6), (1, 6, 5, 5)),
    "multiplier": (nn.Conv1d(4, 8, 3, padding=1, groups=4, bias=False), (1, 4, 9)),
    "linear": (nn.Linear(13, 10), (1, 13)),
    "linear_over_time": (nn.Linear(5, 3, bias=False), (1, 7, 5)),
    "norm": (nn.GroupNorm(2, 6), (1, 6, 3, 3)),
    "prelu": (nn.PReLU(5), (1, 5, 8)),
    "residual": (nn.Identity(), (1, 6, 3, 3)),
    "max_pool": (nn.MaxPool2d(2), (1, 6, 6, 6)),
    "recurrent": (nn.GRU(3, 5, bias=False), (1, 3)),
}


def count_parameters(layer: LayerSpec) -> float:
    module, _ = MODULES[layer.name]
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(layer: LayerSpec) -> float:
    module, shape = MODULES[layer.name]
    if layer.op == "affine":  # the counter of PyTorch knows matrix products only
        return float(module(torch.zeros(shape)).numel())
    if layer.op == "other":
        return 0
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(shape))
    return float(counter.get_total_flops()) / 2  # it counts a multiplication and an addition


def split(layer: LayerSpec) -> tuple[int, int]:
    """Numbers of parameters held at the layer's bit-width, and of words of 32 bit."""
    module, _ = MODULES[layer.name]
    sizes = {name: parameter.shape for name, parameter in module.named_parameters()}
    rounds = layer.op in ("conv", "linear") and layer.w_bits != 32
    quantized = math.prod(sizes["weight"]) if rounds else 0
    scales = sizes["weight"][0] if rounds else 0  # one for each output channel
    return quantized, sum(map(math.prod, sizes.values())) - quantized + scales


def count_bits(layer: LayerSpec) -> float:
    quantized, words = split(layer)
    return quantized * float(layer.w_bits) + 32 * words


def count_bytes(layer: LayerSpec) -> float:
    quantized, words = split(layer)
    packed = np.packbits(np.ones(quantized * int(layer.w_bits), dtype=np.uint8))
    return packed.nbytes + np.zeros(words, dtype=np.int32).nbytes


STORED = ("conv", "linear", "affine")


class TestParams(CostContract):
    @pytest.fixture
    def model(self) -> CostModel:
        return params

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        return count_parameters


class TestMacs(CostContract):
    @pytest.fixture
    def model(self) -> CostModel:
        return macs

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        return count_macs


class TestOps(CostContract):
    @pytest.fixture
    def model(self) -> CostModel:
        return ops

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        def count(layer: LayerSpec) -> float:
            additions = math.prod(layer.out) * float(layer.cout) if layer.bias else 0
            return count_macs(layer) + (additions if layer.op in STORED else 0)

        return count


class TestBitOps(CostContract):
    @pytest.fixture
    def model(self) -> CostModel:
        return bit_ops

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        def count(layer: LayerSpec) -> float:
            if layer.op == "affine":
                return count_macs(layer) * 32 * 32
            return count_macs(layer) * float(layer.w_bits) * float(layer.x_bits)

        return count


class TestSizeBits(CostContract):
    @pytest.fixture
    def model(self) -> CostModel:
        return size_bits

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        return count_bits


class TestSizeBytes(CostContract):
    @pytest.fixture
    def model(self) -> CostModel:
        return size_bytes

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        return count_bytes

    @pytest.fixture
    def tangent(self) -> Callable[[LayerSpec], Callable[[LayerSpec], Scalar]]:
        return lambda _: lambda layer: size_bits(layer) / 8

    @pytest.mark.parametrize("w_bits", [1, 2, 3, 5, 7])
    def test_weights_of_any_width_are_packed_into_whole_bytes(self, w_bits: int) -> None:
        for layer in LAYERS:
            narrow = replace(layer, w_bits=w_bits)
            assert float(size_bytes(narrow)) == count_bytes(narrow), layer.name


class TestPeakActivationBytes(CostContract):
    """A moment is a number of live elements and their width."""

    layers: ClassVar[tuple[LayerSpec, ...]] = tuple(
        LayerSpec(name=f"moment_{elements}", op="moment", cin=0, cout=elements, x_bits=8)
        for elements in (1, 13, 4096)
    )

    @pytest.fixture
    def model(self) -> CostModel:
        return peak_activation_bytes

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        return lambda moment: torch.zeros(int(moment.cout), dtype=torch.int8).nbytes


@pytest.mark.parametrize("layer", LAYERS, ids=[layer.name for layer in LAYERS])
def test_the_layers_of_the_contract_are_what_their_modules_compute(layer: LayerSpec) -> None:
    module, shape = MODULES[layer.name]
    if layer.op == "other":
        assert layer.cout == count_parameters(layer)
        return
    result = module(torch.zeros(shape))
    channels_last = layer.op == "linear"
    assert result.shape[-1 if channels_last else 1] == layer.cout
    assert tuple(result.shape[1:-1] if channels_last else result.shape[2:]) == layer.out


def test_counts_of_a_real_net_add_up_over_shared_modules() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), shared, nn.ReLU(), shared)
    first = LayerSpec(name="0", op="conv", cin=1, cout=4, kernel=(3, 3), out=(6, 6))
    second = replace(first, name="1", cin=4)
    certain = torch.ones(())
    layers = [(spec, certain) for spec in (first, second, replace(second, repeat=1))]
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 1, 6, 6))
    assert total(macs, layers).item() == counter.get_total_flops() / 2
    stored = sum(parameter.numel() for parameter in net.parameters())
    assert total(params, layers).item() == stored
    assert total(size_bytes, layers).item() == 4 * stored


def test_a_module_called_at_two_resolutions_works_as_long_as_both() -> None:
    large = LayerSpec(name="pyramid", op="conv", cin=4, cout=4, kernel=(3, 3), out=(8, 8))
    small = replace(large, out=(4, 4), repeat=1)
    certain = torch.ones(())
    assert total(macs, [(large, certain), (small, certain)]).item() == (64 + 16) * 4 * 4 * 9


def test_a_float_weight_takes_four_bytes() -> None:
    layer = LayerSpec(name="fc", op="linear", cin=64, cout=10)
    assert size_bytes(layer) == 4 * params(layer)
    assert size_bits(layer) == 32 * params(layer)


@pytest.mark.parametrize("layer", LAYERS, ids=[layer.name for layer in LAYERS])
def test_float_layers_have_no_scales(layer: LayerSpec) -> None:
    floats = replace(layer, w_bits=32)
    assert size_bits(floats) == 32 * count_parameters(floats)
    assert size_bytes(floats) == 4 * count_parameters(floats)


def test_every_output_channel_of_a_search_has_one_scale() -> None:
    alike = LayerSpec(name="c", op="conv", cin=3, cout=8, kernel=(3, 3), bias=False)
    w_bits = torch.tensor([[2.0, 4.0, 8.0]])
    share = torch.tensor([[0.5, 0.25, 0.25]])
    weights = 8 * 27 * (0.5 * 2 + 0.25 * 4 + 0.25 * 8)
    # One width for the whole layer, of which one will be there.
    candidates = total(size_bits, [(replace(alike, w_bits=w_bits), share)])
    assert candidates.item() == weights + 32 * 8
    # A width for each channel: layers of a few channels each, all of them there.
    parts = replace(alike, w_bits=w_bits, cout=8 * share)
    assert total(size_bits, [(parts, torch.ones(1, 3))]).item() == weights + 32 * 8


def test_affine_and_uncovered_parameters_ignore_the_bit_width() -> None:
    for layer in LAYERS:
        if layer.op in ("affine", "other"):
            assert size_bits(replace(layer, w_bits=2)) == 32 * count_parameters(layer)


def test_pruning_along_both_sides_has_a_quadratic_slope() -> None:
    keep = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    layer = LayerSpec(name="c", op="conv", cin=8 * keep, cout=8 * keep, kernel=(3, 3), bias=False)
    (slope,) = torch.autograd.grad(total(params, [(layer, torch.ones(()))]), keep)
    assert slope.item() == pytest.approx(2 * 8 * 8 * 9 * 0.5)


def test_models_are_listed_by_name_and_cannot_be_replaced() -> None:
    assert {name: model.unit for name, model in MODELS.items()} == {
        "params": "parameter",
        "macs": "MAC",
        "size_bits": "bit",
        "size_bytes": "byte",
        "ops": "operation",
        "bit_ops": "bit operation",
        "peak_activation_bytes": "byte",
        "mpic_cycles": "cycle",
        "mpic_energy": "joule",
        "gap8_cycles": "cycle",
        "ne16_cycles": "cycle",
        "diana_cycles": "cycle",
    }
    storage = ["params", "size_bits", "size_bytes"]
    assert [name for name, model in MODELS.items() if model.once] == storage
    assert list(COUNTS) == ["params", "macs", "size_bits", "size_bytes"]
    with pytest.raises(TypeError):
        MODELS["params"] = macs  # type: ignore[index]
