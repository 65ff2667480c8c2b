"""What is in memory when: small nets counted on paper, and the zoo against what it allocates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from costs import assume_bits, peak_activation_bytes
from plinio_sweep.graph.count import cost_of
from plinio_sweep.graph.memory import Memory
from plinio_sweep.graph.table import analyse_graph
from plinio_sweep.graph.trace import as_inputs, trace
from tests.nets import CASES, NETS, Case

IMAGE = torch.zeros(2, 4, 8, 8)
PLANE = 64  # positions of IMAGE


def moments(net: nn.Module, example: Tensor = IMAGE) -> dict[str, float]:
    """Live elements of one input, by operation."""
    inputs = as_inputs(example)
    memory = Memory(analysis := analyse_graph(trace(net, inputs), inputs))
    sizes = memory.sizes(torch.ones(analysis.table.size))
    return {moment.name: float(moment.cout) for moment in memory.moments(sizes)}


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def test_a_layer_needs_its_input_and_its_output() -> None:
    net = nn.Sequential(conv(4, 16), conv(16, 2))
    assert moments(net) == {"input_1": 4 * PLANE, "_0": 20 * PLANE, "_1": 18 * PLANE}


@pytest.mark.parametrize("inplace", [False, True])
def test_an_activation_and_a_norm_run_in_place(inplace: bool) -> None:
    net = nn.Sequential(conv(4, 16), nn.BatchNorm2d(16), nn.ReLU(inplace=inplace), conv(16, 2))
    assert max(moments(net).values()) == 20 * PLANE
    assert len(moments(net)) == 3


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(4, 8), conv(8, 8)


class Residual(Wide):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.second(F.relu(x))


class InPlaceResidual(Wide):
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.second(F.relu(x))
        return y.add_(x)


class Joined(Wide):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.second(y)
        return torch.cat([x, y, z], 1)


class Views(Wide):
    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, 1)
        return left.flatten(1).unsqueeze(-1) * right.flatten(1).unsqueeze(-1)


class Padded(Wide):
    """A padding that a layer reads, and one that the output shows."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.pad(F.pad(self.first(x), (-1, -1, -1, -1))))
        return self.pad(x)


class Unread(Wide):
    def forward(self, x: Tensor) -> Tensor:
        self.second(self.first(x))
        return self.first(x)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        # The activation of what is added later has a place of its own.
        (Residual, {"first": 12, "relu": 16, "second": 24, "add": 24}),
        (InPlaceResidual, {"first": 12, "relu": 16, "second": 24}),
        # The input and the first result wait for the concatenation, which copies.
        (Joined, {"first": 12, "second": 20, "cat": 40}),
        # Both halves lie where the convolution put them.
        (Views, {"first": 12, "mul": 12}),
        # A layer pads as it goes; what the net returns is really padded: 10 by 10 positions.
        (Padded, {"first": 12, "second": 16, "pad_2": 8 + 8 * 100 / 64}),
        (Unread, {"first": 12, "second": 20, "first_1": 12}),
    ],
)
def test_what_waits_for_later_operations_stays(
    make: type[Wide], expected: dict[str, float]
) -> None:
    found = moments(make())
    assert found.pop("x") == 4 * PLANE
    assert found == {name: channels * PLANE for name, channels in expected.items()}


def test_a_table_shows_each_layer_with_what_is_live_and_the_peak_as_total() -> None:
    models = {"peak": assume_bits(peak_activation_bytes, w=8, x=8)}
    report = cost_of(Residual(), IMAGE, models)
    assert [row["peak"] for row in report.layers] == [12 * PLANE, 24 * PLANE]
    assert report.totals == {"peak": 24 * PLANE}
    assert cost_of(Joined(), IMAGE, models).totals == {"peak": 40 * PLANE}


def test_a_float_activation_has_four_bytes() -> None:
    net = nn.Sequential(nn.Linear(10, 3))
    report = cost_of(net, torch.zeros(2, 10), {"peak": peak_activation_bytes})
    assert report.totals == {"peak": 4 * 13}


def test_a_batch_of_one_counts_like_any_other() -> None:
    peaks = [
        cost_of(Residual(), IMAGE[:1].repeat(n, 1, 1, 1), {"p": peak_activation_bytes}).totals
        for n in (1, 2, 5)
    ]
    assert peaks[0] == peaks[1] == peaks[2]


def test_several_inputs_are_there_from_the_start() -> None:
    case = NETS["SeveralInputs"]
    found = cost_of(case.build(), case.inputs(), {"peak": peak_activation_bytes})
    given = sum(value[0].numel() for value in case.inputs())
    assert found.totals["peak"] > 4 * given


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_net_needs_what_its_largest_unpadded_layer_reads_and_gives(
    case: Case,
) -> None:
    net = case.build()
    largest = 0
    paddings: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        paddings.append(output)

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal largest
        if any(inputs[0] is padded for padded in paddings):
            return  # a layer pads as it goes
        largest = max(largest, sum(t[0].numel() for t in (*inputs, output)))

    for module in net.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            module.register_forward_hook(watch)
        elif "Pad" in type(module).__name__:
            module.register_forward_hook(note)
    net(*case.inputs())
    for module in net.modules():
        module._forward_hooks.clear()
    report = cost_of(net, case.inputs(), {"peak": peak_activation_bytes})
    assert report.totals["peak"] >= 4 * largest
