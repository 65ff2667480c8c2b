"""An integer net as data: which operations run, in their order, on tensors of whole numbers.

A tensor holds codes. The value of a code is `scale * code`, so zero is code 0 and there are no
offsets. Every operation that leaves one scale for another multiplies by a *word*, a positive number
`mantissa / 2^shift` with a mantissa of 24 bits:

    rescale(a) = clamp(floor((a * mantissa + 2^(shift - 1)) / 2^shift), low, high)

which rounds to nearest, halves upwards. Sums are formed in 32 bits, products with a mantissa in 64.
A ReLU or another clipping activation is nothing but the limits `low` and `high`.

Shapes are those of one item, without the batch: `C` channels first, then axes `S`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

MANTISSA_BITS = 24
MAX_SHIFT = 62  # [bit] so that half of the last place can be added in 64
INT32_MAX = 2**31 - 1
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The whole numbers that a tensor may hold, and what they mean.

    Args:
        scale: Value of one code.
        bits: Width of a code; 32 for the sums that a net returns without rounding.
        signed: Whether there are codes below 0.

    Example:
        >>> Grid(scale=0.5, bits=4, signed=True).low, Grid(scale=0.5, bits=4, signed=False).high
        (-8, 15)
    """

    scale: float
    bits: int
    signed: bool

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << self.bits - self.signed) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A tensor of the program: `shape` of one item, and its grid."""

    shape: tuple[int, ...]
    grid: Grid

    @property
    def size(self) -> int:
        """Elements of one item."""
        return torch.Size(self.shape).numel()


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What all operations have: the names of the values that they read and of the one they make."""

    kind: ClassVar[str]
    output: str
    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Conv(Operation):
    """A convolution of `(C_in, *S_in)` to `(C_out, *S_out)`, or without axes a linear layer.

    A linear layer (no `stride`) works on the last axis of `(..., C_in)`. Sums of products and the
    bias are 32-bit; each output channel has a word of its own.

    Constants, with `L` for `layer` and `O` for `output`: "L.weight" `(C_out, C_in / groups, *K)` or
    `(C_out, C_in)` int8 codes; "L.bits" `(C_out,)` uint8 their widths; "L.bias" `(C_out,)` int32;
    "O.mantissa" `(C_out,)` int32; "O.shift" `(C_out,)` uint8.

    Args:
        layer: Whose weights; calls of one layer share them.
        stride: Steps per axis.
        padding: Zeros before and after, per axis.
        dilation: Distance of taps, per axis.
        groups: Channel groups.
        low: Smallest result.
        high: Largest result.
    """

    kind: ClassVar[str] = "conv"
    layer: str
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Add(Operation):
    """A sum of operands that broadcast: `rescale` of `sum(mantissas[i] * inputs[i])`.

    Mantissas are whole, below 2^24 in magnitude, negative where an operand is subtracted.
    """

    kind: ClassVar[str] = "add"
    mantissas: tuple[int, ...]
    shift: int
    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Multiply(Operation):
    """A product of two operands that broadcast: `rescale` of `inputs[0] * inputs[1]`."""

    kind: ClassVar[str] = "multiply"
    mantissa: int
    shift: int
    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Average(Operation):
    """`rescale` of the sum over windows of `(C, *S)`; zeros are around it, and the word divides."""

    kind: ClassVar[str] = "average"
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    mantissa: int
    shift: int
    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Maximum(Operation):
    """The largest code in windows of `(C, *S)`; what lies outside does not count."""

    kind: ClassVar[str] = "maximum"
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Lookup(Operation):
    """Any function of single codes: `table[code - low]`, `low` the smallest code of the input.

    Constant, with `O` for `output`: "O.table" `(2^bits,)` int32.
    """

    kind: ClassVar[str] = "lookup"


@dataclass(frozen=True, kw_only=True)
class Move(Operation):
    """Elements in another order or shape, out of one or several inputs on the same grid.

    Element `i` of the result, in row-major order, is element `index[i]` of all inputs laid end to
    end, each in row-major order, and 0 where `index[i]` is -1. Where `same`, the order is that of
    the only input, and there is no index.

    Constant, with `O` for `output`: "O.index" int32 of the shape of the result, unless `same`.
    """

    kind: ClassVar[str] = "move"
    same: bool


