"""Nets that nobody thought of: what is exported computes and costs what the search said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from costs import MODELS, LayerSpec, Scalar, assume_bits, cost, macs, params, size_bits, total
from plinio_sweep.graph.table import analyze
from plinio_sweep.methods.candidates import PER, Per
from plinio_sweep.methods.mps import MPSSettings
from plinio_sweep.methods.pit import GATES, Gate, PITSettings
from plinio_sweep.methods.search import Method
from plinio_sweep.methods.supernet import SuperNetSettings
from tests.contract.method_contract import assert_close, outputs
from tests.examples import heavy
from tests.nets import randomize
from tests.zoo.programs import Program, programs

COSTS = {"params": params, "macs": macs, "size_bits": size_bits}


@cost(unit="cycle", covers=lambda layer: layer.op == "conv")
def tiled_cycles(layer: LayerSpec) -> Scalar:
    """A model that looks at one layer at a time: at its name, and at sizes in conditions."""
    first = 2 if layer.name.startswith("layers.0") else 1
    return first * layer.num_weights * (4 if layer.positions > 32 else 1)


EVERY = {
    name: assume_bits(model, w=8, x=8) for name, model in {**MODELS, "own": tiled_cycles}.items()
}
EVERY_METHOD: tuple[Method, ...] = (
    PITSettings(),
    SuperNetSettings(sampling="softmax"),
    MPSSettings(w_bits=(0, 2, 8), x_bits=(8,)),
    MPSSettings(w_bits=(2, 8), x_bits=(8,), per="layer"),
)
SEEDS = st.integers(0, 9)
SHIFTS = st.sampled_from((-1.0, -0.2, 0.0, 0.3))
PLAIN = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


def check(
    method: Method,
    program: Program,
    seed: int,
    shift: float,
    dtype: torch.dtype = torch.float32,
) -> torch.nn.Module:
    """One random decision of `method` on `program`: the export, compared and counted anew."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in program.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.reset_parameters()
        randomize(program)
        inputs = tuple(torch.randn(batch, 3, 8, 8).to(dtype) for batch in (2, 3))
    net = program.eval().to(dtype)
    analyze(net, inputs[0])
    search = method.open(net, inputs[:1], COSTS)
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for decision in search.nas_parameters():
            decision.copy_(torch.rand(decision.shape, generator=numbers) + shift)
    theta = search.theta(hard=True)
    exported = search.export()
    assert_close(outputs(search, inputs[1:], theta=theta), outputs(exported, inputs[1:]))
    again = method.open(exported, inputs[:1], COSTS)
    for name in COSTS:
        assert again.get_cost(name).item() == search.get_cost(name, hard=True).item()
    return exported


@pytest.mark.parametrize("gate", GATES)
@heavy(50, **PLAIN)
@given(program=programs(), seed=SEEDS, shift=SHIFTS)
def test_a_pruned_random_net_computes_and_costs_what_the_search_said(
    gate: Gate, program: Program, seed: int, shift: float
) -> None:
    check(PITSettings(gate=gate), program, seed, shift)


@heavy(50, **PLAIN)
@given(program=programs(length=7, choices=True), seed=SEEDS, shift=SHIFTS)
def test_a_decided_random_net_does_and_is_pruned_after_that(
    program: Program, seed: int, shift: float
) -> None:
    exported = check(SuperNetSettings(), program, seed, shift)
    check(PITSettings(), exported, seed, shift)


@pytest.mark.parametrize("per", PER)
@heavy(25, **PLAIN)
@given(program=programs(), seed=SEEDS)
def test_a_rounded_random_net_computes_and_costs_what_the_search_said(
    per: Per, program: Program, seed: int
) -> None:
    widths = (0, 2, 8) if per == "channel" else (2, 8)
    method = MPSSettings(w_bits=widths, x_bits=(4, 8), per=per)
    # In single precision a sum in another order can move a value across a rounding edge.
    exported = check(method, program, seed, 0.0, torch.float64)
    check(PITSettings(), exported, seed, 0.0, torch.float64)


@pytest.mark.parametrize("method", EVERY_METHOD, ids=["pit", "supernet", "mps", "layers"])
@heavy(20, **PLAIN)
@given(program=programs(length=7, choices=True), seed=SEEDS)
def test_costs_are_those_of_layer_by_layer(method: Method, program: Program, seed: int) -> None:
    search = method.open(program, (torch.zeros(2, 3, 8, 8),), EVERY)
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for decision in search.nas_parameters():
            decision.copy_(torch.rand(decision.shape, generator=numbers))
    theta = search.theta()
    layers, moments = list(search.layers(theta)), list(search.moments(theta))
    decisions = list(search.nas_parameters())
    for name, found in search.get_costs().items():
        expected = total(EVERY[name], moments if EVERY[name].peak else layers)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0, check_dtype=False)
        assert found.requires_grad == expected.requires_grad
        if found.requires_grad:
            slopes, wanted = (
                torch.autograd.grad(value, decisions, retain_graph=True, materialize_grads=True)
                for value in (found, expected)
            )
            for own, other in zip(slopes, wanted, strict=True):
                scale = other.abs().max().item() if other.numel() else 0
                torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6 * scale)
