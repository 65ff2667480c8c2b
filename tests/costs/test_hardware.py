"""The models of hardware: the contract, with counts that walk over tiles one by one.

The walks here and the formulas of the library have no line in common: a tile is one turn of a loop.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from costs import (
    CostModel,
    LayerSpec,
    Scalar,
    diana_cycles,
    gap8_cycles,
    mpic_cycles,
    mpic_energy,
    ne16_cycles,
    total,
)
from tests.contract.cost_contract import LAYERS, CostContract

CONV = LayerSpec(
    name="conv", op="conv", cin=16, cout=32, kernel=(3, 3), out=(9, 9), w_bits=8, x_bits=8
)
# Sizes at which tiles are full, nearly empty, and more than one.
EDGES: tuple[LayerSpec, ...] = (
    *LAYERS,
    replace(CONV, name="several_tiles", cin=20, cout=45, out=(13, 7)),
    replace(CONV, name="pointwise_tiles", cin=40, cout=33, kernel=(1, 1), out=(25, 13)),
    replace(CONV, name="depthwise_tiles", cin=40, cout=40, groups=40, depthwise=True),
    replace(CONV, name="wide", cin=600, cout=700, out=(4, 4)),
    LayerSpec(name="long_linear", op="linear", cin=130, cout=70, out=(5,), w_bits=8, x_bits=8),
)


def tiles(size: int, step: int) -> list[int]:
    """The extent of each tile."""
    return [min(step, size - start) for start in range(0, size, step)]


def whole(value: Scalar) -> int:
    assert float(value).is_integer()
    return int(value)


def groups_of(layer: LayerSpec) -> Iterable[tuple[int, int]]:
    """Input and output channels of the convolution of each group."""
    groups = whole(layer.groups)
    return [(whole(layer.cin) // groups, whole(layer.cout) // groups)] * groups


def straight(value: Scalar, at: Scalar, step: float) -> Scalar:
    """The line of slope `1 / step` through the number of tiles at `at`."""
    return math.ceil(float(at) / step) + (value - float(at)) / step


Tangent = Callable[[LayerSpec], Callable[[LayerSpec], Scalar]]

# -- MPIC -----------------------------------------------------------------------------------------

RATES = {(4, 2): 3.9, (4, 4): 3.5, (4, 8): 2.1, (8, 2): 2.5, (8, 4): 2.3, (8, 8): 2.1}


def mpic_by_loops(layer: LayerSpec) -> float:
    if layer.op not in ("conv", "linear"):
        return 0
    taps = 1
    for size in layer.kernel:
        taps *= whole(size)
    count = 0
    for cin, cout in groups_of(layer):
        for _ in range(cout):
            count += cin * taps + layer.bias
    for size in layer.out:
        count *= size
    return count / RATES[whole(layer.x_bits), whole(layer.w_bits)]


class TestMpicCycles(CostContract):
    layers = EDGES

    @pytest.fixture
    def model(self) -> CostModel:
        return mpic_cycles

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        return mpic_by_loops

    def test_a_width_costs_more_the_wider_it_is(self) -> None:
        x_bits = torch.linspace(2, 8, 13, dtype=torch.float64)[:, None]
        w_bits = torch.linspace(0, 8, 33, dtype=torch.float64)[None, :]
        costs = torch.as_tensor(mpic_cycles(replace(CONV, x_bits=x_bits, w_bits=w_bits)))
        assert (costs.diff(dim=0) >= 0).all() and (costs.diff(dim=1) >= 0).all()
        assert (costs[:, 0] == 0).all()

    def test_a_width_can_be_learnt(self) -> None:
        bits = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
        value = torch.as_tensor(mpic_cycles(replace(CONV, w_bits=bits)))
        (slope,) = torch.autograd.grad(value, bits)
        ends = [float(mpic_cycles(replace(CONV, w_bits=width))) for width in (2, 4)]
        assert value.item() == pytest.approx(sum(ends) / 2)
        assert slope.item() == pytest.approx((ends[1] - ends[0]) / 2)


class TestMpicEnergy(CostContract):
    layers = EDGES

    @pytest.fixture
    def model(self) -> CostModel:
        return mpic_energy

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        return lambda layer: mpic_by_loops(layer) / 250e6 * 5.3825e-3


# -- GAP8 -----------------------------------------------------------------------------------------


def gap8_by_loops(layer: LayerSpec) -> float:
    if layer.op == "linear":
        pairs = [(i, o) for i in tiles(whole(layer.cin), 2) for o in tiles(whole(layer.cout), 4)]
        return len(pairs) * (layer.out[0] if layer.out else 1)
    if layer.op != "conv" or len(layer.out) != 2:
        return 0
    height, width = layer.out
    taps = whole(layer.kernel[0]) * whole(layer.kernel[1])
    if layer.depthwise:
        return sum(4 * taps * height * width for _ in tiles(whole(layer.cout), 4))
    cycles = 0
    for cin, cout in groups_of(layer):
        for _ in tiles(height, 2):
            for _ in tiles(width, 8):
                cycles += 2 * taps * cin
                cycles += sum(15 + 14 * len(tiles(taps * cin, 4)) for _ in tiles(cout, 4))
    return cycles


def gap8_tangent(at: LayerSpec) -> Callable[[LayerSpec], Scalar]:
    def smooth(layer: LayerSpec) -> Scalar:
        if layer.op == "linear":
            inputs = straight(layer.cin, at.cin, 2)
            return layer.positions * inputs * straight(layer.cout, at.cout, 4)
        if layer.op != "conv" or len(layer.out) != 2:
            return 0
        if layer.depthwise:
            return 4 * straight(layer.cout, at.cout, 4) * layer.positions * layer.taps
        column, column_at = layer.fan_in * layer.taps, at.fan_in * at.taps
        tile = len(tiles(layer.out[0], 2)) * len(tiles(layer.out[1], 8))
        steps = straight(layer.cout / layer.groups, at.cout / at.groups, 4)
        product = 15 + 14 * straight(column, column_at, 4)
        return layer.groups * tile * (2 * column + steps * product)

    return smooth


class TestGap8Cycles(CostContract):
    layers = EDGES

    @pytest.fixture
    def model(self) -> CostModel:
        return gap8_cycles

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        return gap8_by_loops

    @pytest.fixture
    def tangent(self) -> Tangent:
        return gap8_tangent

    def test_a_layer_that_is_called_twice_works_twice(self) -> None:
        certain = torch.ones(())
        calls = [(CONV, certain), (replace(CONV, repeat=1, out=(5, 5)), certain)]
        apart = gap8_by_loops(CONV) + gap8_by_loops(replace(CONV, out=(5, 5)))
        assert total(gap8_cycles, calls).item() == apart


@pytest.mark.parametrize("model", [gap8_cycles, ne16_cycles, diana_cycles, mpic_cycles])
def test_a_width_that_no_channel_has_takes_no_time(model: CostModel) -> None:
    assert model(replace(CONV, cout=0)) == 0
    cout = torch.tensor([[0.0, 32.0]], requires_grad=True)
    grid = replace(CONV, cout=cout, w_bits=torch.tensor([[2.0, 8.0]]))
    costs = torch.as_tensor(model(grid))
    assert costs[0].tolist() == pytest.approx([0, float(model(CONV))])
    assert torch.autograd.grad(costs.sum(), cout)[0].isfinite().all()


# -- NE16 -----------------------------------------------------------------------------------------


def ne16_by_loops(layer: LayerSpec) -> float:
    if not ne16_covers(layer):
        return 0
    bits = whole(layer.w_bits)
    cycles = 0
    axes = [tiles(size, 3) for size in layer.out]
    for _ in itertools.product(*axes):
        if layer.depthwise:
            for k in tiles(whole(layer.cout), 16):
                cycles += (31 + 6) + (6 + k * bits) + 2 + (9 + k) + (13 + k)
            continue
        for cin, cout in groups_of(layer):
            for k in tiles(cout, 32):
                for _ in tiles(cin, 16):
                    spatial = layer.kernel == (3, 3)
                    cycles += 31 + 6 + (6 + k * bits) + 2 if spatial else 33 + k
                cycles += (9 + k) + 13
    return cycles


def ne16_covers(layer: LayerSpec) -> bool:
    names = ["linear", "linear_over_time", "pointwise", "conv2d", "grouped", "depthwise"]
    return layer.name in [*names, *(edge.name for edge in EDGES[len(LAYERS) :])]


def ne16_tangent(at: LayerSpec) -> Callable[[LayerSpec], Scalar]:
    def smooth(layer: LayerSpec) -> Scalar:
        if not ne16_covers(layer):
            return 0
        spatial = 1
        for size in layer.out:
            spatial *= len(tiles(size, 3))
        if layer.depthwise:
            return spatial * (
                67 * straight(layer.cout, at.cout, 16) + layer.cout * (2 + layer.w_bits)
            )
        inputs = straight(layer.fan_in, at.fan_in, 16)
        outputs = straight(layer.cout / layer.groups, at.cout / at.groups, 32) * layer.groups
        if layer.kernel == (3, 3):
            work = outputs * 45 * inputs + layer.cout * inputs * layer.w_bits
        else:
            work = outputs * 33 * inputs + layer.cout * inputs
        return spatial * (work + 22 * outputs + layer.cout)

    return smooth


class TestNe16Cycles(CostContract):
    layers = EDGES
    x_bits = (8.0,)
    searched_kernels = False

    @pytest.fixture
    def model(self) -> CostModel:
        return ne16_cycles

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        return ne16_by_loops

    @pytest.fixture
    def tangent(self) -> Tangent:
        return ne16_tangent

    def test_weights_without_bits_take_no_time_and_leave_no_slope_undefined(self) -> None:
        bits = torch.zeros((), requires_grad=True)
        cout = torch.tensor(7.5, requires_grad=True)
        value = torch.as_tensor(ne16_cycles(replace(CONV, w_bits=bits, cout=cout)))
        assert value.item() == 0
        assert all(slope.isfinite() for slope in torch.autograd.grad(value, (bits, cout)))

    def test_fractions_of_a_channel_count_as_fractions(self) -> None:
        half = float(ne16_cycles(replace(CONV, cout=8.5)))
        whole_ones = [float(ne16_cycles(replace(CONV, cout=cout))) for cout in (8, 9)]
        assert half == pytest.approx(sum(whole_ones) / 2)


# -- DIANA ----------------------------------------------------------------------------------------


def diana_by_loops(layer: LayerSpec) -> float:
    if layer.op not in ("conv", "linear") or (layer.op == "conv" and len(layer.out) != 2):
        return 0
    rows, columns = (*layer.out, 1, 1)[:2]
    across, along = (whole(k) for k in layer.kernel or (1, 1))
    cin, cout = whole(layer.cin), whole(layer.cout)
    groups = list(groups_of(layer))
    busy = cout > 0
    if whole(layer.w_bits) == 8 or len(groups) > 1:
        cycles = 0.0
        for inputs, outputs in groups:
            for _ in itertools.product(tiles(outputs, 16), tiles(rows, 16)):
                cycles += inputs * columns * across * along
        return cycles + busy * rows * columns * (cout + cin) / 8
    copies = 1
    for more in (2, 4, 8):
        lines = (more + across - 1) * max(64, cin) * along
        if more * cout <= 512 and lines <= 1152:
            copies = more
    passes = len(tiles(cout, 512)) * len(tiles(cin, 128)) * rows * columns / copies
    return passes * 18.2 + busy * 8 * cin * across * along


def diana_tangent(at: LayerSpec) -> Callable[[LayerSpec], Scalar]:
    def smooth(layer: LayerSpec) -> Scalar:
        if diana_by_loops(whole_layer(at)) == 0 or not diana_cycles.covers(layer):
            return 0
        rows, columns = (*layer.out, 1, 1)[:2]
        outputs = straight(layer.cout / layer.groups, at.cout / at.groups, 16)
        if layer.depthwise:
            outputs = 1
        work = outputs * layer.cin * len(tiles(rows, 16)) * columns * layer.taps
        return work + rows * columns * (layer.cout + layer.cin) / 8

    return smooth


def whole_layer(layer: LayerSpec) -> LayerSpec:
    numbers = {"cin": round(float(layer.cin)), "cout": round(float(layer.cout))}
    return replace(layer, **numbers, kernel=tuple(round(float(k)) for k in layer.kernel))


class TestDianaCycles(CostContract):
    layers = EDGES
    w_bits = (2.0, 8.0)
    x_bits = (8.0,)

    @pytest.fixture
    def model(self) -> CostModel:
        return diana_cycles

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        return diana_by_loops

    @pytest.fixture
    def tangent(self) -> Tangent:
        return diana_tangent


class TestDianaAnalog(TestDianaCycles):
    """The other array: the same contract at ternary weights."""

    layers = tuple(replace(layer, w_bits=2) for layer in EDGES)

    @pytest.fixture
    def tangent(self) -> Tangent:
        def analog(at: LayerSpec) -> Callable[[LayerSpec], Scalar]:
            if at.depthwise or at.groups != 1 or not diana_cycles.covers(at):
                return diana_tangent(at)
            passes = (diana_cycles(at) - 8 * at.cin * at.taps) / 18.2 / at.positions
            blocks = math.ceil(at.cout / 512) * math.ceil(at.cin / 128)
            copies = blocks / passes

            def smooth(layer: LayerSpec) -> Scalar:
                outputs = straight(layer.cout, at.cout, 512)
                inputs = straight(layer.cin, at.cin, 128)
                time = 18.2 * outputs * inputs * layer.positions / copies
                return time + 8 * layer.cin * layer.taps

            return smooth

        return analog


CHANNELS = replace(CONV, cin=64, w_bits=torch.tensor([[2.0, 8.0]]), x_bits=torch.tensor([[8.0]]))


def split(analog: float, digital: float) -> tuple[Tensor, Tensor]:
    """The time of a layer with so many output channels on each array, and its slopes."""
    cout = torch.tensor([[analog, digital]], dtype=torch.float64, requires_grad=True)
    value = total(diana_cycles, [(replace(CHANNELS, cout=cout), torch.ones(1, 2))])
    return value, torch.autograd.grad(value, cout)[0][0]


def test_the_arrays_of_diana_run_side_by_side() -> None:
    alone = [diana_by_loops(replace(CONV, cin=64, cout=16, w_bits=bits)) for bits in (2, 8)]
    assert split(16, 16)[0].item() == pytest.approx(max(alone))
    assert split(16, 0)[0].item() == pytest.approx(alone[0])
    assert split(0, 16)[0].item() == pytest.approx(alone[1])


def test_descent_moves_channels_off_the_slower_array() -> None:
    _, slopes = split(4, 60)
    assert slopes[1] > 10 * slopes[0] >= 0


@pytest.mark.parametrize(
    ("model", "changes", "sentence"),
    [
        (mpic_cycles, {"w_bits": 32}, "`w_bits` must be among .0, 2, 4, 8. for mpic_cycles"),
        (mpic_energy, {"x_bits": 16}, "`x_bits` must be among .2, 4, 8. for mpic_cycles"),
        (ne16_cycles, {"x_bits": 4}, "`x_bits` must be among .8,. for ne16_cycles"),
        (ne16_cycles, {"w_bits": 3}, "take the candidates of the search from these"),
        (ne16_cycles, {"w_bits": 32}, r"assume_bits\(ne16_cycles, w=8, x=8\), or --bits 8,8"),
        (diana_cycles, {"w_bits": 4}, "`w_bits` must be among .0, 2, 8. for diana_cycles"),
    ],
)
def test_bits_that_hardware_does_not_have_are_refused(
    model: CostModel, changes: dict[str, float], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        model(replace(CONV, **changes))
