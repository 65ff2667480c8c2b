from __future__ import annotations

import linecache
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plinio_sweep.graph.surgery import cut
from plinio_sweep.graph.table import ChannelGroup, analyse_graph, analyze
from plinio_sweep.graph.trace import trace
from tests.graph.expected import FOLDED, KERNELS, TABLES
from tests.nets import CASES, Case

ZOO = Path(__file__).parents[1] / "zoo"


def with_source(reason: str) -> str:
    """`reason` with the source line that it points at instead of its number."""
    place = re.search(r"(\w+\.py):(\d+)$", reason)
    if place is None:
        return reason
    source = linecache.getline(str(ZOO / place[1]), int(place[2])).strip()
    return f"{reason[: place.start()]}`{source}`"


def described(group: ChannelGroup) -> str:
    made, read = " ".join(group.producers), " ".join(group.consumers) or "-"
    why = f" | {with_source(group.frozen)}" if group.frozen else ""
    return f"{group.name} {group.channels}: {made} > {read}{why}"


def test_every_net_of_the_zoo_has_an_expected_table() -> None:
    assert [case.name for case in CASES] == list(TABLES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
class TestZoo:
    def test_groups_are_as_expected(self, case: Case) -> None:
        _, table = analyze(case.build(), case.inputs())
        assert [described(group) for group in table.groups] == list(TABLES[case.name])
        assert {row.norm for row in table.rows} - {None} == FOLDED.get(case.name, set())
        kernels = tuple(f"{kernel.name} {kernel}" for kernel in table.kernels)
        assert kernels == KERNELS.get(case.name, ())

    def test_labels_are_contiguous_and_in_the_rows(self, case: Case) -> None:
        _, table = analyze(case.build(), case.inputs())
        labels = [label for group in table.groups for label in group.labels]
        assert labels == list(range(1, table.size))
        made = {int(label) for row in table.rows for label in row.cout}
        assert set(labels) <= made <= {0, *labels}
        for group in table.groups:
            assert bool(group.frozen) != bool(group.labels)
        for row in table.rows:
            if row.spec.op != "other":
                assert (row.spec.cin, row.spec.cout) == (len(row.cin), len(row.cout))

    def test_the_printed_table_is_the_same_every_time(self, case: Case) -> None:
        first = str(analyze(case.build(), case.inputs())[1])
        assert first == str(analyze(case.build(seed=3), case.inputs(3, seed=4))[1])
        groups, _, kernels = first.partition("\n\n")
        lines = groups.splitlines()
        assert lines[0].split() == ["group", "channels", "made", "by", "read", "by", "decision"]
        assert len(lines) == 1 + len(TABLES[case.name])
        for line, expected in zip(lines[1:], TABLES[case.name], strict=True):
            assert ("frozen: " in line) == (" | " in expected)
        words = [line.split(maxsplit=2)[::2] for line in kernels.splitlines()[1:]]
        assert [" ".join(pair) for pair in words] == list(KERNELS.get(case.name, ()))

    def test_the_net_and_the_random_state_are_left_alone(self, case: Case) -> None:
        net = case.build().train()
        before = {name: value.clone() for name, value in net.state_dict().items()}
        attributes = {name: set(vars(module)) for name, module in net.named_modules()}
        random = torch.random.get_rng_state()
        traced, _ = analyze(net, case.inputs())
        assert torch.equal(random, torch.random.get_rng_state())
        assert all(module.training for module in net.modules())
        assert attributes == {name: set(vars(module)) for name, module in net.named_modules()}
        after = net.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        own = {id(p) for p in net.parameters()}
        assert all(id(p) in own for p in traced.parameters())

    def test_a_batch_of_one_is_enough(self, case: Case) -> None:
        if case.name == "Squeeze":
            pytest.skip("drops the axis of a batch of one")
        _, table = analyze(case.build(), case.inputs(batch=1))
        assert [described(group) for group in table.groups] == list(TABLES[case.name])


class Wrapped(nn.Module):
    """`function` between two convolutions."""

    def __init__(self, function: object, channels: int = 6) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 1), nn.Conv2d(channels, 2, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.function(self.one(x)))  # type: ignore[operator]


def group_of(function: object, channels: int = 6) -> ChannelGroup:
    _, table = analyze(Wrapped(function, channels), torch.randn(2, 3, 8, 8))
    return next(group for group in table.groups if group.name == "one")


def test_a_constant_beside_the_channels_takes_no_part() -> None:
    assert group_of(lambda x: torch.cat([x, torch.ones(2, 2, 8, 8)], 1), 8).frozen is None


class Picked(nn.Module):
    """Channels chosen by an input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.two(torch.index_select(self.one(x), 1, index))


def test_channels_chosen_by_an_input_are_frozen() -> None:
    index = torch.tensor([5, 0, 3, 1])
    _, table = analyze(Picked(), (torch.randn(2, 3, 8, 8), index))
    reasons = {group.name: group.frozen for group in table.groups}
    assert reasons["one"] is not None
    assert re.fullmatch(r"reached by index_select at test_table\.py:\d+", reasons["one"])


class Elsewhere(Tensor):
    """An index on another device, of which one of labels, on the CPU, takes none."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.cpu:
            return args[0].as_subclass(Tensor)
        if func is torch.index_select and type(args[0]) is Tensor and args[0].dtype == torch.long:
            raise RuntimeError("Expected all tensors to be on the same device")
        return super().__torch_function__(func, types, args, kwargs)


