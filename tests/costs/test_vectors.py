"""Our costs against 262 recorded ones of PLiNIO, with the slopes its autograd gave.

Where PLiNIO's number is not that of the hardware, ours is worked out by hand here, and the
difference is listed with its reason in `tests/parity/differences.toml`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from costs import (
    LayerSpec,
    Scalar,
    bit_ops,
    diana_cycles,
    gap8_cycles,
    macs,
    mpic_cycles,
    mpic_energy,
    ne16_cycles,
    ops,
    params,
    size_bits,
)

ROOT = Path(__file__).parents[2]
VECTORS: list[dict[str, Any]] = json.loads(
    (ROOT / "tests" / "parity" / "cost_vectors.json").read_text()
)


def without_bias(layer: LayerSpec) -> LayerSpec:
    return replace(layer, bias=False)


def bits_of_weights(layer: LayerSpec) -> Scalar:
    scales = 0 if layer.w_bits == 32 else layer.cout
    return size_bits(layer) - 32 * (layer.num_biases + scales)


# PLiNIO's models in terms of ours. Its `ops` counts the addition of a bias as a MAC at every output
# position, and its `params_bit` leaves out the 32 bits of a bias and of a scale: we do neither.
MODELS: dict[str, Callable[[LayerSpec], Scalar]] = {
    "params": params,
    "params_no_bias": lambda layer: params(without_bias(layer)),
    "params_bit": bits_of_weights,
    "ops": ops,
    "ops_no_bias": macs,
    "ops_bit": bit_ops,
    "mpic_latency": mpic_cycles,
    "mpic_energy": mpic_energy,
    "gap8_latency": gap8_cycles,
    "ne16_latency": ne16_cycles,
    "diana_latency": diana_cycles,
}
# Their slopes take a portion of `n` for a slope of 1 instead of `1 / n`.
STEPS = ("gap8_latency", "ne16_latency", "diana_latency")


def as_layer(vector: dict[str, Any]) -> LayerSpec:
    return LayerSpec(
        name=name_of(vector),
        op="linear" if vector["type"] == "Linear" else "conv",
        cin=vector["cin"],
        cout=vector["cout"],
        kernel=tuple(vector["kernel"]),
        out=tuple(vector["out"]),
        stride=tuple(vector["stride"]),
        groups=vector["groups"],
        depthwise=1 < vector["groups"] == vector["cin"] == vector["cout"],
        bias=vector["bias"],
        w_bits=vector["w_bits"],
        x_bits=vector["x_bits"],
    )


def cost_of_share(vector: dict[str, Any], layer: LayerSpec) -> float:
    """The cost as PLiNIO gives it: of a share of the channels, divided by this share."""
    part = replace(layer, cout=layer.cout * vector["share"])
    return float(MODELS[vector["model"]](part)) / vector["share"]


def as_plinio_sees(vector: dict[str, Any]) -> LayerSpec:
    """Groups and the axes of a linear layer left out, except in depthwise 1-d and 2-d layers."""
    layer = as_layer(vector)
    if layer.depthwise and vector["type"] in ("Conv1d", "Conv2d"):
        return layer
    out = () if vector["type"] == "Linear" else layer.out
    return replace(layer, groups=1, depthwise=False, out=out)


def name_of(vector: dict[str, Any]) -> str:
    kernel = "x".join(map(str, vector["kernel"]))
    shape = f"{vector['type']}_{vector['cin']}_{vector['cout']}_k{kernel}_g{vector['groups']}"
    return f"{vector['model']}_{shape}_w{vector['w_bits']}x{vector['x_bits']}"


def differs(vector: dict[str, Any]) -> bool:
    ours, plinios = as_layer(vector), as_plinio_sees(vector)
    if vector["expected"] is None:
        return True
    if vector["type"] == "Linear":
        return bool(ours.out) and not vector["model"].startswith("params")
    if vector["model"].startswith("mpic") and vector["type"] == "Conv3d":
        return True
    if vector["model"] == "diana_latency":  # the one model that divides by the groups
        return False
    uncovered = vector["model"] in STEPS and vector["type"] in ("Conv1d", "Conv3d")
    return float(ours.fan_in) != float(plinios.fan_in) and not uncovered


AGREEING = [vector for vector in VECTORS if not differs(vector)]
SMOOTH = [vector for vector in AGREEING if vector["model"] not in STEPS]
DIFFERING = [vector for vector in VECTORS if differs(vector)]

# What hardware does, by hand: stored weights, biases, and output positions of each layer above.
BY_HAND = {
    ("Conv2d", 16, 32, 4): (32 * 4 * 9, 32, 64),  # 4 of 16 input channels for each output
    ("Conv2d", 16, 32, 16): (32 * 1 * 9, 32, 64),  # a depth multiplier of 2
    ("Conv3d", 4, 4, 4): (4 * 1 * 27, 4, 64),  # depthwise over three axes
    ("Conv3d", 1, 20, 1): (20 * 27, 20, 105),
    ("Linear", 16, 16, 1): (16 * 16, 16, 7),  # 7 steps in time, each a matrix product
}
MACS_PER_CYCLE = {(8, 8): 2.1, (4, 2): 3.9}  # (inputs, weights)
# Cycles, by model, kind, groups and width of the weights.
CYCLES_BY_HAND = {
    # 4 x 1 tiles, in each of 4 groups: 72 columns copied, 2 steps of 15 + 14 * 9.
    ("gap8_latency", "Conv2d", 4, 32): 4 * 4 * (2 * 36 + 2 * (15 + 14 * 9)),
    # In each of 16 groups: one input channel, 2 outputs in one step.
    ("gap8_latency", "Conv2d", 16, 32): 16 * 4 * (2 * 9 + 1 * (15 + 14 * 3)),
    ("gap8_latency", "Linear", 1, 32): 7 * (8 * 4),
    # No kernel of this engine: free, and listed by name.
    ("ne16_latency", "Conv2d", 16, 4): 0,
    ("ne16_latency", "Conv2d", 16, 2): 0,
    ("ne16_latency", "Conv2d", 1, 8): 0,
    ("ne16_latency", "Conv2d", 1, 4): 0,
    ("ne16_latency", "Conv2d", 1, 2): 0,
    # The analog array has no groups, so that the digital one runs ternary weights as well.
    ("diana_latency", "Conv2d", 64, 2): 1 * 64 * 2 * 5 * 9 + 125 * (64 + 64) / 8,
    ("diana_latency", "Conv2d", 4, 2): 1 * 16 * 1 * 8 * 9 + 64 * (16 + 32) / 8,
    ("diana_latency", "Linear", 1, 8): 1 * 16 * 1 + 7 * (16 + 16) / 8,
    ("diana_latency", "Linear", 1, 2): 7 / 8 * 18.2 + 8 * 16,
}


def by_hand(vector: dict[str, Any]) -> float:
    model, kind, groups = vector["model"], vector["type"], vector["groups"]
    if model in STEPS:
        return CYCLES_BY_HAND[model, kind, groups, vector["w_bits"]]
    weights, biases, positions = BY_HAND[kind, vector["cin"], vector["cout"], groups]
    bits = vector["w_bits"] * vector["x_bits"]
    if model.startswith("mpic"):
        rate = MACS_PER_CYCLE[vector["x_bits"], vector["w_bits"]]
        cycles = positions * (weights + biases * vector["bias"]) / rate
        return cycles if model == "mpic_latency" else cycles / 250e6 * 5.3825e-3
    return {
        "params": weights + biases,
        "params_no_bias": weights,
        "params_bit": weights * vector["w_bits"],
        "ops": positions * (weights + biases),
        "ops_no_bias": positions * weights,
        "ops_bit": positions * weights * bits,
    }[model]


@pytest.mark.parametrize("vector", AGREEING, ids=name_of)
def test_costs_agree_with_plinio(vector: dict[str, Any]) -> None:
    assert cost_of_share(vector, as_layer(vector)) == pytest.approx(vector["expected"], rel=1e-5)


@pytest.mark.parametrize("vector", SMOOTH, ids=name_of)
def test_slopes_agree_with_plinio(vector: dict[str, Any]) -> None:
    cin = torch.tensor(float(vector["cin"]), dtype=torch.float64, requires_grad=True)
    cout = torch.tensor(float(vector["cout"]), dtype=torch.float64, requires_grad=True)
    value = MODELS[vector["model"]](replace(as_layer(vector), cin=cin, cout=cout))
    assert isinstance(value, Tensor)
    along_in, along_out = torch.autograd.grad(value, (cin, cout), allow_unused=True)
    assert along_out is not None
    if as_layer(vector).depthwise:
        # Inputs and outputs are the same channels: PLiNIO's formulas name the one or the other,
        # ours the output, so the whole slope is there.
        assert along_in is None
        recorded = [slope for slope in (vector["grad_in"], vector["grad_out"]) if slope is not None]
        assert recorded == pytest.approx([along_out.item()], rel=1e-5)
        return
    assert along_in is not None
    assert along_in.item() == pytest.approx(vector["grad_in"], rel=1e-5)
    assert along_out.item() == pytest.approx(vector["grad_out"], rel=1e-5)


@pytest.mark.parametrize("vector", DIFFERING, ids=name_of)
def test_what_plinio_leaves_out_is_counted(vector: dict[str, Any]) -> None:
    ours = cost_of_share(vector, as_layer(vector))
    assert ours == pytest.approx(by_hand(vector), rel=1e-6)
    assert ours != vector["expected"]
    if vector["expected"]:
        # Nothing else differs: blind to groups and time steps, our formula gives PLiNIO's number.
        seen = cost_of_share(vector, as_plinio_sees(vector))
        assert seen == pytest.approx(vector["expected"], rel=1e-5)


def slope_of(vector: dict[str, Any], along: str) -> float:
    count = torch.tensor(float(vector[along]), dtype=torch.float64, requires_grad=True)
    value = MODELS[vector["model"]](replace(as_layer(vector), **{along: count}))
    return float(torch.autograd.grad(torch.as_tensor(value), count)[0])


def one_vector(model: str, cin: int, cout: int, w_bits: int) -> dict[str, Any]:
    wanted = (model, cin, cout, w_bits, 1)
    keys = ("model", "cin", "cout", "w_bits", "groups")
    return next(v for v in VECTORS if tuple(v[k] for k in keys) == wanted)


@pytest.mark.parametrize(
    ("vector", "along", "slope", "plinios"),
    [
        # Per output channel of a tile of 4: a quarter of 15 + 14 * 36 cycles in 8 * 2 tiles.
        (one_vector("gap8_latency", 16, 32, 32), "cout", 16 * (15 + 14 * 36) / 4, 8304),
        # 9 tiles of 3 x 3 positions: 67 cycles shared by 32 channels, 8 + 1 cycles of each.
        (one_vector("ne16_latency", 16, 32, 8), "cout", 9 * (67 / 32 + 9), 3195),
        # One position, 64 inputs, 16 outputs at a time, and an eighth to move each output.
        (one_vector("diana_latency", 64, 10, 8), "cout", 64 / 16 + 1 / 8, 64.125),
        # 256 positions, 8 copies in 512 columns.
        (one_vector("diana_latency", 32, 64, 2), "cout", 18.2 * 256 / 8 / 512, 582.4),
    ],
    ids=lambda value: name_of(value) if isinstance(value, dict) else None,
)
def test_a_portion_of_n_has_a_slope_of_one_nth(
    vector: dict[str, Any], along: str, slope: float, plinios: float
) -> None:
    assert slope_of(vector, along) == pytest.approx(slope)
    assert vector["grad_out"] in (None, pytest.approx(plinios))


def test_biases_are_stored_but_adding_them_is_no_multiplication() -> None:
    layer = LayerSpec(name="c", op="conv", cin=3, cout=16, kernel=(3, 3), out=(32, 32), w_bits=2)
    assert size_bits(layer) - size_bits(without_bias(layer)) == 32 * 16  # PLiNIO's params_bit: 0
    assert macs(layer) == 442368  # PLiNIO's ops: 458752


def test_the_scale_of_every_rounded_channel_is_stored() -> None:
    layer = LayerSpec(name="c", op="conv", cin=3, cout=16, kernel=(3, 3), w_bits=2, bias=False)
    assert size_bits(layer) == 864 + 32 * 16  # PLiNIO's params_bit: 864


def test_every_difference_in_cost_names_a_test_that_exists() -> None:
    listed = tomllib.loads((ROOT / "tests" / "parity" / "differences.toml").read_text())
    tests = {entry["id"]: entry["test"] for entry in listed["difference"]}
    assert tests["B46"].endswith(test_what_plinio_leaves_out_is_counted.__name__)
    for test in tests.values():
        file, *names = test.split("::")
        if file.startswith("tests/costs/"):
            module = import_module(file.removesuffix(".py").replace("/", "."))
            assert callable(reduce(getattr, names, module)), test
