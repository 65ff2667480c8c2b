"""What a cost is a function of, what a cost model is, and how costs of layers add up.

Shapes: every count and every bit-width is a number or a 0-d tensor, or a tensor that broadcasts
over a grid of candidates: `X` candidate bit-widths of the input activations lie along `(X, 1)`, `W`
candidate bit-widths of the weights along `(1, W)`, so that a cost is `(X, W)`, one value per pair.
A model that `stacks` takes `N` layers of one kind at once, too, which lie along one more axis in
front: `(N, 1, 1)`, `(N, X, 1)`, `(N, 1, W)`; see `costs/stack.py`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
from torch import Tensor

from costs import ste

Scalar: TypeAlias = float | Tensor
Op: TypeAlias = Literal["conv", "linear", "affine", "add", "pool", "other", "moment"]
OPS: tuple[Op, ...] = get_args(Op)
FLOAT_BITS = 32
"""Bit-width of what no method has quantised: single precision."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerSpec:
    """One call of one layer, as hardware sees it.

    Counts are fractional and differentiable during a search, whole after it. Numbers are checked at
    construction; tensors are not, since looking at one would stall the device that computes it.

    Attributes:
        name: Name of the module in its net.
        op: The formula that holds. "affine" is a scale per channel, with a shift if `bias`, that
            stands alone (a norm that folds into no layer, a PReLU): `cin` equals `cout`. "add" and
            "pool" hold no weights. "other" is a module with parameters that no formula covers:
            `cout` is their number, counted as storage only. "moment" is no layer but what is in
            memory while one operation runs: `cout` live elements of `x_bits` each. Only a model
            with `peak` sees moments.
        cin: Live input channels.
        cout: Live output channels.
        kernel: Live taps per axis; empty for a linear layer.
        out: Output positions per axis; `(T,)` for a linear layer on `(B, T, C)`. Whole numbers, but
            in a stack `(N, 1, 1)` tensors, as in `stride`.
        stride: Steps per axis; empty for a linear layer.
        groups: Channel groups of a convolution.
        depthwise: Whether each output channel sees one input channel.
        bias: Whether each output channel has a bias.
        w_bits: Bit-width of the weights [bit].
        x_bits: Bit-width of the input activations [bit].
        y_bits: Bit-width of the output activations [bit].
        repeat: 0 for the first call of this module in a forward pass, then 1, 2 and so on.

    Raises:
        ValueError: If `op` is unknown, a number is negative, or `groups` is 0 in a layer that
            divides by it.

    Example:
        >>> conv = LayerSpec(name="stem", op="conv", cin=3, cout=16, kernel=(3, 3), out=(32, 32))
        >>> conv.num_weights, conv.num_biases, conv.positions
        (432.0, 16, 1024)
    """

    name: str
    op: Op
    cin: Scalar
    cout: Scalar
    kernel: tuple[Scalar, ...] = ()
    out: tuple[Scalar, ...] = ()
    stride: tuple[Scalar, ...] = ()
    groups: Scalar = 1
    depthwise: bool = False
    bias: bool = True
    w_bits: Scalar = FLOAT_BITS
    x_bits: Scalar = FLOAT_BITS
    y_bits: Scalar = FLOAT_BITS
    repeat: int = 0

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ValueError(
                f"`op` must be among {OPS}, but got {self.op!r} in layer {self.name!r}; "
                'use "other" for a module that no formula covers.'
            )
        for field in ("cin", "cout", "groups", "w_bits", "x_bits", "y_bits", "repeat"):
            if not _is_count(getattr(self, field)):
                self._refuse(field)
        for field in ("kernel", "out", "stride"):
            if not all(map(_is_count, getattr(self, field))):
                self._refuse(field)
        if not isinstance(self.groups, Tensor) and self.groups == 0 and not self.depthwise:
            raise ValueError(
                f"`groups` must be above 0, but got groups={self.groups} in layer {self.name!r}; "
                "set `depthwise=True` if each output channel sees one input channel."
            )

    def _refuse(self, field: str) -> None:
        raise ValueError(
            f"`{field}` must not be negative, but got {field}={getattr(self, field)} in layer "
            f"{self.name!r}; pass a count, or leave `{field}` out for its default."
        )

    @property
    def fan_in(self) -> Scalar:
        """Input channels that each output channel sees."""
        if self.depthwise or self.op in ("affine", "other"):
            return 1
        return self._of_a_group(self.cin)

    @property
    def fan_out(self) -> Scalar:
        """Output channels of each group of channels."""
        return self._of_a_group(self.cout)

    @property
    def busy(self) -> Scalar:
        """How far there is anything to compute: the smaller of `cout` and 1, with its slope."""
        return self.cout.clamp(max=1) if isinstance(self.cout, Tensor) else min(self.cout, 1)

    def _of_a_group(self, channels: Scalar) -> Scalar:
        if isinstance(channels, Tensor) and not isinstance(self.groups, Tensor):
            # A division by 1 would be felt: costs are many small operations.
            return channels if self.groups == 1 else channels / self.groups
        return channels / self.groups

    @property
    def taps(self) -> Scalar:
        """Taps of the whole kernel; 1 for a layer without one."""
        return _product(*self.kernel)

    @property
    def positions(self) -> Scalar:
        """Output positions over all axes; 1 for a layer without axes."""
        return _product(*self.out)

    @property
    def num_weights(self) -> Scalar:
        """Stored weights: scales of an "affine", all parameters of an "other", else of the kernel.

        A bias is not a weight.
        """
        if self.op in ("add", "pool", "moment"):
            return 0
        return _product(self.cout, self.fan_in, self.taps)

    @property
    def num_biases(self) -> Scalar:
        """Stored biases, or shifts of an "affine": one for each output channel, or none."""
        return self.cout if self.bias and self.op in ("conv", "linear", "affine") else 0


