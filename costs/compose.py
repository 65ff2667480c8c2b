"""Cost models out of cost models: sums, weighted sums, the slowest of several, no exceptions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from costs.spec import Combine, CostModel, LayerSpec, Scalar
from costs.wrap import Wrapper

Join = Callable[[Sequence[Scalar]], Scalar]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Composed:
    """Several cost models as one, layer by layer: what the functions of this module make."""

    name: str
    unit: str
    models: tuple[CostModel, ...]
    weights: tuple[float, ...]
    join: Join

    def __post_init__(self) -> None:
        kinds = {(model.once, model.peak, model.combine) for model in self.models}
        if len(kinds) != 1:
            raise ValueError(
                f"Models must count alike to be composed, but those of {self.name!r} are "
                f"{[(m.name, f'once={m.once}', f'peak={m.peak}') for m in self.models]}; join "
                "their totals instead."
            )

    @property
    def once(self) -> bool:
        """As in the models."""
        return self.models[0].once

    @property
    def peak(self) -> bool:
        """As in the models."""
        return self.models[0].peak

    @property
    def stacks(self) -> bool:
        """Whether all of the models do."""
        return all(model.stacks for model in self.models)

    @property
    def combine(self) -> Combine:
        """As in the models."""
        return self.models[0].combine

    def covers(self, layer: LayerSpec, /) -> bool:
        """Whether all of the models know such layers."""
        return all(model.covers(layer) for model in self.models)

    def __call__(self, layer: LayerSpec, /) -> Scalar:
        """The cost of one call of `layer`, in `unit`."""
        terms = zip(self.weights, self.models, strict=True)
        return self.join([weight * model(layer) for weight, model in terms])


def _added(costs: Sequence[Scalar]) -> Scalar:
    return sum(costs[1:], start=costs[0])


def _slowest(costs: Sequence[Scalar]) -> Scalar:
    like = next((value for value in costs if isinstance(value, Tensor)), None)
    if like is None:
        return max(float(value) for value in costs)
    return functools.reduce(torch.maximum, (torch.as_tensor(value).to(like) for value in costs))


def weighted(name: str, terms: Mapping[CostModel, float], *, unit: str) -> CostModel:
    """The weighted sum of cost models.

    Args:
        name: Of the new model.
        terms: The weight of each model, not negative.
        unit: Of the new model, in the singular.

    Raises:
        ValueError: If there are no terms, a weight is negative, or models count unlike.

    Example:
        >>> from costs import MODELS
        >>> price = weighted("price", {MODELS["macs"]: 0.5, MODELS["ops"]: 2.0}, unit="cent")
        >>> price(LayerSpec(name="fc", op="linear", cin=4, cout=2))
        24.0
    """
    if not terms or not all(weight >= 0 for weight in terms.values()):
        raise ValueError(
            f"`terms` must give each model a weight of 0 or more, but got "
            f"{ {m.name: w for m, w in terms.items()} } for {name!r}; a cost is never negative."
        )
    return Composed(
        name=name, unit=unit, models=tuple(terms), weights=tuple(terms.values()), join=_added
    )


def sum_of(name: str, *models: CostModel) -> CostModel:
    """The sum of cost models of one unit.

    Raises:
        ValueError: If there are no models, their units differ, or they count unlike.

    Example:
        >>> from costs import MODELS
        >>> both = sum_of("both", MODELS["size_bits"], MODELS["size_bits"])
        >>> both(LayerSpec(name="fc", op="linear", cin=4, cout=2, bias=False))
        512.0
    """
    return _equal_weights(name, models, _added)


def max_of(name: str, *models: CostModel) -> CostModel:
    """The largest cost of each call, of models of one unit: parts of hardware that overlap.

    Raises:
        ValueError: If there are no models, their units differ, or they count unlike.

    Example:
        >>> from costs import cost
        >>> @cost(unit="cycle")
        ... def loading(layer):
        ...     return layer.num_weights / 4
        >>> @cost(unit="cycle")
        ... def computing(layer):
        ...     return layer.positions * layer.num_weights / 64
        >>> max_of("cycles", loading, computing)(LayerSpec(name="fc", op="linear", cin=4, cout=2))
        2.0
    """
    return _equal_weights(name, models, _slowest)


def _equal_weights(name: str, models: tuple[CostModel, ...], join: Join) -> CostModel:
    units = sorted({model.unit for model in models})
    if len(units) != 1:
        raise ValueError(
            f"`models` must be of one unit, but those of {name!r} are in {units}; use `weighted` "
            "with a unit of its own."
        )
    return Composed(
        name=name, unit=units[0], models=models, weights=(1.0,) * len(models), join=join
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Strict(Wrapper):
    """A cost model that refuses what it does not cover: what `strict` makes."""

    def covers(self, layer: LayerSpec, /) -> bool:
        """Whether the model knows such layers."""
        return self.model.covers(layer)

    def __call__(self, layer: LayerSpec, /) -> Scalar:
        """The cost of one call of `layer`.

        Raises:
            ValueError: For a layer that is not covered.
        """
        if not self.covers(layer):
            raise ValueError(
                f"Every layer must be covered by {self.name}, but {layer.name!r} ({layer.op}, "
                f"kernel {layer.kernel}) is not; change the layer, or leave out `strict`."
            )
        return self.model(layer)


def strict(model: CostModel) -> CostModel:
    """The model, which now refuses layers that it does not cover instead of taking them as free.

    Example:
        >>> from costs import MODELS
        >>> strict(MODELS["macs"])(LayerSpec(name="fc", op="linear", cin=4, cout=2))
        8.0
    """
    return Strict(model=model)
