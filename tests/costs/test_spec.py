from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from costs import CostModel, LayerSpec, Scalar, cost, expected, total

CONV = LayerSpec(name="conv", op="conv", cin=8, cout=12, kernel=(3, 5), out=(4, 6), stride=(1, 1))
CERTAIN = torch.ones((), dtype=torch.float64)


@cost(unit="channel")
def channels(layer: LayerSpec) -> Scalar:
    """Output channels."""
    return layer.cout


@cost(unit="channel", once=True)
def stored_channels(layer: LayerSpec) -> Scalar:
    return layer.cout


@cost(unit="bit")
def pair_bits(layer: LayerSpec) -> Scalar:
    return layer.x_bits * layer.w_bits


def slowest(costs: Tensor, probability: Tensor) -> Tensor:
    return (costs * probability).amax()


@cost(unit="cycle", combine=slowest)
def parallel_cycles(layer: LayerSpec) -> Scalar:
    return layer.w_bits


class Overhead:
    """A cost model without the decorator: a plug-in may carry settings of its own."""

    name = "overhead"
    unit = "cycle"
    once = False
    peak = False
    stacks = False
    combine = staticmethod(expected)

    def covers(self, layer: LayerSpec, /) -> bool:
        return True

    def __call__(self, layer: LayerSpec, /) -> Scalar:
        return 5


@pytest.mark.parametrize(
    ("changes", "fan_in", "num_weights", "num_biases"),
    [
        ({}, 8, 12 * 8 * 15, 12),
        ({"groups": 4}, 2, 12 * 2 * 15, 12),
        ({"groups": 8, "cin": 8, "cout": 16}, 1, 16 * 15, 16),
        ({"depthwise": True, "cout": 8, "groups": 8}, 1, 8 * 15, 8),
        ({"depthwise": True, "cin": 0, "cout": 0, "groups": 0}, 1, 0, 0),
        ({"bias": False}, 8, 12 * 8 * 15, 0),
        ({"op": "linear", "kernel": (), "out": ()}, 8, 96, 12),
        ({"op": "affine", "cin": 12, "kernel": ()}, 1, 12, 12),
        ({"op": "other", "kernel": ()}, 1, 12, 0),
        ({"op": "add", "kernel": ()}, 8, 0, 0),
        ({"op": "pool"}, 8, 0, 0),
    ],
)
def test_weights_follow_from_the_kind_of_layer(
    changes: dict[str, Any], fan_in: int, num_weights: int, num_biases: int
) -> None:
    layer = replace(CONV, **changes)
    assert layer.fan_in == fan_in
    assert layer.num_weights == num_weights
    assert layer.num_biases == num_biases


def test_layers_without_kernel_or_axes_have_one_tap_and_one_position() -> None:
    linear = LayerSpec(name="fc", op="linear", cin=4, cout=2)
    assert (linear.taps, linear.positions) == (1, 1)
    assert (CONV.taps, CONV.positions) == (15, 24)


def test_taps_are_differentiable_per_axis() -> None:
    kernel = torch.tensor([3.0, 2.5], requires_grad=True)
    taps = replace(CONV, kernel=(kernel[0], kernel[1])).taps
    assert isinstance(taps, Tensor)
    (slope,) = torch.autograd.grad(taps, kernel)
    assert slope.tolist() == [2.5, 3.0]


def test_a_layer_cannot_be_changed_and_travels_between_processes() -> None:
    with pytest.raises(FrozenInstanceError):
        CONV.cin = 3  # type: ignore[misc]
    twin = pickle.loads(pickle.dumps(CONV))
    assert (twin.name, twin.kernel, twin.num_weights) == ("conv", (3, 5), CONV.num_weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"op": "attention"}, r"`op` must be among .* but got 'attention' in layer 'conv'"),
        ({"cin": -1}, "`cin` must not be negative, but got cin=-1 in layer 'conv'"),
        ({"cout": float("nan")}, "`cout` must not be negative"),
        ({"kernel": (3, -5)}, r"`kernel` must not be negative, but got kernel=\(3, -5\)"),
        ({"out": (-1,)}, "`out` must not be negative"),
        ({"x_bits": -1}, "`x_bits` must not be negative"),
        ({"repeat": -1}, "`repeat` must not be negative"),
        ({"groups": 0}, "`groups` must be above 0"),
    ],
)
def test_impossible_layers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONV, **changes)


def test_a_decorated_function_is_a_cost_model_under_its_own_name() -> None:
    assert isinstance(channels, CostModel)
    assert (channels.name, channels.unit, channels.once) == ("channels", "channel", False)
    assert channels.__doc__ == "Output channels."
    assert inspect.signature(channels).return_annotation == "Scalar"
    assert "channels [channel]" in repr(channels)
    assert channels(CONV) == 12


def test_a_cost_model_is_shared_by_its_copies() -> None:
    assert pickle.loads(pickle.dumps(channels)) is channels
    assert copy.deepcopy({"pressure": channels})["pressure"] is channels
    assert copy.copy(channels) is channels
    with pytest.raises(FrozenInstanceError):
        channels.unit = "byte"


def test_a_cost_model_made_inside_a_function_can_be_copied_but_not_pickled() -> None:
    @cost(unit="channel")
    def local(layer: LayerSpec) -> Scalar:
        return layer.cin

    assert copy.deepcopy(local) is local
    with pytest.raises((pickle.PicklingError, AttributeError), match="<locals>"):
        pickle.dumps(local)


@pytest.mark.parametrize("unit", ["", "  "])
def test_a_cost_without_a_unit_is_refused(unit: str) -> None:
    with pytest.raises(ValueError, match=r"`unit` must not be empty, but got .* for 'channels'"):
        cost(unit=unit)(channels.function)