def _is_count(value: Scalar) -> bool:
    return isinstance(value, Tensor) or value >= 0


def _product(*factors: Scalar) -> Scalar:
    # As in `_of_a_group`: what is no multiplication need not be one.
    needed = [factor for factor in factors if isinstance(factor, Tensor) or factor != 1]
    return functools.reduce(operator.mul, needed) if needed else 1


@runtime_checkable
class CostModel(Protocol):
    """What a layer costs; or, with `peak`, what a moment of the execution needs."""

    @property
    def name(self) -> str:
        """What results are filed under."""
        ...

    @property
    def unit(self) -> str:
        """The unit of the value, in the singular: "byte", "cycle"."""
        ...

    @property
    def once(self) -> bool:
        """Whether a module that is called twice costs as much as one called once: storage."""
        ...

    @property
    def peak(self) -> bool:
        """Whether it rates moments, and a net costs what its dearest moment costs."""
        ...

    @property
    def stacks(self) -> bool:
        """Whether it takes a stack of layers, too: faster, where nothing depends on one of them."""
        ...

    def covers(self, layer: LayerSpec, /) -> bool:
        """Whether the model knows such layers; it takes the others to be free."""
        ...

    def __call__(self, layer: LayerSpec, /) -> Scalar:
        """The cost of one call, or `(X, W)` costs if the bit-widths of `layer` form a grid."""
        ...

    @property
    def combine(self) -> Combine:
        """Makes one cost out of those of all candidates and the share of each.

        0-d out of `(X, W)`; of a model that `stacks` also `(N,)` out of `(N, X, W)`.
        """
        ...


LayerFunction: TypeAlias = Callable[[LayerSpec], Scalar]
Covers: TypeAlias = Callable[[LayerSpec], bool]
Combine: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def expected(costs: Tensor, probability: Tensor) -> Tensor:
    """The expectation of a cost: the sum of `costs * probability`.

    Args:
        costs: `(X, W)` or `(N, X, W)`, or any shape that broadcasts to that of `probability`.
        probability: `(X, W)` or `(N, X, W)`, the share of each candidate.

    Returns:
        A 0-d tensor, or `(N,)`, in the unit of `costs`.

    Example:
        >>> expected(torch.tensor([2.0, 8.0]), torch.tensor([0.5, 0.5])).item()
        5.0
    """
    shares = costs * probability
    if shares.ndim > 2:
        return shares.sum((-2, -1))
    return shares.sum() if shares.ndim else shares


def every_layer(layer: LayerSpec) -> bool:
    """What a model covers that knows all layers.

    Example:
        >>> every_layer(LayerSpec(name="gru", op="other", cin=1, cout=120))
        True
    """
    return True


@dataclass(frozen=True, kw_only=True, eq=False)
class Formula:
    """A function of a layer with its unit: the cost model that `cost` makes.

    It stands in for the function it was made from under the same name, so it is pickled by that
    name, as functions are, and a copy of it is itself.
    """

    function: LayerFunction
    unit: str
    once: bool
    peak: bool
    stacks: bool
    covers: Covers
    combine: Combine

    def __post_init__(self) -> None:
        if not self.unit.strip():
            raise ValueError(
                f"`unit` must not be empty, but got unit={self.unit!r} for {self.name!r}; "
                'name what the cost counts in the singular, such as "cycle".'
            )
        for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
            object.__setattr__(self, attribute, getattr(self.function, attribute))
        object.__setattr__(self, "__wrapped__", self.function)

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__

    def __call__(self, layer: LayerSpec, /) -> Scalar:
        """The cost of one call of `layer`, in `unit`; 0 for a layer that is not covered."""
        return self.function(layer) if self.covers(layer) else 0

    def __reduce__(self) -> str:
        # A bare string tells pickle to store `__module__` and this name; `copy` returns `self`.
        return self.function.__qualname__

    def __repr__(self) -> str:
        return f"<cost model {self.name} [{self.unit}]>"


