"""An integer net as bytes: what it takes on a device, and nothing else.

The file holds, in the order of the operations and little-endian throughout,

    layer (at its first call)   weights as `ship.packing` has them; an int32 bias a channel
    call of a layer             a word for each channel
    sum                         an int32 mantissa for each operand, and a byte of shift
    product, average            a word
    lookup                      the table, 1, 2 or 4 bytes an entry as its codes need

with words of four bytes: the mantissa in the low 24 bits, the shift in the high 8. All else (which
operation follows which, shapes, the bit-widths of rows, where elements move) is code on a device,
and is in the description, as JSON. A checksum there seals both.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plinio_sweep.ship.packing import MAX_BITS, pack, packed_size, stored_bits, unpack
from plinio_sweep.ship.program import (
    MANTISSA_BITS,
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
    restore,
)

VERSION = 1
WORD, INT32, BYTE = "<u4", "<i4", "<u1"


def pack_program(program: Program) -> bytes:
    """The file; its length is the size of the net.

    Args:
        program: An integer net.

    Raises:
        ValueError: When a word or a code does not fit its place.

    Example:
        >>> from plinio_sweep.ship.program import Value
        >>> value = Value(shape=(3,), grid=Grid(scale=0.5, bits=8, signed=True))
        >>> mean = Add(
        ...     output="y", inputs=("x", "x"), mantissas=(1, 1), shift=1, low=-128, high=127
        ... )
        >>> program = Program(
        ...     inputs=("x",),
        ...     outputs=("y",),
        ...     structure="*",
        ...     values={"x": value, "y": value},
        ...     operations=(mean,),
        ...     constants={},
        ... )
        >>> pack_program(program).hex(" ")
        '01 00 00 00 01 00 00 00 01'
        >>> packed_bytes(program)
        {'y': 9}
        >>> data = pack_program(program)
        >>> unpack_program(describe_packed(program, data), data).operations == (mean,)
        True
    """
    return b"".join(content for _, content in _sections(program))


def packed_bytes(program: Program) -> dict[str, int]:
    """Bytes of the file by layer, and by the value that it makes for any other operation.

    Operations that take nothing are left out. A layer that is called several times is one entry.
    """
    found: dict[str, int] = {}
    for owner, content in _sections(program):
        if content:
            found[owner] = found.get(owner, 0) + len(content)
    return found


def describe_packed(program: Program, data: bytes) -> dict[str, Any]:
    """What is needed beside the file to make the program again, as JSON.

    Args:
        program: An integer net.
        data: Its file.
    """
    layers = {op.layer: None for op in program.operations if isinstance(op, Conv)}
    moves = [op for op in program.operations if isinstance(op, Move) and not op.same]
    description = {
        "version": VERSION,
        "size_bytes": len(data),
        "program": program.describe(),
        "layers": {name: _describe_layer(program, name) for name in layers},
        "indices": {op.output: runs_of(program.constants[f"{op.output}.index"]) for op in moves},
    }
    return {**description, "sha256": _seal(description, data)}


def unpack_program(description: Mapping[str, Any], data: bytes) -> Program:
    """The program of a file.

    Args:
        description: From `describe_packed`.
        data: From `pack_program`.

    Raises:
        ValueError: When one of them is torn or altered, or they are not of one program.
    """
    try:
        sealed = {name: value for name, value in description.items() if name != "sha256"}
        if sealed["version"] != VERSION:
            raise ValueError(f"it has version {sealed['version']}")
        if len(data) != sealed["size_bytes"]:
            raise ValueError(f"there are {len(data)} bytes instead of {sealed['size_bytes']}")
        if _seal(sealed, data) != description["sha256"]:
            raise ValueError("its checksum is another one")
        return _read(sealed, data)
    except Exception as error:  # whoever alters a file may seal it again, and write what he likes
        reason = " ".join(str(error).split())
        raise ValueError(
            f"A packed net and its description must be as version {VERSION} wrote them, but these "
            f"are not: {type(error).__name__}: {reason}; export the trial again."
        ) from error


def _seal(description: Mapping[str, Any], data: bytes) -> str:
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode() + b"\0" + data).hexdigest()


# -- writing --------------------------------------------------------------------------------------


def _sections(program: Program) -> Iterator[tuple[str, bytes]]:
    """The parts of the file in their order, each with the name it is counted under."""
    seen = set()
    for op in program.operations:
        if isinstance(op, Conv):
            if op.layer not in seen:
                seen.add(op.layer)
                yield op.layer, _pack_layer(program, op.layer)
            yield op.layer, _pack_call(program, op)
        else:
            yield op.output, _PACK[type(op)](program, op)


def _pack_layer(program: Program, layer: str) -> bytes:
    codes, bits = (program.constants[f"{layer}.{name}"] for name in ("weight", "bits"))
    rows = codes.flatten(1)
    weights = pack(rows, stored_bits(rows, bits)).numpy().tobytes()
    return weights + _array(program.constants[f"{layer}.bias"], INT32)


def _pack_call(program: Program, op: Conv) -> bytes:
    mantissa, shift = (program.constants[f"{op.output}.{n}"].long() for n in ("mantissa", "shift"))
    return _word(op.output, mantissa, shift)


def _pack_add(program: Program, op: Add) -> bytes:
    return _array(torch.tensor(op.mantissas), INT32) + _array(torch.tensor([op.shift]), BYTE)


def _pack_word(program: Program, op: Multiply | Average) -> bytes:
    return _word(op.output, torch.tensor([op.mantissa]), torch.tensor([op.shift]))


def _pack_table(program: Program, op: Lookup) -> bytes:
    table = program.constants[f"{op.output}.table"]
    return _array(table, _entry(program.values[op.output].grid))


def _pack_nothing(program: Program, op: Operation) -> bytes:
    return b""


_PACK: Mapping[type[Operation], Callable[[Program, Any], bytes]] = {
    Add: _pack_add,
    Multiply: _pack_word,
    Average: _pack_word,
    Maximum: _pack_nothing,
    Lookup: _pack_table,
    Move: _pack_nothing,
}


def _word(name: str, mantissa: Tensor, shift: Tensor) -> bytes:
    limit = 1 << MANTISSA_BITS
    if not bool(((mantissa >= 0) & (mantissa < limit) & (shift >= 0) & (shift < 256)).all()):
        raise ValueError(
            f"The words of {name!r} must have mantissas below {limit} and shifts below 256, but "
            f"reach {int(mantissa.max())} and {int(shift.max())}; make them by `words`."
        )
    return _array(mantissa | shift << MANTISSA_BITS, WORD)


def _array(values: Tensor, kind: str) -> bytes:
    wide = values.long().numpy()
    narrow = wide.astype(kind)
    if not np.array_equal(narrow.astype(np.int64), wide):
        raise ValueError(
            f"Numbers of a net must fit the {narrow.dtype.itemsize} bytes of their place, but "
            f"reach from {wide.min()} to {wide.max()}; report the net."
        )
    return narrow.tobytes()


def _entry(grid: Grid) -> str:
    """The type of the entries of a table."""
    size = next(size for size in (1, 2, 4) if grid.bits <= 8 * size)
    return f"<{'i' if grid.signed else 'u'}{size}"


def _describe_layer(program: Program, layer: str) -> dict[str, Any]:
    codes, bits = (program.constants[f"{layer}.{name}"] for name in ("weight", "bits"))
    return {
        "shape": list(codes.shape),
        "bits": bits.tolist(),
        "stored_bits": stored_bits(codes.flatten(1), bits).tolist(),
    }


def runs_of(index: Tensor) -> list[list[int]]:
    """An index as `[first, step, count]` of each stretch at equal distances.

    Args:
        index: Whole numbers, any shape.

    Example:
        >>> runs_of(torch.tensor([4, 5, 6, 0, 3, 6, -1]))
        [[4, 1, 3], [0, 3, 3], [-1, 0, 1]]
    """
    flat = index.flatten().tolist()
    runs: list[list[int]] = []
    start = 0
    while start < len(flat):
        step = flat[start + 1] - flat[start] if start + 1 < len(flat) else 0
        stop = start + 1
        while stop < len(flat) and flat[stop] - flat[stop - 1] == step:
            stop += 1
        runs.append([flat[start], step, stop - start])
        start = stop
    return runs


# -- reading --------------------------------------------------------------------------------------


class _Reader:
    """Takes arrays off the front of a file.

    Args:
        data: Of the file.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        """Bytes that were not taken."""
        return len(self._data) - self._position

    def take(self, kind: str, count: int) -> Tensor:
        """The next `count` numbers, int64."""
        size = count * np.dtype(kind).itemsize
        if not 0 <= size <= self.left:
            raise ValueError(f"{size} bytes are missing at {self._position}")
        content = self._data[self._position : self._position + size]
        self._position += size
        return torch.from_numpy(np.frombuffer(content, kind).astype(np.int64))


