"""Integer nets by hand, and what they compute: slowly, in numpy, with nothing of the library's.

Shapes: `N` items.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import torch

from plinio_sweep.ship.program import (
    Add,
    Average,
    Conv,
    Grid,
    Lookup,
    Maximum,
    Move,
    Multiply,
    Operation,
    Program,
    Value,
)

Codes = np.ndarray[Any, np.dtype[np.int64]]


class Net:
    """A program in the making; every method adds an operation and names its result."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.inputs: list[str] = []
        self.values: dict[str, Value] = {}
        self.operations: list[Operation] = []
        self.constants: dict[str, torch.Tensor] = {}

    def value(self, shape: tuple[int, ...], bits: int, signed: bool) -> str:
        name = f"v{len(self.values)}"
        self.values[name] = Value(shape=shape, grid=Grid(scale=0.1, bits=bits, signed=signed))
        return name

    def input(self, shape: tuple[int, ...], bits: int = 8, signed: bool = True) -> str:
        self.inputs.append(self.value(shape, bits, signed))
        return self.inputs[-1]

    def limits(self, output: str) -> dict[str, int]:
        grid = self.values[output].grid
        return {"low": grid.low, "high": grid.high}

    def weights(self, shape: tuple[int, ...], bits: list[int]) -> torch.Tensor:
        """Codes from the whole range of each row; some rows of one bit are all 0."""
        rows = []
        for width in bits:
            half = 1 << width - 1
            row = self.random.integers(-half, half, shape[1:])
            if width == 1:
                row = 2 * (row + 1) - 1
                row = row * self.random.integers(0, 2) if shape[0] > 3 else row
            rows.append(row)
        return torch.from_numpy(np.stack(rows)).to(torch.int8)

    def word(self, x: str, weight: float, terms: int, output: str) -> tuple[int, int]:
        """A mantissa and a shift that spread sums of random terms over the output's codes."""
        spread = self.values[x].grid.high * weight * math.sqrt(terms) / 2
        exponent = math.log2(spread / (self.values[output].grid.high / 2))
        if self.values[output].grid.bits == 32:  # sums as they are, more or less
            exponent = 0.0
        shift = min(max(round(exponent) + 24, 1), 62)
        return int(self.random.integers(1 << 23, 1 << 24)), shift

    def conv(
        self,
        x: str,
        bits: list[int],
        kernel: tuple[int, ...] = (),
        *,
        stride: tuple[int, ...] = (),
        padding: tuple[tuple[int, int], ...] = (),
        dilation: tuple[int, ...] = (),
        groups: int = 1,
        out: tuple[int, bool] = (8, True),
        layer: str | None = None,
    ) -> str:
        shape = self.values[x].shape
        axes, channels = len(kernel), len(bits)
        stride = stride or (1,) * axes
        padding = padding or ((0, 0),) * axes
        dilation = dilation or (1,) * axes
        columns = shape[0] // groups if axes else shape[-1]
        result = [
            (size + sum(pad) - d * (k - 1) - 1) // s + 1
            for size, pad, d, k, s in zip(
                shape[1:], padding, dilation, kernel, stride, strict=False
            )
        ]
        output = self.value((channels, *result) if axes else (*shape[:-1], channels), *out)
        if layer is None:
            layer = f"layer{len(self.operations)}"
            self.constants[f"{layer}.weight"] = self.weights((channels, columns, *kernel), bits)
            self.constants[f"{layer}.bits"] = torch.tensor(bits, dtype=torch.uint8)
            bias = self.random.integers(-1000, 1000, channels)
            self.constants[f"{layer}.bias"] = torch.from_numpy(bias).int()
        terms = columns * math.prod(kernel)
        words = [self.word(x, 1 << width - 1, terms, output) for width in bits]
        self.constants[f"{output}.mantissa"] = torch.tensor([m for m, _ in words]).int()
        self.constants[f"{output}.shift"] = torch.tensor([s for _, s in words]).to(torch.uint8)
        geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        self.operations.append(
            Conv(
                output=output,
                inputs=(x,),
                layer=layer,
                **(geometry if axes else {}),
                **self.limits(output),
            )
        )
        return output

    def add(self, *operands: str, out: tuple[int, bool] = (8, True)) -> str:
        shapes = [self.values[name].shape for name in operands]
        output = self.value(np.broadcast_shapes(*shapes), *out)
        mantissas = tuple(map(int, self.random.integers(-(1 << 24) + 1, 1 << 24, len(operands))))
        _, shift = self.word(operands[0], 1, len(operands), output)
        self.operations.append(
            Add(
                output=output,
                inputs=operands,
                mantissas=mantissas,
                shift=shift,
                **self.limits(output),
            )
        )
        return output

    def multiply(self, x: str, y: str, out: tuple[int, bool] = (8, True)) -> str:
        shapes = [self.values[name].shape for name in (x, y)]
        output = self.value(np.broadcast_shapes(*shapes), *out)
        mantissa, shift = self.word(x, self.values[y].grid.high, 1, output)
        self.operations.append(
            Multiply(
                output=output,
                inputs=(x, y),
                mantissa=mantissa,
                shift=shift,
                **self.limits(output),
            )
        )
        return output

    def pool(
        self,
        x: str,
        kernel: tuple[int, ...],
        *,
        stride: tuple[int, ...] = (),
        padding: tuple[tuple[int, int], ...] = (),
        dilation: tuple[int, ...] = (),
        ceil: bool = False,
        average: bool = False,
        out: tuple[int, bool] = (8, True),
    ) -> str:
        shape, grid = self.values[x].shape, self.values[x].grid
        padding = padding or ((0, 0),) * len(kernel)
        dilation = dilation or (1,) * len(kernel)
        stride = stride or kernel
        result = []
        for size, k, s, pad, d in zip(shape[1:], kernel, stride, padding, dilation, strict=True):
            room = size + sum(pad) - d * (k - 1) - 1
            steps = -(-room // s) if ceil else room // s
            if ceil and steps * s >= size + pad[0]:  # as torch: windows begin inside
                steps -= 1
            result.append(steps + 1)
        output = self.value((shape[0], *result), *(out if average else (grid.bits, grid.signed)))
        geometry = {"kernel": kernel, "stride": stride, "padding": padding}
        if average:
            mantissa, shift = self.word(x, 1, math.prod(kernel), output)
            word = {"mantissa": mantissa, "shift": shift, **self.limits(output)}
            self.operations.append(Average(output=output, inputs=(x,), **geometry, **word))
        else:
            self.operations.append(
                Maximum(output=output, inputs=(x,), **geometry, dilation=dilation)
            )
        return output

    def lookup(self, x: str, out: tuple[int, bool] = (8, True)) -> str:
        output = self.value(self.values[x].shape, *out)
        grid = self.values[output].grid
        table = self.random.integers(grid.low, grid.high + 1, 1 << self.values[x].grid.bits)
        self.constants[f"{output}.table"] = torch.from_numpy(table).int()
        self.operations.append(Lookup(output=output, inputs=(x,)))
        return output

    def move(self, *operands: str, index: Codes) -> str:
        grid = self.values[operands[0]].grid
        output = self.value(index.shape, grid.bits, grid.signed)
        self.constants[f"{output}.index"] = torch.from_numpy(np.ascontiguousarray(index)).int()
        self.operations.append(Move(output=output, inputs=operands, same=False))
        return output

    def view(self, x: str, shape: tuple[int, ...]) -> str:
        grid = self.values[x].grid
        output = self.value(shape, grid.bits, grid.signed)
        self.operations.append(Move(output=output, inputs=(x,), same=True))
        return output

    def program(self, *outputs: str) -> Program:
        return Program(
            inputs=tuple(self.inputs),
            outputs=outputs,
            structure="",
            values=self.values,
            operations=tuple(self.operations),
            constants=self.constants,
        )


def items(program: Program, count: int, seed: int = 0) -> list[Codes]:
    """Random inputs `(N, ...)` of a program; the first items are the extremes of each grid."""
    random = np.random.default_rng(seed)
    found = []
    for name in program.inputs:
        grid, shape = program.values[name].grid, program.values[name].shape
        codes = random.integers(grid.low, grid.high + 1, (count, *shape))
        codes[:2] = np.array([grid.low, grid.high])[: min(count, 2)].reshape(-1, *[1] * len(shape))
        found.append(codes)
    return found


def compute(program: Program, inputs: list[Codes]) -> list[Codes]:
    """Outputs `(N, ...)` of a program."""
    known = dict(zip(program.inputs, inputs, strict=True))
    for o in program.operations:
        operands = [known[name] for name in o.inputs]
        known[o.output] = _apply(program, o, operands)
    return [known[name] for name in program.outputs]


def _apply(program: Program, o: Operation, operands: list[Codes]) -> Codes:
    x, shape = operands[0], program.values[o.output].shape
    match o:
        case Conv():
            return _conv(program, o, x)
        case Add():
            sums = sum(m * _fit(y, len(shape)) for m, y in zip(o.mantissas, operands, strict=True))
            return _scaled(np.asarray(sums), 1, o.shift, o.low, o.high)
        case Multiply():
            sums = _fit(x, len(shape)) * _fit(operands[1], len(shape))
            return _scaled(sums, o.mantissa, o.shift, o.low, o.high)
        case Average():
            taps = _taps(x, shape, o.kernel, o.stride, o.padding, (1,) * len(o.kernel), 0)
            return _scaled(sum(taps), o.mantissa, o.shift, o.low, o.high)
        case Maximum():
            nothing = -(2**40)
            return np.max(_taps(x, shape, o.kernel, o.stride, o.padding, o.dilation, nothing), 0)
        case Lookup():
            table = program.constants[f"{o.output}.table"].numpy().astype(np.int64)
            return table[x - program.values[o.inputs[0]].grid.low]
        case Move(same=True):
            return x.reshape(len(x), *shape)
    index = program.constants[f"{o.output}.index"].numpy()
    zero = np.zeros((len(x), 1), dtype=np.int64)
    joined = np.concatenate([*(y.reshape(len(y), -1) for y in operands), zero], axis=1)
    return joined[:, index.flatten()].reshape(len(x), *shape)


def _fit(x: Codes, axes: int) -> Codes:
    """Axes for broadcasting behind the first, that of the items."""
    return x.reshape(len(x), *[1] * (axes + 1 - x.ndim), *x.shape[1:])


def _scaled(sums: Any, mantissa: Any, shift: Any, low: int, high: int) -> Codes:
    one = np.int64(1)
    product_ = np.asarray(sums, dtype=np.int64) * mantissa
    return np.clip((product_ + (one << (shift - 1))) // (one << shift), low, high)


def _conv(program: Program, o: Conv, x: Codes) -> Codes:
    constants = {
        name: program.constants[f"{o.layer}.{name}"].numpy().astype(np.int64)
        for name in ("weight", "bias")
    }
    words = [program.constants[f"{o.output}.{name}"].numpy().astype(np.int64) for name in WORD]
    weight, bias = constants["weight"], constants["bias"]
    if not o.stride:
        return _scaled(x @ weight.T + bias, *words, o.low, o.high)
    shape = program.values[o.output].shape
    taps = _taps(x, shape, weight.shape[2:], o.stride, o.padding, o.dilation, 0)
    channels, columns = weight.shape[:2]
    per_group = channels // o.groups
    sums = []
    for channel in range(channels):
        first = channel // per_group * columns
        row = weight[channel].reshape(columns, -1)
        sums.append(
            sum(
                tap[:, first + c] * row[c, number]
                for number, tap in enumerate(taps)
                for c in range(columns)
            )
            + bias[channel]
        )
    mantissa, shift = (word.reshape(-1, *[1] * len(o.stride)) for word in words)
    return _scaled(np.stack(sums, axis=1), mantissa, shift, o.low, o.high)


WORD = ("mantissa", "shift")


def _taps(
    x: Codes,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    outside: int,
) -> list[Codes]:
    """What each tap of the window sees at each place of the result, `(N, C, *S)` each."""
    found = []
    for tap in product(*map(range, kernel)):
        seen = x
        for axis, (t, size, s, pad, d) in enumerate(
            zip(tap, shape[1:], stride, padding, dilation, strict=True), start=2
        ):
            places = np.arange(size) * s - pad[0] + t * d
            inside = (places >= 0) & (places < x.shape[axis])
            seen = np.take(seen, np.where(inside, places, 0), axis=axis)
            where = inside.reshape([-1 if a == axis else 1 for a in range(seen.ndim)])
            seen = np.where(where, seen, outside)
        found.append(seen)
    return found
