"""The operations of an integer net as records of constants that the C kernels read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plinio_sweep.ship.arena import Arena
from plinio_sweep.ship.c99_access import TYPES
from plinio_sweep.ship.c99_layers import LOADS
from plinio_sweep.ship.packing import MAX_BITS, pack, row_order, stored_bits
from plinio_sweep.ship.program import (
    INT32_MAX,
    MANTISSA_BITS,
    MAX_SHIFT,
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
)
from plinio_sweep.ship.runs import compress

AXES = 3  # of windows in C; tensors with fewer get axes of size 1
Fields = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A constant array.

    Args:
        name: In C, without the prefix of the net.
        type: Of an element, in C: a type of <stdint.h>, or one of ours without the prefix.
        numbers: The elements; of records, one after the other.
        width: Numbers of one element.
        note: What they are, for who reads the code.
    """

    name: str
    type: str
    numbers: tuple[int, ...]
    width: int = 1
    note: str = ""

    @property
    def element(self) -> str:
        """The type of a number: "step" within a run, which like "channel" the net decides."""
        return "step" if self.type == "run_of" else self.type


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of one kernel.

    Args:
        kernel: As `write_kernels` calls it.
        output: The value that it makes.
        record: The C type of its constants, without the prefix of the net.
        fields: Values of the record: numbers, sequences, names of tables, or records.
        tables: The arrays that it reads.
        reads: Types of codes that the kernel reads.
        writes: Types of codes that it writes.
    """

    kernel: str
    output: str
    record: str
    fields: Fields
    tables: tuple[Table, ...] = ()
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Place:
    """A tensor as a kernel sees it: where it starts [byte], and the type of its codes."""

    offset: int
    type: str


@dataclass(frozen=True)
class Name:
    """A table by its name in C, without the prefix of the net; "NULL" for none."""

    text: str


def code_type(name: str, grid: Grid) -> str:
    """The C type of the codes of a value, as `TYPES` calls it.

    Raises:
        ValueError: When there are codes that 32 bits with a sign do not hold.

    Example:
        >>> code_type("x", Grid(scale=1.0, bits=7, signed=False))
        'U8'
    """
    if grid.high > INT32_MAX:
        raise ValueError(
            f"Codes in C must lie within 32 bits with a sign, but {name!r} is unsigned of "
            f"{grid.bits} bits; give it a sign or fewer bits."
        )
    if grid.bits > 16:
        return "S32"
    return f"{'S' if grid.signed else 'U'}{8 if grid.bits <= 8 else 16}"


def write_calls(program: Program, arena: Arena) -> list[Call]:
    """The kernels that run a program, in their order; nothing for what moves nothing."""
    layers = dict.fromkeys(o.layer for o in program.operations if isinstance(o, Conv))
    numbers = {layer: number for number, layer in enumerate(layers)}
    return [
        _Writer(program, arena, numbers, turn).write(operation)
        for turn, operation in enumerate(program.operations)
        if not (isinstance(operation, Move) and operation.same)
        and program.values[operation.output].size
    ]


@dataclass(frozen=True)
class _Writer:
    """Writes the operation number `turn`."""

    program: Program
    arena: Arena
    layers: Mapping[str, int]
    turn: int

    def write(self, operation: Operation) -> Call:
        match operation:
            case Conv():
                return self._conv(operation) if operation.stride else self._linear(operation)
            case Add() | Multiply():
                return self._mix(operation)
            case Average() | Maximum():
                return self._pool(operation)
            case Lookup():
                return self._lookup(operation)
            case Move():
                return self._move(operation)
        raise AssertionError(f"no C for {operation.kind!r}")

    def _conv(self, o: Conv) -> Call:
        weight = self.program.constants[f"{o.layer}.weight"]
        window = self._window(o, tuple(weight.shape[2:]), o.dilation)
        counts = {"columns": weight.shape[1], "group": weight.shape[0] // o.groups}
        return self._layer(o, "conv", {"window": window, **counts})

    def _linear(self, o: Conv) -> Call:
        channels, columns = self.program.constants[f"{o.layer}.weight"].shape
        places = self.program.values[o.output].size // channels
        return self._layer(
            o, "linear", {"columns": columns, "channels": channels, "places": places}
        )

    def _layer(self, o: Conv, kernel: str, fields: Fields) -> Call:
        """A call of a layer: its packed weights, biases and words."""
        number, constants = self.layers[o.layer], self.program.constants
        codes = constants[f"{o.layer}.weight"].flatten(1)
        bits = stored_bits(codes, constants[f"{o.layer}.bits"])
        order = row_order(bits).tolist()
        weights = replace(
            _table(f"weights_{number}", "uint8_t", pack(codes, bits)),
            note=f"{o.layer}: {len(codes)} rows of {codes.shape[1]} weights.",
        )
        bias = _table(f"bias_{number}", "int32_t", constants[f"{o.layer}.bias"])
        words = self._table("words", "uint32_t", self._words(o))
        tables, channels = [weights, bias, words], "NULL"
        if order != sorted(order):
            tables.append(Table(name=f"order_{number}", type="channel", numbers=tuple(order)))
            channels = f"order_{number}"
        layer = {
            "weights": Name(weights.name),
            "order": Name(channels),
            "bias": Name(bias.name),
            "words": Name(words.name),
            "rows": torch.bincount(bits.long(), minlength=MAX_BITS + 1)[1:].tolist(),
            "room": self.arena.size,
            **_limits(o),
        }
        source, result = self._place(o.inputs[0]), self._place(o.output)
        variant = source.type.lower() if source.type.lower() in LOADS else "any"
        return Call(
            kernel=f"{kernel}_{variant}",
            output=o.output,
            record=kernel,
            fields={"layer": layer, **fields, "input": source, "output": result},
            tables=tuple(tables),
            reads=frozenset({source.type} if variant == "any" else ()),
            writes=frozenset({result.type}),
        )

    def _words(self, o: Conv) -> Tensor:
        """Mantissa in the low 24 bits, shift in the high 8."""
        mantissa = self.program.constants[f"{o.output}.mantissa"].long()
        shift = self.program.constants[f"{o.output}.shift"].long()
        fits = (mantissa >= 0) & (mantissa < 1 << MANTISSA_BITS) & (shift > 0)
        if not bool((fits & (shift <= MAX_SHIFT)).all()):
            raise ValueError(
                f"A word must have a mantissa of {MANTISSA_BITS} bits and a shift of 1 to "
                f"{MAX_SHIFT}, but {o.output!r} has mantissas {mantissa.min()} to "
                f"{mantissa.max()} and shifts {shift.min()} to {shift.max()}; make them by `words`."
            )
        return mantissa | shift << MANTISSA_BITS

    def _mix(self, o: Add | Multiply) -> Call:
        values = self.program.values
        shape, strides = broadcast(values[o.output].shape, [values[n].shape for n in o.inputs])
        mantissas = o.mantissas if isinstance(o, Add) else (o.mantissa,)
        places = self._operands(o)
        tables = (
            self._table("mantissas", "int32_t", mantissas),
            self._table("shape", "uint32_t", shape),
            self._table("strides", "uint32_t", [step for line in strides for step in line]),
        )
        fields = {
            "inputs": Name(f"inputs_{self.turn}"),
            "mantissas": Name(tables[0].name),
            "shape": Name(tables[1].name),
            "strides": Name(tables[2].name),
            "count": len(o.inputs),
            "rank": len(shape),
            "size": values[o.output].size,
            "shift": o.shift,
            **_limits(o),
            "output": self._place(o.output),
        }
        return self._call(o, o.kind, "mix", {**fields, "operands": places}, tables)

    def _pool(self, o: Average | Maximum) -> Call:
        dilation = o.dilation if isinstance(o, Maximum) else (1,) * len(o.kernel)
        grid = self.program.values[o.inputs[0]].grid
        word = (
            {"mantissa": o.mantissa, "shift": o.shift, **_limits(o)}
            if isinstance(o, Average)
            else {"low": grid.low, "high": grid.high}
        )
        fields = {
            "window": self._window(o, o.kernel, dilation),
            "channels": self.program.values[o.inputs[0]].shape[0],
            **word,
            "input": self._place(o.inputs[0]),
            "output": self._place(o.output),
        }
        return self._call(o, o.kind, "pool", fields)

    def _lookup(self, o: Lookup) -> Call:
        place = self._place(o.output)
        table = self._table(
            "table", TYPES[place.type], self.program.constants[f"{o.output}.table"].tolist()
        )
        fields = {
            "table": Name(table.name),
            "size": self.program.values[o.output].size,
            "low": self.program.values[o.inputs[0]].grid.low,
            "input": self._place(o.inputs[0]),
            "output": place,
        }
        call = self._call(o, "lookup", "lookup_call", fields, (table,))
        return replace(call, reads=call.reads | {place.type})  # the table as well

    def _move(self, o: Move) -> Call:
        index = self.program.constants[f"{o.output}.index"].flatten().tolist()
        runs = compress(index, [self.program.values[name].size for name in o.inputs])
        numbers = [number for run in runs for number in run.numbers]
        table = self._table("runs", "run_of", numbers, width=6)
        fields = {
            "inputs": Name(f"inputs_{self.turn}"),
            "runs": Name(table.name),
            "count": len(runs),
            "output": self._place(o.output),
            "operands": self._operands(o),
        }
        return self._call(o, "move", "move_call", fields, (table,))

    def _window(
        self, o: Conv | Average | Maximum, kernel: Sequence[int], dilation: Sequence[int]
    ) -> Fields:
        values = self.program.values
        return {
            "size": _axes(values[o.inputs[0]].shape[1:], 1),
            "result": _axes(values[o.output].shape[1:], 1),
            "kernel": _axes(kernel, 1),
            "stride": _axes(o.stride, 1),
            "before": _axes([before for before, _ in o.padding], 0),
            "dilation": _axes(dilation, 1),
        }

    def _call(
        self,
        o: Operation,
        kernel: str,
        record: str,
        fields: Fields,
        tables: tuple[Table, ...] = (),
    ) -> Call:
        return Call(
            kernel=kernel,
            output=o.output,
            record=record,
            fields=fields,
            tables=tables,
            reads=frozenset(self._place(name).type for name in o.inputs),
            writes=frozenset({self._place(o.output).type}),
        )

    def _operands(self, o: Operation) -> tuple[Place, ...]:
        return tuple(self._place(name) for name in o.inputs)

    def _place(self, name: str) -> Place:
        return Place(
            offset=self.arena.offsets[name], type=code_type(name, self.program.values[name].grid)
        )

    def _table(
        self, name: str, type: str, numbers: Sequence[int] | Tensor, width: int = 1
    ) -> Table:
        return _table(f"{name}_{self.turn}", type, numbers, width)


def broadcast(
    shape: Sequence[int], operands: Sequence[Sequence[int]]
) -> tuple[list[int], list[list[int]]]:
    """Axes of a result, and how far each operand steps along them; as few axes as possible.

    Args:
        shape: Of the result.
        operands: Shapes that broadcast to it.

    Returns:
        Sizes of the axes, at least one, and for each operand a step for each of them.

    Example:
        >>> broadcast((8, 4, 4), [(8, 4, 4), (8, 1, 1)])
        ([8, 16], [[16, 1], [1, 0]])
    """
    axes: list[int] = [1]
    strides: list[list[int]] = [[0] for _ in operands]
    for position, size in enumerate(shape):
        steps = [_step(len(shape) - position, operand) for operand in operands]
        if size == 1:
            continue
        if axes == [1]:
            axes, strides = [size], [[step] for step in steps]
        elif all(line[-1] == step * size for line, step in zip(strides, steps, strict=True)):
            axes[-1] *= size
            for line, step in zip(strides, steps, strict=True):
                line[-1] = step
        else:
            axes.append(size)
            for line, step in zip(strides, steps, strict=True):
                line.append(step)
    return axes, strides


def _step(axis_from_end: int, shape: Sequence[int]) -> int:
    """How far one step along an axis goes in a tensor of `shape`; nowhere if it repeats."""
    if axis_from_end > len(shape) or shape[-axis_from_end] == 1:
        return 0
    return math.prod(shape[len(shape) - axis_from_end + 1 :])


def _axes(numbers: Sequence[int], fill: int) -> list[int]:
    return [fill] * (AXES - len(numbers)) + list(numbers)


def _limits(o: Conv | Add | Multiply | Average) -> Fields:
    return {"low": o.low, "high": o.high}


def _table(name: str, type: str, numbers: Sequence[int] | Tensor, width: int = 1) -> Table:
    listed = numbers.flatten().tolist() if isinstance(numbers, Tensor) else numbers
    return Table(name=name, type=type, numbers=tuple(listed), width=width)
