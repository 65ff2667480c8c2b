"""Our counts against 82 recorded costs of PLiNIO, with the slopes its autograd gave.

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

from costs import LayerSpec, Scalar, macs, params, size_bits

ROOT = Path(__file__).parents[2]
VECTORS: list[dict[str, Any]] = json.loads(
    (ROOT / "tests" / "parity" / "cost_vectors.json").read_text()
)


def without_bias(layer: LayerSpec) -> LayerSpec:
    return replace(layer, bias=False)


# PLiNIO's models in terms of ours. Its `ops` counts the addition of a bias as a MAC at every output
# position, and its `params_bit` leaves out the 32 bits of a bias: we do neither.
MODELS: dict[str, Callable[[LayerSpec], Scalar]] = {
    "params": params,
    "params_no_bias": lambda layer: params(without_bias(layer)),
    "params_bit": lambda layer: size_bits(without_bias(layer)),
    "ops": lambda layer: macs(layer) + layer.positions * layer.num_biases,
    "ops_no_bias": macs,
}


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
        depthwise=1 < vector["groups"] == vector["cin"],
        bias=vector["bias"],
        w_bits=vector["w_bits"],
    )


def as_plinio_sees(vector: dict[str, Any]) -> LayerSpec:
    """Groups and the axes of a linear layer left out, except in depthwise 1-d and 2-d layers."""
    layer = as_layer(vector)
    recognised = layer.depthwise and vector["type"] in ("Conv1d", "Conv2d")
    if recognised and vector["cout"] == vector["cin"]:
        return layer
    out = () if vector["type"] == "Linear" else layer.out
    return replace(layer, groups=1, depthwise=False, out=out)


def name_of(vector: dict[str, Any]) -> str:
    kernel = "x".join(map(str, vector["kernel"]))
    shape = f"{vector['type']}_{vector['cin']}_{vector['cout']}_k{kernel}_g{vector['groups']}"
    return f"{vector['model']}_{shape}_w{vector['w_bits']}"


def differs(vector: dict[str, Any]) -> bool:
    ours, plinios = as_layer(vector), as_plinio_sees(vector)
    if vector["type"] == "Linear":
        return bool(ours.out) and vector["model"].startswith("ops")
    return float(ours.fan_in) != float(plinios.fan_in)


AGREEING = [vector for vector in VECTORS if not differs(vector)]
DIFFERING = [vector for vector in VECTORS if differs(vector)]

# What hardware does, by hand: stored weights, biases, and output positions of each layer above.
BY_HAND = {
    ("Conv2d", 16, 32, 4): (32 * 4 * 9, 32, 64),  # 4 of 16 input channels for each output
    ("Conv2d", 16, 32, 16): (32 * 1 * 9, 32, 64),  # a depth multiplier of 2
    ("Conv3d", 4, 4, 4): (4 * 1 * 27, 4, 64),  # depthwise over three axes
    ("Linear", 16, 16, 1): (16 * 16, 16, 7),  # 7 steps in time, each a matrix product
}


@pytest.mark.parametrize("vector", AGREEING, ids=name_of)
def test_costs_agree_with_plinio(vector: dict[str, Any]) -> None:
    value = MODELS[vector["model"]](as_layer(vector))
    assert float(value) == pytest.approx(vector["expected"], rel=1e-5)


@pytest.mark.parametrize("vector", AGREEING, ids=name_of)
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
def test_groups_and_time_steps_that_plinio_leaves_out_are_counted(vector: dict[str, Any]) -> None:
    weights, biases, positions = BY_HAND[
        vector["type"], vector["cin"], vector["cout"], vector["groups"]
    ]
    by_hand = {
        "params": weights + biases,
        "params_no_bias": weights,
        "params_bit": weights * vector["w_bits"],
        "ops": positions * (weights + biases),
        "ops_no_bias": positions * weights,
    }[vector["model"]]
    model = MODELS[vector["model"]]
    assert model(as_layer(vector)) == by_hand != vector["expected"]
    # Nothing else differs: blind to groups and time steps, our formula gives PLiNIO's number.
    assert float(model(as_plinio_sees(vector))) == pytest.approx(vector["expected"], rel=1e-5)


def test_biases_are_stored_but_adding_them_is_no_multiplication() -> None:
    layer = LayerSpec(name="c", op="conv", cin=3, cout=16, kernel=(3, 3), out=(32, 32), w_bits=2)
    assert size_bits(layer) == 864 + 32 * 16  # PLiNIO's params_bit: 864
    assert macs(layer) == 442368  # PLiNIO's ops: 458752


def test_every_difference_in_cost_names_a_test_that_exists() -> None:
    listed = tomllib.loads((ROOT / "tests" / "parity" / "differences.toml").read_text())
    tests = {entry["id"]: entry["test"] for entry in listed["difference"]}
    assert tests["B46"].endswith(
        test_groups_and_time_steps_that_plinio_leaves_out_are_counted.__name__
    )
    for test in tests.values():
        file, *names = test.split("::")
        if file.startswith("tests/costs/"):
            module = import_module(file.removesuffix(".py").replace("/", "."))
            assert callable(reduce(getattr, names, module)), test
