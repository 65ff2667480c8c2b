from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch

from costs import (
    CostModel,
    LayerSpec,
    Scalar,
    assume_bits,
    cost,
    diana_cycles,
    gap8_cycles,
    macs,
    max_of,
    mpic_cycles,
    mpic_energy,
    ne16_cycles,
    peak_activation_bytes,
    size_bits,
    size_bytes,
    strict,
    sum_of,
    total,
    weighted,
)

CONV = LayerSpec(name="c", op="conv", cin=8, cout=16, kernel=(3, 3), out=(6, 6), bias=False)
CERTAIN = torch.ones((), dtype=torch.float64)
GRID = replace(CONV, x_bits=torch.tensor([[4.0], [8.0]]), w_bits=torch.tensor([[2.0, 4.0, 8.0]]))


def test_float_layers_take_the_bits_that_are_stated() -> None:
    model = assume_bits(mpic_cycles, w=4, x=8)
    assert model(CONV) == mpic_cycles(replace(CONV, w_bits=4, x_bits=8))
    assert (model.name, model.unit, model.once) == ("mpic_cycles", "cycle", False)


def test_quantised_layers_keep_the_bits_of_their_own() -> None:
    model = assume_bits(mpic_cycles, w=2, x=8)
    assert model(replace(CONV, w_bits=8, x_bits=4)) == mpic_cycles(
        replace(CONV, w_bits=8, x_bits=4)
    )
    assert torch.equal(torch.as_tensor(model(GRID)), torch.as_tensor(mpic_cycles(GRID)))


def test_stated_bits_reach_storage_and_activations() -> None:
    assert assume_bits(size_bits, w=4, x=8)(CONV) == 4 * 8 * 16 * 9 + 32 * 16  # scales
    moment = LayerSpec(name="m", op="moment", cin=0, cout=1000)
    assert assume_bits(peak_activation_bytes, w=8, x=4)(moment) == 500


def test_stated_bits_keep_how_a_model_combines() -> None:
    assert assume_bits(diana_cycles, w=8, x=8).combine is diana_cycles.combine


@pytest.mark.parametrize("words", [{"w": 0, "x": 8}, {"w": 8, "x": -1}])
def test_bits_of_nothing_cannot_be_stated(words: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0, but got"):
        assume_bits(macs, **words)


def test_sums_and_weights_are_those_of_the_totals() -> None:
    seconds = weighted("seconds", {mpic_cycles: 4e-9, gap8_cycles: 1e-8}, unit="second")
    layers = [(GRID, torch.full((2, 3), 1 / 6)), (replace(GRID, cin=3), torch.full((2, 3), 1 / 6))]
    apart = 4e-9 * total(mpic_cycles, layers) + 1e-8 * total(gap8_cycles, layers)
    assert total(seconds, layers).item() == pytest.approx(apart.item(), rel=1e-6)
    both = sum_of("both", mpic_cycles, ne16_cycles)
    assert (both.name, both.unit) == ("both", "cycle")


def test_the_largest_is_taken_call_by_call() -> None:
    @cost(unit="cycle")
    def loading(layer: LayerSpec) -> Scalar:
        return layer.num_weights

    @cost(unit="cycle")
    def computing(layer: LayerSpec) -> Scalar:
        return layer.positions * layer.num_weights / 8

    slower = max_of("cycles", loading, computing)
    tail = replace(CONV, out=(1, 1))
    weights = 8 * 16 * 9
    assert slower(CONV) == 36 * weights / 8
    assert slower(tail) == weights
    assert total(slower, [(CONV, CERTAIN), (tail, CERTAIN)]).item() == weights * (36 / 8 + 1)


def test_the_largest_has_the_slope_of_the_larger_one_over_a_grid() -> None:
    cout = torch.tensor(16.0, requires_grad=True)
    slower = max_of("cycles", gap8_cycles, mpic_cycles)
    layer = replace(GRID, cout=cout)
    value = torch.as_tensor(slower(layer))
    parts = [torch.as_tensor(model(layer)) for model in (gap8_cycles, mpic_cycles)]
    assert torch.equal(value, torch.maximum(*parts))
    (slope,) = torch.autograd.grad(value.sum(), cout)
    assert slope > 0


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ((macs, mpic_cycles), "must be of one unit, but those of 'mixed' are in .'MAC', 'cycle'."),
        ((mpic_cycles, diana_cycles), "must count alike"),
        ((size_bytes, peak_activation_bytes), "must count alike"),
        ((), "must be of one unit"),
    ],
)
def test_models_that_count_unlike_are_not_composed(
    models: tuple[CostModel, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sum_of("mixed", *models)


@pytest.mark.parametrize("terms", [{}, {macs: -1.0}])
def test_weights_are_not_negative(terms: dict[CostModel, float]) -> None:
    with pytest.raises(ValueError, match="a weight of 0 or more"):
        weighted("price", terms, unit="cent")


def test_a_strict_model_refuses_what_it_does_not_cover() -> None:
    wide = replace(CONV, name="stem", kernel=(5, 5), w_bits=8, x_bits=8)
    assert ne16_cycles(wide) == 0
    with pytest.raises(ValueError, match=r"covered by ne16_cycles, but 'stem' .conv, kernel .5, 5"):
        strict(ne16_cycles)(wide)
    known = replace(wide, kernel=(3, 3))
    assert strict(ne16_cycles)(known) == ne16_cycles(known) > 0


def test_a_model_with_an_exception_is_plain_python() -> None:
    @cost(unit="cycle", covers=lambda layer: layer.op in ("conv", "linear"))
    def chip_cycles(layer: LayerSpec) -> Scalar:
        if layer.depthwise:
            return layer.positions * layer.num_weights
        return layer.positions * layer.num_weights / 16

    depthwise = replace(CONV, cin=16, groups=16, depthwise=True)
    assert chip_cycles(depthwise) == 36 * 16 * 9
    assert chip_cycles(CONV) == 36 * 16 * 8 * 9 / 16


@pytest.mark.parametrize(
    "model",
    [
        assume_bits(mpic_energy, w=8, x=8),
        strict(macs),
        sum_of("both", mpic_cycles, gap8_cycles),
        max_of("slower", mpic_cycles, gap8_cycles),
    ],
    ids=["assume_bits", "strict", "sum_of", "max_of"],
)
def test_composed_models_are_models_that_travel(model: CostModel) -> None:
    assert isinstance(model, CostModel)
    layer = replace(CONV, w_bits=8, x_bits=8)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert (twin.name, twin.unit, twin(layer)) == (model.name, model.unit, model(layer))
