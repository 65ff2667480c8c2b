"""Random integer programs of every operation, and what they compute, in exact arithmetic.

The arithmetic is written here once more, apart from that of the library: sums of whole numbers in
double precision, which holds them up to 2^53.
"""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

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
    common_words,
    words,
)

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
LEAF = "*"  # one output and no structure around it


def run_exactly(program: Program, codes: dict[str, Tensor]) -> dict[str, Tensor]:
    """The codes of all values, int64 `(N, ...)`, for those of the inputs."""
    known = dict(codes)
    for operation in program.operations:
        known[operation.output] = apply_exactly(operation, program, known)
    return known


def quantize(program: Program, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The codes of float inputs."""
    found = {}
    for name, x in inputs.items():
        grid = program.values[name].grid
        found[name] = (x.double() / grid.scale).round().clamp(grid.low, grid.high).long()
    return found


def apply_exactly(op: Operation, program: Program, known: dict[str, Tensor]) -> Tensor:
    x, *others = (known[name] for name in op.inputs)
    constants = program.constants
    shape = program.values[op.output].shape
    match op:
        case Conv():
            weight = constants[f"{op.layer}.weight"].double()
            bias = constants[f"{op.layer}.bias"].double()
            if op.stride:
                conv = CONVS[len(op.stride)]
                sums = conv(
                    padded(x.double(), op.padding, 0),
                    weight,
                    bias,
                    op.stride,
                    0,
                    op.dilation,
                    op.groups,
                )
                column = [-1] + [1] * len(op.stride)
            else:
                sums, column = F.linear(x.double(), weight, bias), [-1]
            assert sums.abs().max() < 2**31
            mantissa = constants[f"{op.output}.mantissa"].long().reshape(column)
            shift = constants[f"{op.output}.shift"].long().reshape(column)
            result = rescaled(sums.long(), mantissa, shift, op)
        case Add():
            terms = [a * m for a, m in zip(aligned([x, *others]), op.mantissas, strict=True)]
            result = rescaled(sum(terms[1:], start=terms[0]), 1, op.shift, op)
        case Multiply():
            left, right = aligned([x, *others])
            result = rescaled(left * right, op.mantissa, op.shift, op)
        case Average():
            ones = torch.ones(x.shape[1], 1, *op.kernel, dtype=torch.double)
            around = padded(x.double(), op.padding, 0)
            sums = CONVS[len(op.kernel)](around, ones, None, op.stride, groups=x.shape[1])
            result = rescaled(sums.long(), op.mantissa, op.shift, op)
        case Maximum():
            around = padded(x.double(), op.padding, -math.inf)
            pool = POOLS[len(op.kernel)]
            result = pool(around, op.kernel, op.stride, 0, op.dilation).long()
        case Lookup():
            low = program.values[op.inputs[0]].grid.low
            result = constants[f"{op.output}.table"].long()[x - low]
        case Move():
            flat = torch.cat([a.flatten(1) for a in (x, *others)], 1)
            if not op.same:
                index = constants[f"{op.output}.index"].flatten().long()
                flat = torch.cat([flat, torch.zeros_like(flat[:, :1])], 1)[:, index]
            result = flat
    return result.reshape(len(x), *shape)


def padded(x: Tensor, padding: tuple[tuple[int, int], ...], value: float) -> Tensor:
    return F.pad(x, [side for pair in reversed(padding) for side in pair], value=value)


def aligned(inputs: list[Tensor]) -> list[Tensor]:
    axes = max(x.ndim for x in inputs)
    return [x.reshape(len(x), *[1] * (axes - x.ndim), *x.shape[1:]) for x in inputs]


def rescaled(sums: Tensor, mantissa: Any, shift: Any, op: Any) -> Tensor:
    """Python's whole numbers have no width."""
    wide = torch.broadcast_tensors(sums, torch.as_tensor(mantissa), torch.as_tensor(shift))
    found = [
        min(max((a * m + (1 << (s - 1))) >> s, op.low), op.high)
        for a, m, s in zip(*(value.flatten().tolist() for value in wide), strict=True)
    ]
    return torch.tensor(found).reshape(sums.shape)


class Builder:
    """Makes a program step by step, with scales that suit the codes which come.

    Args:
        seed: Of all that is drawn.
        plain: Whether scales are powers of two, so that many results lie half-way between codes.
    """

    def __init__(self, seed: int, *, plain: bool = False) -> None:
        self.draw = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.plain = plain
        self.values: dict[str, Value] = {}
        self.operations: list[Operation] = []
        self.constants: dict[str, Tensor] = {}
        self.codes: dict[str, Tensor] = {}
        self.inputs: list[str] = []

    def program(self, *outputs: str) -> Program:
        return Program(
            inputs=tuple(self.inputs),
            outputs=outputs,
            structure=LEAF,
            values=self.values,
            operations=tuple(self.operations),
            constants=self.constants,
        )

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def scale(self, near: float) -> float:
        """A scale about as large as `near`."""
        if self.plain:
            return 2.0 ** round(math.log2(near))
        return near * self.draw.uniform(0.7, 1.4)

    def grid(self, near: float, bits: int = 8, *, signed: bool | None = None) -> Grid:
        """A grid whose largest code is worth about `near`."""
        sign = self.draw.random() < 0.5 if signed is None else signed
        if bits == 32:  # sums that are returned: signed, and far from the largest
            return Grid(scale=self.scale(near / 2**16), bits=bits, signed=True)
        return Grid(scale=self.scale(near / 2 ** (bits - sign)), bits=bits, signed=sign)

    def reach(self, name: str) -> float:
        """The largest value seen at `name`."""
        return max(1, int(self.codes[name].abs().max())) * self.values[name].grid.scale

    def input(self, *shape: int, bits: int = 8) -> str:
        name = f"x{len(self.inputs)}"
        grid = self.grid(3.0, bits)
        self.values[name] = Value(shape=shape, grid=grid)
        self.codes[name] = self.integers(grid.low, grid.high, 4, *shape)
        self.inputs.append(name)
        return name

    def _new(self, kind: str) -> str:
        return f"{kind}_{len(self.operations)}"

    def _append(self, op: Operation, grid: Grid, shape: tuple[int, ...]) -> str:
        self.values[op.output] = Value(shape=shape, grid=grid)
        self.operations.append(op)
        program = self.program(op.output)
        self.codes[op.output] = apply_exactly(op, program, self.codes)
        return op.output

    def _limits(self, grid: Grid) -> dict[str, int]:
        """All codes, those of a ReLU, or those of a clip."""
        draw = self.draw.random()
        if draw < 0.4 or grid.bits == 32:
            return {"low": grid.low, "high": grid.high}
        return {"low": max(0, grid.low), "high": grid.high - (grid.high // 3 if draw > 0.7 else 0)}

    def conv(
        self,
        x: str,
        cout: int = 5,
        kernel: tuple[int, ...] = (3, 3),
        *,
        stride: tuple[int, ...] | None = None,
        padding: tuple[tuple[int, int], ...] | None = None,
        dilation: tuple[int, ...] | None = None,
        groups: int = 1,
        w_bits: tuple[int, ...] = (2, 4, 8),
        bits: int = 8,
        layer: str | None = None,
    ) -> str:
        """A convolution with random weights; without a kernel a linear layer."""
        shape, axes = self.values[x].shape, len(kernel)
        cin = shape[0] if axes else shape[-1]
        output = self._new("conv")
        layer = layer or f"layer_{len(self.operations)}"
        if f"{layer}.weight" not in self.constants:
            self._weights(layer, (cout, cin // groups, *kernel), w_bits)
        geometry = {
            "stride": stride or (1,) * axes,
            "padding": padding or ((1, 1),) * axes,
            "dilation": dilation or (1,) * axes,
        }
        if axes:
            around = torch.empty(1, cin, *shape[1:])
            around = padded(around, geometry["padding"], 0)
            empty = torch.empty(cout, cin // groups, *kernel)
            steps = (geometry["stride"], 0, geometry["dilation"], groups)
            after = tuple(CONVS[axes](around, empty, None, *steps).shape[1:])
        else:
            after = (*shape[:-1], cout)
        found = self._sums(x, layer, after, geometry, groups, output)
        grid = self.grid(3.0, bits)
        factors = (
            min(grid.high, 2**16)
            / found.clamp(min=1)
            * (0.3 + torch.rand(cout, generator=self.generator))
        )
        if self.plain:
            factors = 2.0 ** factors.log2().round()
        mantissa, shift = words(factors.clamp(max=2.0**20))
        self.constants |= {f"{output}.mantissa": mantissa, f"{output}.shift": shift}
        op = Conv(
            output=output,
            inputs=(x,),
            layer=layer,
            groups=groups,
            **(geometry if axes else {}),
            **self._limits(grid),
        )
        return self._append(op, grid, after)

    def _weights(self, layer: str, shape: tuple[int, ...], w_bits: tuple[int, ...]) -> None:
        bits = torch.tensor([self.draw.choice(w_bits) for _ in range(shape[0])])
        limit = (2 ** (bits - 1) - 1).reshape(-1, *[1] * (len(shape) - 1))
        signs = torch.where(self.integers(0, 1, *shape) > 0, 1, -1)
        codes = self.integers(-(2**20), 2**20, *shape) % (2 * limit + 1) - limit
        self.constants |= {
            f"{layer}.weight": torch.where(limit == 0, signs, codes).to(torch.int8),
            f"{layer}.bits": bits.to(torch.uint8),
            f"{layer}.bias": self.integers(-500, 500, shape[0]).int(),
        }

    def _sums(
        self, x: str, layer: str, after: tuple[int, ...], geometry: Any, groups: int, output: str
    ) -> Tensor:
        """The largest sum of each channel: what a word of 1 would give."""
        ones = torch.ones(len(self.constants[f"{layer}.bias"]), dtype=torch.int32)
        trial = {f"{output}.mantissa": 2 * ones, f"{output}.shift": ones.to(torch.uint8)}
        axes = len(geometry["stride"])
        op = Conv(
            output=output,
            inputs=(x,),
            layer=layer,
            groups=groups,
            low=-(2**31),
            high=2**31,
            **(geometry if axes else {}),
        )
        value = Value(shape=after, grid=Grid(scale=1.0, bits=32, signed=True))
        program = Program(
            inputs=(),
            outputs=(),
            structure=LEAF,
            values={**self.values, output: value},
            operations=(),
            constants=self.constants | trial,
        )
        sums = apply_exactly(op, program, self.codes).abs().double()
        return sums.movedim(1 if axes else -1, 0).flatten(1).amax(1)

    def linear(self, x: str, cout: int = 4, **given: Any) -> str:
        return self.conv(x, cout, (), **given)

    def add(self, *inputs: str, signs: tuple[float, ...] | None = None, bits: int = 8) -> str:
        factors = signs or (1.0,) * len(inputs)
        reach = sum(abs(f) * self.reach(n) for f, n in zip(factors, inputs, strict=True))
        grid = self.grid(reach, bits)
        scales = [self.values[n].grid.scale / grid.scale for n in inputs]
        mantissas, shift = common_words([f * s for f, s in zip(factors, scales, strict=True)])
        shape = torch.broadcast_shapes(*(self.values[n].shape for n in inputs))
        op = Add(
            output=self._new("add"),
            inputs=inputs,
            mantissas=mantissas,
            shift=shift,
            **self._limits(grid),
        )
        return self._append(op, grid, tuple(shape))

    def multiply(self, left: str, right: str, bits: int = 8) -> str:
        grid = self.grid(self.reach(left) * self.reach(right), bits)
        scales = self.values[left].grid.scale * self.values[right].grid.scale
        mantissa, shift = words(torch.tensor([scales / grid.scale], dtype=torch.double))
        shape = torch.broadcast_shapes(self.values[left].shape, self.values[right].shape)
        op = Multiply(
            output=self._new("multiply"),
            inputs=(left, right),
            mantissa=int(mantissa),
            shift=int(shift),
            **self._limits(grid),
        )
        return self._append(op, grid, tuple(shape))

    def average(
        self,
        x: str,
        kernel: tuple[int, ...],
        stride: tuple[int, ...] | None = None,
        padding: tuple[tuple[int, int], ...] | None = None,
        *,
        divisor: int | None = None,
        bits: int = 8,
    ) -> str:
        grid = self.grid(self.reach(x), bits)
        if self.plain:
            grid = Grid(scale=self.values[x].grid.scale, bits=bits, signed=grid.signed)
        scale = self.values[x].grid.scale / grid.scale / (divisor or math.prod(kernel))
        mantissa, shift = words(torch.tensor([scale], dtype=torch.double))
        step, sides = stride or kernel, padding or ((0, 0),) * len(kernel)
        op = Average(
            output=self._new("average"),
            inputs=(x,),
            kernel=kernel,
            stride=step,
            padding=sides,
            mantissa=int(mantissa),
            shift=int(shift),
            **self._limits(grid),
        )
        return self._append(op, grid, self._pooled(x, kernel, step, sides, (1,) * len(kernel)))

    def maximum(
        self,
        x: str,
        kernel: tuple[int, ...],
        stride: tuple[int, ...] | None = None,
        padding: tuple[tuple[int, int], ...] | None = None,
        dilation: tuple[int, ...] | None = None,
    ) -> str:
        step, sides = stride or kernel, padding or ((0, 0),) * len(kernel)
        distance = dilation or (1,) * len(kernel)
        op = Maximum(
            output=self._new("maximum"),
            inputs=(x,),
            kernel=kernel,
            stride=step,
            padding=sides,
            dilation=distance,
        )
        return self._append(op, self.values[x].grid, self._pooled(x, kernel, step, sides, distance))

    def _pooled(self, x: str, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
        channels, *sizes = self.values[x].shape
        axes = zip(sizes, kernel, stride, padding, dilation, strict=True)
        return channels, *((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)

    def lookup(self, x: str, bits: int = 8) -> str:
        """A smooth function of each code."""
        source, output = self.values[x], self._new("lookup")
        codes = torch.arange(source.grid.low, source.grid.high + 1).double()
        real = torch.sigmoid(codes * source.grid.scale) - self.draw.choice((0.0, 0.5))
        grid = self.grid(1.0, bits, signed=bool(real.min() < 0))
        table = (real / grid.scale).round().clamp(grid.low, grid.high).int()
        self.constants[f"{output}.table"] = table
        return self._append(Lookup(output=output, inputs=(x,)), grid, source.shape)

    def reshape(self, x: str, *shape: int) -> str:
        op = Move(output=self._new("move"), inputs=(x,), same=True)
        return self._append(op, self.values[x].grid, shape)

    def move(self, *inputs: str, shape: tuple[int, ...], holes: bool = False) -> str:
        """Elements of values on one grid, anywhere."""
        output = self._new("move")
        size = sum(self.values[name].size for name in inputs)
        self.constants[f"{output}.index"] = self.integers(
            -1 if holes else 0, size - 1, *shape
        ).int()
        op = Move(output=output, inputs=inputs, same=False)
        return self._append(op, self.values[inputs[0]].grid, shape)


def random_program(
    seed: int, *, plain: bool = False, w_bits: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
) -> tuple[Builder, Program]:
    """A net over images `(3, 8, 8)` and a vector, of a few random operations, and its builder."""
    builder = Builder(seed, plain=plain)
    values = [builder.input(3, 8, 8), builder.input(5)]
    for _ in range(builder.draw.randint(2, 7)):
        values.append(_step(builder, values, w_bits))
    last = values[-1]
    flat = builder.reshape(last, builder.values[last].size)
    side = builder.draw.choice(values)
    return builder, builder.program(builder.linear(flat, 6, bits=32, w_bits=w_bits), side)


def _step(builder: Builder, values: list[str], known: tuple[int, ...]) -> str:
    draw = builder.draw
    images = [name for name in values if len(builder.values[name].shape) == 3]
    x = draw.choice(images[-3:])
    channels, *sizes = builder.values[x].shape
    alike = [name for name in images if builder.values[name].shape == builder.values[x].shape]
    same_grid = [name for name in images if builder.values[name].grid == builder.values[x].grid]
    w_bits = tuple(draw.choices(known, k=draw.randint(1, 3)))
    x_bits = draw.choice((8, 8, 4, 12))
    match draw.choice("conv conv conv depthwise add gate average maximum lookup move".split()):
        case "conv":
            stride = (draw.choice((1, 2)),) * 2
            cout = draw.randint(1, 6)
            return builder.conv(x, cout, stride=stride, w_bits=w_bits, bits=x_bits)
        case "depthwise":
            return builder.conv(x, channels, groups=channels, w_bits=w_bits, bits=x_bits)
        case "add":
            return builder.add(x, draw.choice(alike), bits=x_bits)
        case "gate":
            scale = builder.lookup(builder.linear(values[1], channels, w_bits=w_bits))
            return builder.multiply(x, builder.reshape(scale, channels, 1, 1), bits=x_bits)
        case "average":
            return builder.average(x, tuple(min(2, size) for size in sizes), bits=x_bits)
        case "maximum":
            return builder.maximum(x, (3, 3), (1, 1), ((1, 1), (1, 1)))
        case "lookup":
            return builder.lookup(x)
    inputs = [x, draw.choice(same_grid)]
    return builder.move(*inputs, shape=(draw.randint(1, 6), *sizes), holes=draw.random() < 0.5)