@settings(deadline=None)
@given(
    shares=st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
    costs=st.lists(st.floats(0, 1e6), min_size=3, max_size=3),
)
def test_the_expectation_lies_between_the_cheapest_and_the_dearest(
    shares: list[float], costs: list[float]
) -> None:
    probability = torch.tensor(shares, dtype=torch.float64)
    values = torch.tensor(costs, dtype=torch.float64)
    mean = expected(values, probability / probability.sum()).item()
    assert min(costs) - 1e-6 <= mean <= max(costs) + 1e-6


def test_total_weighs_every_pair_of_bit_widths() -> None:
    x_bits, w_bits = torch.tensor([[4.0], [8.0]]), torch.tensor([[2.0, 4.0, 8.0]])
    probability = torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.3, 0.4]], requires_grad=True)
    layer = replace(CONV, x_bits=x_bits, w_bits=w_bits)
    value = total(pair_bits, [(layer, probability)])
    assert value.item() == pytest.approx(0.1 * 8 + 0.2 * 16 + 0.3 * 32 + 0.4 * 64)
    (slope,) = torch.autograd.grad(value, probability)
    assert torch.equal(slope, x_bits * w_bits)


def test_total_uses_the_combination_of_the_model() -> None:
    layer = replace(CONV, w_bits=torch.tensor([[2.0, 8.0]]))
    assert total(parallel_cycles, [(layer, torch.tensor([[0.9, 0.1]]))]).item() == pytest.approx(
        1.8
    )


def test_total_counts_storage_once_and_work_at_every_call() -> None:
    calls = [(CONV, CERTAIN), (replace(CONV, repeat=1), CERTAIN)]
    assert total(stored_channels, calls).item() == 12
    assert total(channels, calls).item() == 24


def test_total_takes_any_object_with_the_protocol() -> None:
    assert total(Overhead(), iter([(CONV, CERTAIN)])).item() == 5


@cost(unit="byte", peak=True, covers=lambda layer: layer.op == "moment")
def memory(moment: LayerSpec) -> Scalar:
    return moment.cout


def test_the_dearest_moment_is_what_a_net_needs_and_those_close_behind_press_too() -> None:
    sizes = torch.tensor([10.0, 9.0, 1.0], requires_grad=True)
    moments = [
        (LayerSpec(name=f"{i}", op="moment", cin=0, cout=size), CERTAIN)
        for i, size in enumerate(sizes)
    ]
    value = total(memory, moments)
    assert value.item() == 10
    (slopes,) = torch.autograd.grad(value, sizes)
    assert slopes.sum().item() == pytest.approx(1)
    assert slopes[0] > slopes[1] > 0.25 and slopes[2] < 1e-3


def test_a_layer_that_a_model_does_not_cover_is_free() -> None:
    assert memory(CONV) == 0
    assert total(memory, [(CONV, CERTAIN)]).item() == 0


def test_total_of_nothing_is_zero() -> None:
    value = total(channels, [])
    assert (value.item(), value.shape, value.is_floating_point()) == (0, (), True)


@pytest.mark.parametrize("count", [2**24 + 1, 2**40 + 1])
def test_total_of_plain_numbers_is_exact_beyond_single_precision(count: int) -> None:
    layers = [(replace(CONV, cout=count), torch.tensor(1.0)), (CONV, torch.tensor(1.0))]
    assert total(channels, layers).item() == count + 12


def test_total_of_numbers_and_tensors_keeps_the_numbers_exact() -> None:
    layers = [replace(CONV, cout=cout) for cout in (2**24 + 1, torch.tensor(1.0))]
    value = total(channels, [(layer, torch.tensor(1.0)) for layer in layers])
    assert value.item() == 2**24 + 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_total_keeps_the_precision_of_the_counts(dtype: torch.dtype) -> None:
    layer = replace(CONV, cout=torch.tensor(3.5, dtype=dtype))
    value = total(channels, [(layer, torch.ones((1, 1), dtype=dtype))] * 2)
    assert (value.dtype, value.shape, value.item()) == (dtype, (), 7)


def test_total_of_whole_number_tensors_is_floating() -> None:
    value = total(channels, [(replace(CONV, cout=torch.tensor(7)), torch.tensor(1))])
    assert value.is_floating_point()
    assert value.item() == 7


def test_total_runs_over_lanes_of_a_vmap() -> None:
    def net_cost(keep: Tensor) -> Tensor:
        layer = replace(CONV, cout=12 * keep, w_bits=torch.tensor([[4.0, 8.0]]))
        return total(channels, [(layer, torch.tensor([[0.5, 0.5]]))])

    keep = torch.tensor([0.0, 0.5, 1.0])
    assert torch.func.vmap(net_cost)(keep).tolist() == [0, 6, 12]
    assert torch.func.vmap(torch.func.grad(net_cost))(keep).tolist() == [12, 12, 12]


@pytest.mark.parametrize("shape", [(), (2, 1), (1, 2), (3,)])
def test_candidates_without_a_share_are_refused(shape: tuple[int, ...]) -> None:
    layer = replace(CONV, x_bits=torch.tensor([[4.0], [8.0]]), w_bits=torch.ones(1, 3))
    with pytest.raises(ValueError, match="`probability` must have one entry per candidate"):
        total(pair_bits, [(layer, torch.ones(shape))])


def test_a_combination_to_more_than_one_number_is_refused() -> None:
    @cost(unit="bit", combine=torch.mul)
    def uncombined(layer: LayerSpec) -> Scalar:
        return layer.w_bits

    with pytest.raises(ValueError, match=r"`combine` must return one number.*'uncombined'"):
        total(uncombined, [(CONV, torch.ones(1, 2))])