def _read(description: Mapping[str, Any], data: bytes) -> Program:
    program = restore(description["program"], {})
    reader, operations = _Reader(data), []
    constants: dict[str, Tensor] = {}
    for op in program.operations:
        if isinstance(op, Conv):
            stored = description["layers"][op.layer]
            if f"{op.layer}.weight" not in constants:
                constants |= _read_layer(op.layer, stored, reader)
            mantissa, shift = _read_words(reader, stored["shape"][0])
            constants[f"{op.output}.mantissa"] = mantissa.int()
            constants[f"{op.output}.shift"] = shift.to(torch.uint8)
        elif isinstance(op, Lookup):
            grid = program.values[op.inputs[0]].grid
            kind = _entry(program.values[op.output].grid)
            constants[f"{op.output}.table"] = reader.take(kind, 1 << grid.bits).int()
        elif isinstance(op, Move) and not op.same:
            runs = description["indices"][op.output]
            constants[f"{op.output}.index"] = _index(program, op, runs)
        operations.append(_with_words(op, reader))
    if reader.left:
        raise ValueError(f"{reader.left} bytes are left")
    return replace(program, operations=tuple(operations), constants=constants)


def _with_words(op: Operation, reader: _Reader) -> Operation:
    """`op` with the words of the file, which the description repeats."""
    if isinstance(op, Add):
        mantissas = tuple(reader.take(INT32, len(op.inputs)).tolist())
        return replace(op, mantissas=mantissas, shift=int(reader.take(BYTE, 1)))
    if isinstance(op, Multiply | Average):
        mantissa, shift = _read_words(reader, 1)
        return replace(op, mantissa=int(mantissa), shift=int(shift))
    return op