KINDS: Mapping[str, type[Operation]] = {
    cls.kind: cls for cls in (Conv, Add, Multiply, Average, Maximum, Lookup, Move)
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A whole integer net.

    Args:
        inputs: Names of the values that it reads, in the order of the net's arguments.
        outputs: Names of the values that it returns, in their order.
        structure: How the net nests its outputs, as `torch.utils._pytree.treespec_dumps` says it.
        values: Every value by its name.
        operations: In the order in which they run.
        constants: Integer tensors, by the names that the operations give.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    structure: str
    values: Mapping[str, Value]
    operations: tuple[Operation, ...]
    constants: Mapping[str, Tensor] = field(repr=False)

    def describe(self) -> dict[str, Any]:
        """All but the constants, as JSON."""
        return {
            "version": VERSION,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "structure": self.structure,
            "values": {name: asdict(value) for name, value in self.values.items()},
            "operations": [{"kind": o.kind, **asdict(o)} for o in self.operations],
        }


def restore(description: Mapping[str, Any], constants: Mapping[str, Tensor]) -> Program:
    """The program that `Program.describe` wrote.

    Args:
        description: JSON values.
        constants: As the program had them.

    Raises:
        ValueError: When the description is of another version or not of a program.
    """
    try:
        if description["version"] != VERSION:
            raise ValueError(f"it has version {description['version']}")
        values = {
            name: Value(shape=tuple(value["shape"]), grid=Grid(**value["grid"]))
            for name, value in description["values"].items()
        }
        return Program(
            inputs=tuple(description["inputs"]),
            outputs=tuple(description["outputs"]),
            structure=str(description["structure"]),
            values=values,
            operations=tuple(_operation(stored) for stored in description["operations"]),
            constants=dict(constants),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"A stored program must be one that version {VERSION} wrote, but this is not: "
            f"{type(error).__name__}: {reason}; export the trial again."
        ) from error


def _operation(stored: Mapping[str, Any]) -> Operation:
    fields = {name: _frozen(value) for name, value in stored.items() if name != "kind"}
    return KINDS[stored["kind"]](**fields)


def _frozen(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


# -- words ----------------------------------------------------------------------------------------


def words(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Mantissas and shifts of positive factors: `factor = mantissa / 2^shift` to 24 bits.

    A factor so small that every 32-bit sum rounds to 0 has mantissa 0.

    Args:
        factors: Any shape.

    Raises:
        ValueError: When a factor is not positive, or too large for a word.

    Example:
        >>> words(torch.tensor([0.75, 1 / 1024]))
        (tensor([12582912,  8388608], dtype=torch.int32), tensor([24, 33], dtype=torch.uint8))
    """
    factors = factors.double()
    if not bool(((factors > 0) & (factors < 2.0 ** (MANTISSA_BITS - 1))).all()):
        raise ValueError(
            f"A factor between two scales must be above 0 and below 2^{MANTISSA_BITS - 1}, but "
            f"they are {factors.min().item():g} to {factors.max().item():g}; look for a clip or a "
            f"weight that grew without bound."
        )
    fraction, exponent = torch.frexp(factors)
    mantissa = (fraction * 2**MANTISSA_BITS).round().long()
    carried = mantissa == 2**MANTISSA_BITS
    mantissa = torch.where(carried, mantissa // 2, mantissa)
    shift = MANTISSA_BITS - exponent.long() - carried.long()
    gone = shift > MAX_SHIFT
    mantissa, shift = torch.where(gone, 0, mantissa), torch.where(gone, 1, shift)
    return mantissa.int(), shift.to(torch.uint8)


def common_words(factors: list[float]) -> tuple[tuple[int, ...], int]:
    """Mantissas of several factors at one shift, that of the largest; signs are kept.

    Example:
        >>> common_words([0.5, -0.25])
        ((8388608, -4194304), 24)
    """
    _, shifts = words(torch.tensor([max(map(abs, factors))], dtype=torch.float64))
    shift = int(shifts)
    return tuple(round(factor * 2**shift) for factor in factors), shift


def rescale(sums: Tensor, mantissa: Tensor | int, shift: Tensor | int) -> Tensor:
    """`floor((sums * mantissa + 2^(shift - 1)) / 2^shift)` in 64-bit integers.

    Args:
        sums: int64, any shape.
        mantissa: A number, or int64 that broadcasts.
        shift: Above 0; a number, or int64 that broadcasts.

    Example:
        >>> rescale(torch.tensor([3, -3, 5]), 1 << 23, 24)  # halves go upwards
        tensor([ 2, -1,  3])
    """
    half = torch.ones_like(torch.as_tensor(shift)) << (torch.as_tensor(shift) - 1)
    scaled = sums * mantissa
    return scaled.add_(half).bitwise_right_shift_(torch.as_tensor(shift))
