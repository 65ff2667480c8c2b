"""Runs an integer net on whole numbers alone: what every other form of it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from plinio_sweep.ship.program import (
    Add,
    Average,
    Conv,
    Lookup,
    Maximum,
    Move,
    Multiply,
    Operation,
    Program,
    rescale,
)

Codes = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How an integer net compares with the fake-quantised one.

    Args:
        items: How many inputs were compared.
        codes: Largest difference of a result of one operation, both computed from equal codes
            [code].
        output: Largest difference of an output of the whole net, over its largest magnitude.
        same_class: Share of the items with the same arg-max of every output `(N, C)`.
    """

    items: int
    codes: int
    output: float
    same_class: float


@final
class IntegerNet(nn.Module):
    """A net of integers, in PyTorch.

    Called like the net that it was made of, it rounds floats to codes, runs on these, and gives the
    values of the codes that come out. All between is int32 tensors, products with a mantissa int64;
    all constants are in the `state_dict`.

    Args:
        program: What to run.

    Example:
        >>> from plinio_sweep import MPS, integerize
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.linspace(-1, 1, 8).reshape(2, 4)
        >>> exported = MPS(net, input_example=x, w_bits=(8,)).export().eval()
        >>> integers = integerize(exported, x)
        >>> torch.allclose(integers(x), exported(x), atol=0.01)
        True
        >>> integers.run(integers.quantize(x))[0].dtype
        torch.int32
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.agreement: Agreement | None = None  # where it was made here, not loaded
        self._structure = pytree.treespec_loads(program.structure)
        for name, value in program.constants.items():
            self.register_buffer(_buffer(name), value.clone())

    def forward(self, *inputs: Tensor) -> Any:
        """What the net gives for floats, in the structure of its outputs."""
        codes = self.run(self.quantize(*inputs))
        return pytree.tree_unflatten(self.dequantize(codes), self._structure)

    def quantize(self, *inputs: Tensor) -> Codes:
        """The int32 codes of inputs, as a device has to make them."""
        grids = [self.program.values[name].grid for name in self.program.inputs]
        # Times the inverse, as in training: a division rounds otherwise.
        return tuple(
            (x * (1 / torch.tensor(g.scale, dtype=x.dtype, device=x.device)))
            .round()
            .clamp(g.low, g.high)
            .int()
            for x, g in zip(inputs, grids, strict=True)
        )

    def dequantize(self, codes: Codes) -> list[Tensor]:
        """The values of output codes."""
        scales = [self.program.values[name].grid.scale for name in self.program.outputs]
        return [(code * scale).float() for code, scale in zip(codes, scales, strict=True)]

    def run(self, codes: Codes) -> Codes:
        """The codes of all outputs, int32, for those of all inputs, each `(N, …)`."""
        known = self.trace(codes)
        return tuple(known[name] for name in self.program.outputs)

    @torch.no_grad()
    def trace(self, codes: Codes) -> dict[str, Tensor]:
        """The codes of every value of the program, by name.

        Raises:
            ValueError: When the codes are no whole numbers, or not of the shapes of the inputs.
        """
        wanted = [self.program.values[name].shape for name in self.program.inputs]
        if [code.shape[1:] for code in codes] != wanted or any(
            c.is_floating_point() for c in codes
        ):
            given = [(tuple(code.shape), str(code.dtype)) for code in codes]
            raise ValueError(
                f"Codes must be whole numbers in batches of items of shapes {wanted}, but got "
                f"{given}; `quantize` makes them of floats."
            )
        known = dict(zip(self.program.inputs, codes, strict=True))
        for operation in self.program.operations:
            known[operation.output] = self.apply_one(operation, known)
        return known

    def apply_one(self, operation: Operation, known: dict[str, Tensor]) -> Tensor:
        """What one operation makes of the values that are known, int32."""
        inputs = [known[name] for name in operation.inputs]
        shape = self.program.values[operation.output].shape
        result = _RUN[type(operation)](self, operation, inputs)
        return result.reshape(inputs[0].shape[0], *shape)

    def constant(self, name: str) -> Tensor:
        """A constant of the program, on the device of this net."""
        return self.get_buffer(_buffer(name))


def _buffer(name: str) -> str:
    return name.replace(".", "/")  # a dot can't be in the name of a buffer


def _clamped(sums: Tensor, mantissa: Any, shift: Any, low: int, high: int) -> Tensor:
    return rescale(sums.long(), mantissa, shift).clamp_(low, high).int()


def _conv(net: IntegerNet, op: Conv, inputs: list[Tensor]) -> Tensor:
    weight = net.constant(f"{op.layer}.weight")
    (x,) = inputs
    # Others than those of the CPU may multiply by way of a transform, which rounds.
    products = convolved if op.stride and x.device.type == "cpu" else multiplied
    sums = products(x, weight, op) + net.constant(f"{op.layer}.bias")
    mantissa, shift = (net.constant(f"{op.output}.{n}").long() for n in ("mantissa", "shift"))
    result = _clamped(sums, mantissa, shift, op.low, op.high)
    return result.movedim(-1, 1) if op.stride else result


def convolved(x: Tensor, weight: Tensor, op: Conv) -> Tensor:
    """`(N, *O, C_out)` sums of products in int32, by the convolution of torch.

    No part of a sum leaves 32 bits (see `layers.py`), and below 2^53 a double holds them all.
    """
    padded = F.pad(x.double(), _sides(op.padding))
    convolve = _CONVOLVE[len(op.stride)]
    sums = convolve(padded, weight.double(), None, op.stride, 0, op.dilation, op.groups)
    return sums.int().movedim(1, -1)


def multiplied(x: Tensor, weight: Tensor, op: Conv) -> Tensor:
    """The same by a product of matrices, without axes as well: `(N, …, C_out)`."""
    axes = len(op.stride)
    x = x if axes else x[..., None, :]
    if axes:
        x = _windows(x, op.padding, weight.shape[2:], op.stride, op.dilation, 0)
        # (N, C, *O, *K) to (N, *O, C, *K): one row for each output position
        order = [0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes)]
        x = x.permute(order).flatten(1 + axes)
    x = x.reshape(*x.shape[:-1], op.groups, x.shape[-1] // op.groups)
    rows = weight.reshape(op.groups, len(weight) // op.groups, -1)
    flat = x.flatten(0, -3).movedim(1, 0)  # (G, P, K)
    sums = torch.bmm(flat.double(), rows.movedim(1, 2).double()).int()
    return sums.movedim(0, 1).reshape(*x.shape[:-2], len(weight))


_CONVOLVE: Mapping[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _sides(padding: tuple[tuple[int, int], ...]) -> list[int]:
    """Padding as torch wants it: the last axis first."""
    return [side for pair in reversed(padding) for side in pair]


def _windows(
    x: Tensor,
    padding: tuple[tuple[int, int], ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    outside: int,
) -> Tensor:
    """`(N, C, *O, *K)` windows of `(N, C, *S)`, with `outside` around."""
    x = F.pad(x, _sides(padding), value=outside)
    for axis, (taps, step, distance) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + axis, distance * (taps - 1) + 1, step)[..., ::distance]
    return x


def _add(net: IntegerNet, op: Add, inputs: list[Tensor]) -> Tensor:
    terms = [x.long() * m for x, m in zip(_aligned(inputs), op.mantissas, strict=True)]
    return _clamped(sum(terms[1:], start=terms[0]), 1, op.shift, op.low, op.high)


def _multiply(net: IntegerNet, op: Multiply, inputs: list[Tensor]) -> Tensor:
    left, right = _aligned(inputs)
    return _clamped(left.long() * right, op.mantissa, op.shift, op.low, op.high)


def _aligned(inputs: list[Tensor]) -> list[Tensor]:
    """Operands with as many axes each: broadcasting goes by items, and counts axes from behind."""
    axes = max(x.ndim for x in inputs)
    return [x.reshape(x.shape[0], *[1] * (axes - x.ndim), *x.shape[1:]) for x in inputs]


def _average(net: IntegerNet, op: Average, inputs: list[Tensor]) -> Tensor:
    ones = (1,) * len(op.kernel)
    windows = _windows(inputs[0], op.padding, op.kernel, op.stride, ones, 0)
    sums = windows.flatten(-len(op.kernel)).sum(-1)
    return _clamped(sums, op.mantissa, op.shift, op.low, op.high)


def _maximum(net: IntegerNet, op: Maximum, inputs: list[Tensor]) -> Tensor:
    least = torch.iinfo(torch.int32).min
    windows = _windows(inputs[0], op.padding, op.kernel, op.stride, op.dilation, least)
    return windows.flatten(-len(op.kernel)).amax(-1)


def _lookup(net: IntegerNet, op: Lookup, inputs: list[Tensor]) -> Tensor:
    low = net.program.values[op.inputs[0]].grid.low
    return net.constant(f"{op.output}.table")[(inputs[0] - low).long()]


def _move(net: IntegerNet, op: Move, inputs: list[Tensor]) -> Tensor:
    flat = torch.cat([x.flatten(1) for x in inputs], 1)
    if op.same:
        return flat
    index = net.constant(f"{op.output}.index").flatten().long()
    return torch.where(index < 0, 0, flat[:, index.clamp(min=0)])


_RUN: dict[type[Operation], Callable[[IntegerNet, Any, list[Tensor]], Tensor]] = {
    Conv: _conv,
    Add: _add,
    Multiply: _multiply,
    Average: _average,
    Maximum: _maximum,
    Lookup: _lookup,
    Move: _move,
}