def _read_words(reader: _Reader, count: int) -> tuple[Tensor, Tensor]:
    found = reader.take(WORD, count)
    return found & ((1 << MANTISSA_BITS) - 1), found >> MANTISSA_BITS


def _read_layer(layer: str, stored: Mapping[str, Any], reader: _Reader) -> dict[str, Tensor]:
    shape, bits = stored["shape"], torch.tensor(stored["stored_bits"])
    if not all(1 <= width <= MAX_BITS for width in stored["stored_bits"]):
        raise ValueError(f"rows of {layer!r} have no width of 1 to {MAX_BITS} bits")
    columns = math.prod(shape[1:])
    packed = reader.take(BYTE, packed_size(bits, columns)).to(torch.uint8)
    return {
        f"{layer}.weight": unpack(packed, bits, columns).reshape(shape),
        f"{layer}.bits": torch.tensor(stored["bits"], dtype=torch.uint8),
        f"{layer}.bias": reader.take(INT32, shape[0]).int(),
    }


def _index(program: Program, op: Move, runs: list[list[int]]) -> Tensor:
    value = program.values[op.output]
    if sum(count for _, _, count in runs) != value.size or any(run[2] < 1 for run in runs):
        raise ValueError(f"the index of {op.output!r} has another size than {value.size}")
    parts = [first + step * torch.arange(count) for first, step, count in runs]
    index = torch.cat([torch.empty(0, dtype=torch.int64), *parts])
    known = sum(program.values[name].size for name in op.inputs)
    if not bool(((index >= -1) & (index < known)).all()):
        raise ValueError(f"the index of {op.output!r} leaves the {known} elements of its inputs")
    return index.int().reshape(value.shape)
