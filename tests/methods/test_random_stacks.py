from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from costs import macs, params
from plinio_sweep.methods.pit import PIT, PITSettings
from tests.contract.method_contract import assert_close, count_macs, outputs
from tests.examples import heavy
from tests.nets import randomize
from tests.zoo.stacks import LENGTH, Stack, stacks

RECORDS = (
    PITSettings(),
    PITSettings(channels=False, fold=True, unfold=True),
    PITSettings(gate="consumer", fold=True),
)


@pytest.mark.parametrize("record", RECORDS, ids=["both", "taps", "folded"])
@heavy(
    60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(net=stacks(), seed=st.integers(0, 9), share=st.sampled_from((0.0, 0.3, 0.6, 1.0)))
def test_a_random_stack_exports_what_it_computes(
    record: PITSettings, net: Stack, seed: int, share: float
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inputs = tuple(torch.randn(batch, 3, LENGTH) for batch in (2, 3))
        for module in net.modules():
            if isinstance(module, torch.nn.Conv1d | torch.nn.Linear):
                module.reset_parameters()
        randomize(net.eval())
        search = record.open(net, inputs[:1], {"params": params, "macs": macs})
        with torch.no_grad():
            for decision in search.nas_parameters():
                decision.copy_(torch.rand(decision.shape) * (torch.rand(decision.shape) < share))
    assert_close(outputs(search, inputs[1:]), outputs(search.export(), inputs[1:]))
    exported = search.export()
    again = PIT(exported, search.costs, input_example=inputs[0])
    for name in ("params", "macs"):
        assert again.get_cost(name).item() == search.get_cost(name, hard=True).item()
    layers = [p for p in again.layers(again.theta()) if p[0].op in ("conv", "linear")]
    assert sum(macs(spec) for spec, _ in layers) == count_macs(exported, inputs[:1])
