from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from costs import macs, params
from plinio_sweep.graph.table import analyze
from plinio_sweep.methods.pit import GATES, PIT, Gate
from tests.contract.method_contract import assert_close, outputs
from tests.nets import randomize
from tests.zoo.programs import Program, programs


@pytest.mark.parametrize("gate", GATES)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(program=programs(), seed=st.integers(0, 9), shift=st.sampled_from((-1.0, -0.2, 0.0, 0.3)))
def test_a_random_net_exports_what_it_computes(
    gate: Gate, program: Program, seed: int, shift: float
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in program.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.reset_parameters()
        randomize(program)
        inputs = tuple(torch.randn(batch, 3, 8, 8) for batch in (2, 3))
        draw = torch.rand(64)
    net = program.eval()
    analyze(net, inputs[0])
    search = PIT(net, {"params": params, "macs": macs}, input_example=inputs[0], gate=gate)
    with torch.no_grad():
        decisions = search.decisions["channels"]
        decisions.copy_(draw[: len(decisions)] + shift)
    theta = search.theta(hard=True)
    exported = search.export()
    assert_close(outputs(search, inputs[1:], theta=theta), outputs(exported, inputs[1:]))
    again = PIT(exported, search.costs, input_example=inputs[0], gate=gate)
    for name in ("params", "macs"):
        assert again.get_cost(name).item() == search.get_cost(name, hard=True).item()
