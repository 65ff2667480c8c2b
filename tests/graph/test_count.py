from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from costs import COUNTS, macs, params, size_bytes
from plinio_sweep.graph.count import cost_of
from plinio_sweep.graph.trace import UntraceableError
from tests.nets import CASES, NETS, Case
from tests.studies.tiny import TinyNet

IMAGES = torch.zeros(2, 1, 6, 6)


def test_a_net_on_paper() -> None:
    report = cost_of(TinyNet(), IMAGES, {"params": params, "macs": macs})
    # Norms fold into their convolutions, where their shift is a bias.
    assert report.totals == {
        "params": (54 + 6) + (432 + 8) + (16 + 2),
        "macs": 54 * 36 + 432 * 36 + 16,
    }
    assert report.units == {"params": params.unit, "macs": macs.unit}
    assert [(row["name"], row["op"]) for row in report.layers] == [
        ("first", "conv"),
        ("second", "conv"),
        ("classifier", "linear"),
    ]
    assert report.uncovered == {}


def test_a_weight_has_32_bit() -> None:
    report = cost_of(TinyNet(), IMAGES, {"params": params, "size_bytes": size_bytes})
    assert report.totals["size_bytes"] == 4 * report.totals["params"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_totals_are_the_sums_of_layers_and_the_net_is_as_it_was(case: Case) -> None:
    net = case.build()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    report = cost_of(net, case.inputs(), COUNTS)
    for name in COUNTS:
        assert report.totals[name] == pytest.approx(sum(row[name] for row in report.layers))
    assert not net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_bare_layer_is_a_net_of_one_layer() -> None:
    report = cost_of(nn.Linear(4, 2), torch.zeros(2, 4), {"macs": macs, "params": params})
    assert report.totals == {"macs": 8, "params": 10}
    assert [row["op"] for row in report.layers] == ["linear"]


def test_a_layer_that_no_formula_covers_is_named() -> None:
    case = NETS["Recurrent"]
    report = cost_of(case.build(), case.inputs(), COUNTS)
    assert list(report.uncovered) == ["macs"]
    assert set(report.uncovered["macs"]) <= {row["name"] for row in report.layers}


def test_a_net_that_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UntraceableError):
        cost_of(Branching(), IMAGES, COUNTS)
