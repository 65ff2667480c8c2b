"""What every cost model must do. A plug-in proves itself by inheriting `CostContract`.

Override the fixtures `model` and `reference`, and `tangent` if the model has steps in it. Hardware
that runs only some layers or bit-widths narrows `layers`, `w_bits` and `x_bits`, and sets
`searched_kernels` to false where the taps of a kernel cannot be fractions.

Shapes: `X` candidate bit-widths of the input `(X, 1)`, `W` of the weights `(1, W)`.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from costs import CostModel, LayerSpec, Scalar, stacked, total

Formula = Callable[[LayerSpec], Scalar]

_eight = partial(LayerSpec, w_bits=8, x_bits=8, y_bits=8)
_conv = partial(_eight, op="conv")

LAYERS: tuple[LayerSpec, ...] = (
    _conv(name="conv1d", cin=6, cout=9, kernel=(5,), out=(11,), stride=(1,)),
    _conv(name="conv2d", cin=3, cout=5, kernel=(3, 3), out=(6, 4), stride=(2, 2), bias=False),
    _conv(name="conv3d", cin=2, cout=3, kernel=(3, 1, 2), out=(2, 4, 3), stride=(1, 1, 1)),
    _conv(name="pointwise", cin=7, cout=5, kernel=(1, 1), out=(5, 3), stride=(1, 1)),
    _conv(name="grouped", cin=8, cout=12, kernel=(3, 3), out=(4, 4), stride=(1, 1), groups=4),
    _conv(
        name="depthwise",
        cin=6,
        cout=6,
        kernel=(3, 3),
        out=(5, 5),
        stride=(1, 1),
        groups=6,
        depthwise=True,
    ),
    _conv(
        name="multiplier",  # two outputs for each input channel
        cin=4,
        cout=8,
        kernel=(3,),
        out=(9,),
        stride=(1,),
        groups=4,
        depthwise=True,
        bias=False,
    ),
    _eight(name="linear", op="linear", cin=13, cout=10),
    _eight(name="linear_over_time", op="linear", cin=5, cout=3, out=(7,), bias=False),
    _eight(name="norm", op="affine", cin=6, cout=6, out=(3, 3)),
    _eight(name="prelu", op="affine", cin=5, cout=5, out=(8,), bias=False),
    _eight(name="residual", op="add", cin=6, cout=6, out=(3, 3)),
    _eight(name="max_pool", op="pool", cin=6, cout=6, kernel=(2, 2), out=(3, 3), stride=(2, 2)),
    _eight(name="recurrent", op="other", cin=1, cout=120),
)


def _tensor(value: float) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


def _number(value: Scalar) -> float:
    return value.item() if isinstance(value, Tensor) else float(value)


def _relax(
    layer: LayerSpec, scale: float = 1.0, *, taps: bool = True
) -> tuple[LayerSpec, dict[str, Tensor]]:
    """The layer with leaf tensors for its channels, taps and bits, and these leaves by name."""
    leaves = {
        "cin": _tensor(float(layer.cin) * scale),
        "cout": _tensor(float(layer.cout) * scale),
        "w_bits": _tensor(float(layer.w_bits)),
        "x_bits": _tensor(float(layer.x_bits)),
    }
    searched = layer.kernel if taps else ()
    kernel = {f"kernel[{i}]": _tensor(float(tap) * scale) for i, tap in enumerate(searched)}
    for leaf in (*leaves.values(), *kernel.values()):
        leaf.requires_grad_()
    relaxed = replace(
        layer,
        cin=leaves["cin"],
        cout=leaves["cout"],
        w_bits=leaves["w_bits"],
        x_bits=leaves["x_bits"],
        kernel=tuple(kernel.values()) or layer.kernel,
    )
    return relaxed, {**leaves, **kernel}


def _numbers(layer: LayerSpec) -> LayerSpec:
    """The layer with plain numbers in the place of tensors."""
    values = {f: _number(getattr(layer, f)) for f in ("cin", "cout", "w_bits", "x_bits")}
    return replace(layer, **values, kernel=tuple(_number(tap) for tap in layer.kernel))


def _slopes(formula: Formula, layer: LayerSpec, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    value = formula(layer)
    if not isinstance(value, Tensor) or not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    slopes = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, slopes, strict=True))


def _grown(layer: LayerSpec, *, taps: bool) -> Iterator[tuple[str, list[LayerSpec]]]:
    """For each count, its name and the layer with ever more of it, whole and fractional."""
    steps = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 8.0, 17.0]
    yield "cin", [replace(layer, cin=step) for step in steps]
    yield "cout", [replace(layer, cout=step) for step in steps]
    for axis in range(len(layer.kernel) if taps else 0):
        before, after = layer.kernel[:axis], layer.kernel[axis + 1 :]
        yield f"kernel[{axis}]", [replace(layer, kernel=(*before, s, *after)) for s in steps]
    for axis in range(len(layer.out)):
        before_, after_ = layer.out[:axis], layer.out[axis + 1 :]
        yield f"out[{axis}]", [replace(layer, out=(*before_, n, *after_)) for n in range(1, 18)]


class CostContract:
    """The suite. Its name keeps it from being collected on its own."""

    layers: ClassVar[tuple[LayerSpec, ...]] = LAYERS
    w_bits: ClassVar[tuple[float, ...]] = (2.0, 4.0, 8.0)
    x_bits: ClassVar[tuple[float, ...]] = (4.0, 8.0)
    searched_kernels: ClassVar[bool] = True

    def relax(self, layer: LayerSpec, scale: float = 1.0) -> tuple[LayerSpec, dict[str, Tensor]]:
        """The layer with leaf tensors where a search has them, and these leaves by name."""
        return _relax(layer, scale, taps=self.searched_kernels)

    @pytest.fixture
    def model(self) -> CostModel:
        """The cost model under test."""
        raise NotImplementedError("override the fixture `model` with your cost model")

    @pytest.fixture
    def reference(self) -> Callable[[LayerSpec], float]:
        """The cost of a layer of whole numbers, counted without the formula of the model."""
        raise NotImplementedError("override the fixture `reference` with a count of your own")

    @pytest.fixture
    def tangent(self, model: CostModel) -> Callable[[LayerSpec], Formula]:
        """The smooth function whose slope the model follows at a layer.

        That is the model itself if it has no steps. Where it has, each step is a straight line
        through its value at that layer.
        """
        return lambda layer: model

    @classmethod
    def pytest_generate_tests(cls, metafunc: pytest.Metafunc) -> None:
        if "layer" in metafunc.fixturenames:
            metafunc.parametrize("layer", cls.layers, ids=[layer.name for layer in cls.layers])

    @pytest.fixture
    def grid(self) -> tuple[Tensor, Tensor]:
        """Candidate bit-widths of the input `(X, 1)` and of the weights `(1, W)`."""
        x_bits = torch.tensor(self.x_bits, dtype=torch.float64)[:, None]
        return x_bits, torch.tensor(self.w_bits, dtype=torch.float64)[None, :]

    def test_has_a_name_and_a_unit(self, model: CostModel) -> None:
        assert isinstance(model, CostModel)
        assert model.name.isidentifier()
        assert model.unit.strip()
        assert isinstance(model.once, bool)
        assert isinstance(model.peak, bool)
        assert isinstance(model.stacks, bool)

    def test_whole_numbers_cost_what_counting_finds(
        self, model: CostModel, reference: Callable[[LayerSpec], float], layer: LayerSpec
    ) -> None:
        counted = reference(layer)
        assert _number(model(layer)) == pytest.approx(counted, rel=1e-9)
        assert _number(model(self.relax(layer)[0])) == pytest.approx(counted, rel=1e-9)

    def test_never_falls_when_a_count_grows(self, model: CostModel, layer: LayerSpec) -> None:
        for count, grown in _grown(layer, taps=self.searched_kernels):
            values = [_number(model(spec)) for spec in grown]
            assert values[0] >= 0, f"negative for the smallest {count}: {values}"
            assert values == sorted(values), f"falls while {count} grows: {values}"

    def test_a_grid_of_bit_widths_costs_what_each_pair_costs(
        self, model: CostModel, layer: LayerSpec, grid: tuple[Tensor, Tensor]
    ) -> None:
        x_grid, w_grid = grid
        costs = torch.as_tensor(model(replace(layer, x_bits=x_grid, w_bits=w_grid)))
        costs = costs.double().broadcast_to(len(self.x_bits), len(self.w_bits))
        for i, x_bits in enumerate(self.x_bits):
            for j, w_bits in enumerate(self.w_bits):
                pair = _number(model(replace(layer, x_bits=x_bits, w_bits=w_bits)))
                assert costs[i, j].item() == pytest.approx(pair, rel=1e-9), (x_bits, w_bits)

    def test_a_certain_pair_costs_what_it_costs_alone(
        self, model: CostModel, layer: LayerSpec, grid: tuple[Tensor, Tensor]
    ) -> None:
        x_grid, w_grid = grid
        probability = torch.zeros(len(self.x_bits), len(self.w_bits), dtype=torch.float64)
        probability[-1, 0] = 1
        chosen = total(model, [(replace(layer, x_bits=x_grid, w_bits=w_grid), probability)])
        pair = replace(layer, x_bits=self.x_bits[-1], w_bits=self.w_bits[0])
        assert chosen.item() == pytest.approx(_number(model(pair)), rel=1e-9)

    @pytest.mark.parametrize("searched", [False, True], ids=["numbers", "bit_widths"])
    def test_a_stack_costs_what_its_layers_cost_one_by_one(
        self, model: CostModel, layer: LayerSpec, grid: tuple[Tensor, Tensor], searched: bool
    ) -> None:
        if not model.stacks:
            pytest.skip("this model takes one layer at a time")
        calls, leaves = [], []
        for number, scale in enumerate((1.0, 0.57, 2.3)):
            spec, own = self.relax(layer, scale)
            share = _tensor(1.0)
            if searched:
                spec = replace(spec, cout=own["cout"] * grid[1] / 8, x_bits=grid[0], w_bits=grid[1])
                share = (grid[0] + number) / grid[1]
            out = tuple(size + 5 * number for size in spec.out)
            calls.append((replace(spec, name=f"{number}", out=out), share))
            leaves += list(own.values())
        assert len(stacked(calls)) == 1
        found = []
        for costed in (calls, stacked(calls)):
            value = total(model, costed)
            slopes = [torch.zeros_like(leaf) for leaf in leaves]
            if value.requires_grad:
                kept = {"retain_graph": True, "materialize_grads": True}  # both share `cout`
                slopes = list(torch.autograd.grad(value, leaves, **kept))
            found.append(torch.stack([value.detach(), *slopes]))
        torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("channels", [0.0, 0.3, 1.0, 15.5])
    def test_gradients_are_finite_at_the_edges(
        self, model: CostModel, layer: LayerSpec, channels: float
    ) -> None:
        relaxed, leaves = self.relax(layer)
        for name in ("cin", "cout"):
            leaves[name] = _tensor(channels).requires_grad_()
        relaxed = replace(relaxed, cin=leaves["cin"], cout=leaves["cout"])
        assert torch.isfinite(torch.as_tensor(model(relaxed)))
        for name, slope in _slopes(model, relaxed, leaves).items():
            assert torch.isfinite(slope), f"slope along {name} is {slope.item()}"

    @pytest.mark.parametrize("scale", [0.57, 1.0])
    def test_gradients_are_finite_differences_of_the_relaxed_cost(
        self,
        model: CostModel,
        tangent: Callable[[LayerSpec], Formula],
        layer: LayerSpec,
        scale: float,
    ) -> None:
        spec, leaves = self.relax(layer, scale)
        smooth = tangent(_numbers(spec))
        step = 1e-4
        for name, slope in _slopes(model, spec, leaves).items():
            leaf = leaves[name]
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    leaf.add_(sign * step)
                    ends.append(_number(smooth(spec)))
                    leaf.sub_(sign * step)
            difference = (ends[0] - ends[1]) / (2 * step)
            assert slope.item() == pytest.approx(difference, rel=1e-6, abs=1e-6), name

    @pytest.mark.parametrize("seed", range(5))
    def test_descent_from_anywhere_never_raises_the_cost(
        self, model: CostModel, layer: LayerSpec, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        spec, leaves = self.relax(layer)
        with torch.no_grad():
            for name, leaf in leaves.items():
                most = 8 if "bits" in name else 2 * leaf.item() + 20
                leaf.copy_(most * torch.rand((), generator=generator))
        slopes = _slopes(model, spec, leaves)
        cost = _number(model(spec))
        steepest = max(slope.abs().item() for slope in slopes.values()) or 1.0
        for step in (0.01, 0.3, 2.0, 20.0):
            with torch.no_grad():
                for name, slope in slopes.items():
                    leaves[name].sub_(step * slope / steepest).clamp_(min=0)
            after = _number(model(spec))
            assert after <= cost * (1 + 1e-12), f"a step of {step} raises {cost} to {after}"
            cost = after

    def test_layers_that_are_not_covered_are_free(self, model: CostModel, layer: LayerSpec) -> None:
        assert model.covers(layer) or _number(model(layer)) == 0

    def test_single_precision_agrees_with_double(self, model: CostModel, layer: LayerSpec) -> None:
        double, _ = self.relax(layer)
        single = replace(
            layer, cin=torch.tensor(float(layer.cin)), cout=torch.tensor(float(layer.cout))
        )
        assert _number(model(single)) == pytest.approx(_number(model(double)), rel=1e-5)

    def test_leaves_its_argument_as_it_was(self, model: CostModel, layer: LayerSpec) -> None:
        spec, leaves = self.relax(layer)
        before: dict[str, Any] = {field.name: getattr(spec, field.name) for field in fields(spec)}
        values = {name: (leaf.item(), leaf._version) for name, leaf in leaves.items()}
        model(spec)
        for name, value in before.items():
            assert getattr(spec, name) is value, name
        assert values == {name: (leaf.item(), leaf._version) for name, leaf in leaves.items()}

    def test_storage_is_counted_once_and_work_at_every_call(
        self, model: CostModel, layer: LayerSpec
    ) -> None:
        certain = torch.ones((), dtype=torch.float64)
        calls = [(replace(layer, repeat=repeat), certain) for repeat in range(3)]
        counted = 1 if model.once or model.peak else 3
        assert total(model, calls).item() == pytest.approx(
            counted * _number(model(layer)), rel=1e-9
        )

    def test_survives_pickle_and_deepcopy(self, model: CostModel, layer: LayerSpec) -> None:
        for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert (twin.name, twin.unit, twin.once) == (model.name, model.unit, model.once)
            assert _number(twin(layer)) == _number(model(layer))