def cost(
    *,
    unit: str,
    once: bool = False,
    peak: bool = False,
    stacks: bool = False,
    covers: Covers = every_layer,
    combine: Combine = expected,
) -> Callable[[LayerFunction], Formula]:
    """Makes a cost model of the function below it; the model takes the function's name.

    Args:
        unit: Unit of the value, in the singular.
        once: Whether the cost is storage, counted for the first call of a module only.
        peak: Whether the function rates moments; the largest one is then the cost of a net.
        stacks: Whether the function, `covers` and `combine` also take stacks of layers, as all that
            is plain arithmetic does. Costs of a search are then faster. A function that looks at
            the name of a layer or compares its sizes does not.
        covers: Tells which layers the function knows; the others are free, and listed by name.
        combine: How the costs of candidates become one; the expectation unless candidates run side
            by side.

    Returns:
        A decorator. A decorated function at the top level of a module can be pickled.

    Raises:
        ValueError: If `unit` is empty.

    Example:
        >>> @cost(unit="weight", once=True)
        ... def dense_weights(layer):
        ...     return layer.cin * layer.cout
        >>> dense_weights.name, dense_weights(LayerSpec(name="fc", op="linear", cin=4, cout=2))
        ('dense_weights', 8)
    """

    def decorate(function: LayerFunction) -> Formula:
        return Formula(
            function=function,
            unit=unit,
            once=once,
            peak=peak,
            stacks=stacks,
            covers=covers,
            combine=combine,
        )

    return decorate


def total(model: CostModel, layers: Iterable[tuple[LayerSpec, Tensor]]) -> Tensor:
    """The cost of a net: the combined costs of its calls, added up.

    Args:
        model: The cost model. If it counts `once`, repeated calls of a module are left out; with
            `peak`, the largest cost counts instead of the sum.
        layers: Each call with the share of its candidates: `(X, W)`, or 0-d where there is nothing
            to choose. For a model with `peak`: each moment. Some of them may be stacks, with
            shares `(N, X, W)`, where the model takes them.

    Returns:
        A 0-d floating tensor in the unit of `model`, differentiable with respect to the counts and
        to the shares. Costs that are plain numbers become float64, so that whole counts stay exact.

    Raises:
        ValueError: If a cost spans more candidates than its probability, or if `model` combines
            candidates to anything but one number.

    Example:
        >>> @cost(unit="channel")
        ... def channels(layer):
        ...     return layer.cout
        >>> fc = LayerSpec(name="fc", op="linear", cin=4, cout=2)
        >>> total(channels, [(fc, torch.tensor(1.0)), (fc, torch.tensor(0.5))]).item()
        3.0
    """
    terms = [
        _combined(model, layer, probability)
        for layer, probability in layers
        if not (model.once and layer.repeat > 0)
    ]
    if not terms:
        return torch.zeros((), dtype=torch.float64)
    joined = torch.cat([term.flatten() for term in terms])
    return ste.largest(joined) if model.peak else joined.sum()


def _fits(costs: Tensor, probability: Tensor) -> bool:
    """Whether `costs` broadcasts to `probability` without making it larger."""
    if costs.numel() == 1:
        return True
    axes = zip(reversed(costs.shape), reversed(probability.shape), strict=False)
    return costs.ndim <= probability.ndim and all(size in (1, most) for size, most in axes)


def _combined(model: CostModel, layer: LayerSpec, probability: Tensor) -> Tensor:
    value = model(layer)
    if not isinstance(value, Tensor):
        # Made where it is used: a copy from the host would have a GPU wait for it.
        value = torch.full((), value, dtype=torch.float64, device=probability.device)
    elif not value.is_floating_point():
        value = value.double()
    if not _fits(value, probability):
        raise ValueError(
            f"`probability` must have one entry per candidate, but got {tuple(probability.shape)=} "
            f"for {tuple(value.shape)} costs of {model.name!r} in layer {layer.name!r}; pass the "
            "share of every pair of bit-widths."
        )
    term = model.combine(value, probability)
    if term.shape != probability.shape[:-2]:
        raise ValueError(
            f"`combine` must return one number, but got {tuple(term.shape)=} of {model.name!r} in "
            f"layer {layer.name!r}; sum over the candidates."
        )
    return term