class Reordered(nn.Module):
    """Channels in an order that a buffer holds, as surgery leaves them."""

    order: Tensor

    def __init__(self, kind: type[Tensor] = Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.register_buffer("order", torch.tensor([3, 0, 2, 1]).as_subclass(kind))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.index_select(self.one(x), 1, self.order))


def test_an_index_on_another_device_freezes_nothing() -> None:
    tables = [analyze(Reordered(kind), torch.randn(2, 3, 8, 8))[1] for kind in (Tensor, Elsewhere)]
    assert str(tables[1]) == str(tables[0])
    assert [group.name for group in tables[1].groups if not group.frozen] == ["one"]


def test_an_index_on_another_device_follows_a_cut() -> None:
    net, x = Reordered(Elsewhere).eval(), torch.randn(2, 3, 8, 8)
    analysis = analyse_graph(trace(net, (x,)), (x,))
    live = torch.ones(analysis.table.size, dtype=torch.bool)
    live[1] = False
    cut(analysis, live)
    assert analysis.net.get_submodule("two").in_channels == 3
    assert analysis.net(x).shape == (2, 2, 8, 8)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.size(1),
        lambda x: x / x.shape[1],
        lambda x: x + torch.arange(x.size(1)).view(1, -1, 1, 1),
        lambda x: x * torch.full((1,), x.size(1)),
        lambda x: x - torch.zeros(x.shape),
    ],
)
def test_a_number_that_a_cut_would_change_freezes(function: object) -> None:
    assert group_of(function).frozen is not None


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.size(2) ** -0.5,
        lambda x: x / x.shape[0],
        lambda x: x.to(x.dtype),
        lambda x: x + torch.arange(x.size(3), device=x.device),
        lambda x: x.view(x.size(0), x.size(1), -1).view(x.size(0), -1, 8, 8),
    ],
)
def test_sizes_of_other_axes_freeze_nothing(function: object) -> None:
    assert group_of(function).frozen is None


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (lambda x: torch.sort(x, 1)[0], "sort"),
        (lambda x: x.cumsum(1), "cumsum"),
        (lambda x: x.mean(x.dim() - 3, keepdim=True) + x, "mean"),
        (lambda x: 1 / (2 + x), "truediv"),
        (lambda x: nn.functional.pad(x, (0, 0, 0, 0, 1, 1))[:, 1:-1], "pad"),
    ],
)
def test_what_is_not_known_freezes_and_says_where(function: object, word: str) -> None:
    reason = group_of(function).frozen
    assert reason is not None
    assert re.fullmatch(rf"reached by {word} at test_table\.py:\d+", reason)


def test_a_norm_over_another_axis_does_not_fold() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    inputs = (torch.randn(2, 3, 4),)
    table = analyse_graph(trace(net, inputs), inputs, exclude_names=("0",)).table
    assert [row.norm for row in table.rows] == [None, None, None]


class AsksBetween(nn.Module):
    """Asks for a size between a layer and its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
        self.fc = nn.Linear(384, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        batch = x.size(0)
        return self.fc(self.norm(x).view(batch, -1))


def test_a_size_asked_between_a_layer_and_its_norm_does_not_part_them() -> None:
    _, table = analyze(AsksBetween(), torch.randn(2, 3, 8, 8))
    assert [row.norm for row in table.rows] == ["norm", None]


def test_tracing_leaves_no_constant_on_the_net() -> None:
    net = Wrapped(lambda x: torch.cat([x, torch.ones(2, 2, 8, 8)], 1), 8)
    before = set(vars(net))
    analyze(net, torch.randn(2, 3, 8, 8))
    assert set(vars(net)) == before


class Branching(nn.Module):
    """Looks at the values of its input."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class TwoModes(nn.Module):
    """Runs another layer in training."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) if self.training else self.two(x)


def test_a_branch_on_values_is_refused_with_its_line_and_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"does at test_table\.py:\d+ \(`if x\.sum") as caught:
        analyze(Branching(), torch.randn(2, 3))
    message = str(caught.value)
    assert type(caught.value).__name__ == "UntraceableError"
    assert all(way in message for way in ("torch.fx.wrap", "exclude_names", "functools.partial"))
    assert "\n" not in message


def test_a_branch_on_the_mode_is_refused_with_its_line_and_a_way_out() -> None:
    net = TwoModes()
    with pytest.raises(ValueError, match=r"from `one` at test_table\.py:\d+ on; name the module"):
        analyze(net, torch.randn(2, 3, 8, 8))
    assert net.training


def test_inputs_that_do_not_fit_forward_are_refused() -> None:
    with pytest.raises(TypeError, match=r"takes \['x'\], but got 2 input"):
        analyze(Branching(), (torch.randn(2, 3), torch.randn(2, 3)))
    with pytest.raises(TypeError, match="must be a tensor or a tuple of tensors, but got str"):
        analyze(Branching(), "image")  # type: ignore[arg-type]


def test_a_graph_is_taken_as_it_is() -> None:
    case = replace(CASES[0], name="graph")
    traced, first = analyze(case.build(), case.inputs())
    again, second = analyze(traced, case.inputs())
    assert str(first) == str(second)
    assert again is not traced
