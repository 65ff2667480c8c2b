"""Where activations are rounded, with which sign, and what shares a quantiser or a bit-width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plinio_sweep.graph.sites import Sites
from plinio_sweep.methods.mps import MPS
from tests.nets import NETS

Net = Callable[[Any, Tensor], Tensor]


class Between(nn.Module):
    """A net whose forward pass is a function of its layers `a`, `b` and `c` and its input."""

    def __init__(self, run: Net) -> None:
        super().__init__()
        self.run = run
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
        self.wide, self.gate = nn.Conv2d(8, 2, 1), nn.Conv2d(3, 4, 1)
        self.inplace, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def search(run: Net, **given: Any) -> MPS:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MPS(Between(run).eval(), input_shape=(3, 8, 8), **given)


def described(sites: Sites) -> list[str]:
    """One word for each quantiser but that of the input: "relu+b" where it rounds two values."""
    return [
        ("-" if plan.signed else "") + "+".join(plan.nodes)
        for plan in sites.quantizers
        if not plan.measured
    ]


# What is rounded, a minus before what has a sign.
NETS_AND_SITES: dict[str, tuple[Net, list[str]]] = {
    "linear bottleneck": (lambda n, x: n.c(n.a(x)), ["-a"]),
    "relu": (lambda n, x: n.c(F.relu(n.a(x))), ["relu"]),
    "relu in place": (lambda n, x: n.c(n.inplace(n.a(x))), ["inplace"]),
    "relu6": (lambda n, x: n.c(F.relu6(n.a(x))), ["relu6"]),
    "leaky relu": (lambda n, x: n.c(F.leaky_relu(n.a(x))), ["-a", "-leaky_relu"]),
    "sigmoid gate": (
        lambda n, x: n.c(n.a(x) * torch.sigmoid(n.gate(x))),
        ["-a", "-gate", "sigmoid", "-mul"],
    ),
    "gate of what is positive": (
        lambda n, x: n.c(F.relu(n.a(x)) * torch.sigmoid(n.gate(x))),
        ["relu", "-gate", "sigmoid", "mul"],
    ),
    "residual": (
        lambda n, x: n.c(F.relu(n.a(x) + n.b(F.relu(n.gate(x))))),
        ["-a", "relu", "-b", "relu_1"],
    ),
    "residual without relu": (lambda n, x: n.c(n.a(x) + n.gate(x)), ["-a", "-gate", "-add"]),
    "concat": (lambda n, x: n.wide(torch.cat([F.relu(n.a(x)), n.gate(x)], 1)), ["-relu+gate"]),
    "positive concat": (
        lambda n, x: n.wide(torch.cat([F.relu(n.a(x)), F.relu(n.gate(x))], 1)),
        ["relu+relu_1"],
    ),
    "max pool before relu": (lambda n, x: n.c(F.relu(F.max_pool2d(n.a(x), 2))), ["relu"]),
    "max pool after relu": (lambda n, x: n.c(F.max_pool2d(F.relu(n.a(x)), 2)), ["max_pool2d"]),
    "average pool": (lambda n, x: n.c(F.avg_pool2d(F.relu(n.a(x)), 2)), ["relu", "avg_pool2d"]),
    "average of both signs": (lambda n, x: n.c(F.avg_pool2d(n.a(x), 2)), ["-a", "-avg_pool2d"]),
    "dropout": (lambda n, x: n.c(n.dropout(F.relu(n.a(x)))), ["relu"]),
    "moved": (lambda n, x: n.c(F.relu(n.a(x)).flip(1).transpose(2, 3)), ["relu"]),
    "padded with zeros": (lambda n, x: n.c(F.pad(F.relu(n.a(x)), (1, 1))), ["relu"]),
    "padded with ones": (
        lambda n, x: n.c(F.pad(F.relu(n.a(x)), (1, 1), value=1.0)),
        ["relu", "-pad"],
    ),
    "several readers": (
        lambda n, x: (lambda y: n.b(F.relu(y)) + n.b(y.abs()))(n.a(x)),
        ["-a+abs_1", "-b", "-b_1"],
    ),
    "called twice": (lambda n, x: n.b(F.relu(n.b(F.relu(n.a(x))))), ["relu+relu_1"]),
    "read by the output, too": (lambda n, x: n.b(n.a(x)), ["-a"]),
}


@pytest.mark.parametrize("name", NETS_AND_SITES)
def test_values_are_rounded_behind_their_activation_with_the_sign_of_the_graph(name: str) -> None:
    run, expected = NETS_AND_SITES[name]
    assert described(search(run).sites) == expected


@pytest.mark.parametrize("name", NETS_AND_SITES)
def test_signs_are_those_that_the_values_have(name: str) -> None:
    """What is called positive never is below zero: nothing is lost to a missing sign."""
    model = search(NETS_AND_SITES[name][0])
    seen: dict[str, Tensor] = {}
    for plan in model.sites.quantizers:
        model.net.get_submodule(plan.name).register_forward_pre_hook(
            lambda module, given, plan=plan: seen.update({plan.name: given[0]})
        )
    model(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    for plan in model.sites.quantizers:
        clipped = any(word in plan.nodes[0] for word in ("relu", "inplace"))  # rounding does it
        signed = plan.signed or plan.measured
        assert signed or clipped or bool((seen[plan.name] >= 0).all())


@pytest.mark.parametrize("name", ["relu", "residual", "linear bottleneck"])
def test_what_the_net_returns_is_rounded_by_a_setting_only(name: str) -> None:
    run, inside = NETS_AND_SITES[name]
    assert described(search(run, quantize_outputs=True).sites) == [*inside, "-c"]


def test_an_output_that_is_read_inside_is_returned_as_it_is() -> None:
    def both(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = net.a(x)
        return y, net.c(y)

    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for outputs, few_values in ((False, False), (True, True)):
        model = search(both, quantize_outputs=outputs, x_bits=(2,))
        first, _ = model(x)
        assert (len(torch.unique(first)) <= 4) == few_values


def test_a_relu_before_a_quantiser_without_a_sign_is_part_of_it() -> None:
    def kinds(run: Net) -> list[Any]:
        return [node.target for node in search(run).net.graph.nodes]

    assert F.relu not in kinds(NETS_AND_SITES["relu"][0])
    assert "inplace" not in kinds(NETS_AND_SITES["relu in place"][0])
    assert F.relu in kinds(NETS_AND_SITES["concat"][0])
    assert F.relu6 in kinds(NETS_AND_SITES["relu6"][0])


@pytest.mark.parametrize(
    ("name", "together", "apart"),
    [
        pytest.param("residual", {"a", "b"}, {"relu", "relu_1"}, id="add"),
        pytest.param("concat", {"relu", "gate"}, set(), id="concat"),
        pytest.param("called twice", {"relu", "relu_1"}, set(), id="called twice"),
        pytest.param("sigmoid gate", set(), {"a", "gate", "sigmoid"}, id="product"),
    ],
)
def test_bit_widths_are_decided_together_where_values_meet(
    name: str, together: set[str], apart: set[str]
) -> None:
    sites = search(NETS_AND_SITES[name][0]).sites
    decision = {node: plan.decision for plan in sites.quantizers for node in plan.nodes}
    assert len({decision[node] for node in together}) <= 1
    others = [number for node, number in decision.items() if node not in together]
    assert len(set(others)) == len(others)
    assert apart <= decision.keys()
    assert sites.decisions == len(set(decision.values()))


def test_operands_of_an_addition_keep_ranges_of_their_own_and_those_of_a_concat_share_one() -> None:
    added = search(NETS_AND_SITES["residual"][0]).sites
    assert all(len(plan.nodes) == 1 for plan in added.quantizers)
    joined = search(NETS_AND_SITES["concat"][0])
    assert len(joined.log_clip) == len(joined.sites.quantizers) == 2
    names = [m for m, _ in joined.net.named_modules() if m.startswith("quantizer")]
    assert len(names) == 2


def test_layers_read_and_write_the_quantisers_around_them() -> None:
    sites = search(NETS_AND_SITES["residual"][0]).sites
    at = {node: i for i, plan in enumerate(sites.quantizers) for node in plan.nodes}
    assert sites.reads == {"a": at["x"], "gate": at["x"], "b": at["relu"], "c": at["relu_1"]}
    assert sites.writes == {"a": at["a"], "gate": at["relu"], "b": at["b"]}


@pytest.mark.parametrize(("shift", "signed"), [(0.0, 1.0), (100.0, 0.0)])
def test_b13_the_sign_of_an_input_is_measured(shift: float, signed: float) -> None:
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    net = Between(NETS_AND_SITES["relu"][0])
    model = MPS(net, input_example=5 * x + shift)
    assert model.sites.quantizers[0].measured
    assert model.signed[0] == signed
    for data, sign in ((x.abs(), 0.0), (x, 1.0)):
        model.prepare([(data,)])
        assert model.signed[0] == sign
        assert model.net.get_submodule("quantizer_x").signed == bool(sign)


def test_ranges_behind_an_input_are_those_of_its_new_sign() -> None:
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    net = Between(NETS_AND_SITES["residual"][0])
    model = MPS(net, input_example=x.abs())
    model.prepare([(x,)])
    assert torch.equal(model.log_clip, MPS(net, input_example=x).log_clip)


def test_averages_of_an_input_have_the_sign_that_its_data_have() -> None:
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = MPS(Between(lambda n, x: n.a(F.avg_pool2d(x, 2))), input_example=x.abs())
    assert [plan.measured for plan in model.sites.quantizers] == [True, True]
    assert model.signed.tolist() == [0.0, 0.0]
    model.prepare([(x,)])
    assert model.signed.tolist() == [1.0, 1.0]


def test_every_input_has_a_quantiser_of_its_own_and_whole_numbers_have_none() -> None:
    def inputs(name: str) -> list[str]:
        case = NETS[name]
        model = MPS(case.build(), input_example=case.inputs())
        return [plan.nodes[0] for plan in model.sites.quantizers if plan.measured]

    assert inputs("SeveralInputs") == ["image", "numbers"]
    assert inputs("Words") == []


def test_the_table_of_sites_names_nodes_signs_and_company() -> None:
    lines = str(search(NETS_AND_SITES["residual"][0]).sites).splitlines()
    assert lines[0].split() == ["quantiser", "of", "sign", "bit-width", "decided", "with"]
    assert [line.split() for line in lines[1:4]] == [
        ["x", "measured", "-"],
        ["a", "signed", "b"],
        ["relu", "unsigned", "-"],
    ]
