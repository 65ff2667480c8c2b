"""An integer net as C99: one source and one header that a microcontroller runs on its own.

Nothing is allocated and nothing in the layers is a float. All tensors lie in an arena that the
caller owns, so that the memory can be shared with other work between two runs; weights stay packed
at their bit-width in constant memory and are unpacked code by code.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plinio_sweep.ship.arena import Arena, arrange, element_bytes
from plinio_sweep.ship.c99_access import TYPES
from plinio_sweep.ship.c99_calls import Call, Name, Place, Table, code_type, write_calls
from plinio_sweep.ship.c99_kernels import write_kernels
from plinio_sweep.ship.packing import MAX_BITS
from plinio_sweep.ship.program import Program

WIDTH = 96  # columns of a line of numbers
SIZES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "uint32_t": 4}

HEADER = """\
/* An integer net. {summary}

   Give `model_run` an arena of MODEL_ARENA_BYTES, which holds nothing between two runs. Inputs are
   copied into it and outputs out of it, unless the host uses their places in the arena itself:
   what is written to MODEL_INPUT0(arena) and passed as `input0` is not copied, and likewise
   MODEL_OUTPUT0(arena) as `output0`. Only for that must the arena start at a multiple of
   MODEL_ARENA_ALIGNMENT. Codes are in row-major order of the shape given below, and the value of
   a code is its number times the scale; no code of an input may lie outside its limits. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define MODEL_ARENA_BYTES {size}
#define MODEL_ARENA_ALIGNMENT {alignment}

{tensors}
void model_run({arguments});

#ifdef __cplusplus
}}
#endif

#endif
"""
TENSOR = """\
/* {label} {name}: shape {shape}, {bits} bits. */
#define MODEL_{label}_SIZE {size}
#define MODEL_{label}_LOW ({low})
#define MODEL_{label}_HIGH ({high})
#define MODEL_{label}_SCALE {scale}
#define MODEL_{label}(arena) (({type} *)(void *)((uint8_t *)(arena) + {offset}))
"""
COPY = """\
static void model_copy(void *to, const void *from, size_t size)
{
    if (to != from) {
        memcpy(to, from, size);
    }
}
"""


@dataclass(frozen=True, kw_only=True)
class CReport:
    """What the C code of a net takes.

    Args:
        arena_bytes: All memory of a run, but for a small stack [byte].
        activation_bytes: Its part that holds tensors; the rest is one row of weights [byte].
        peak_bytes: Most bytes of tensors that are alive at once, below which no arrangement of an
            arena gets [byte].
        constant_bytes: Weights, biases, words and tables of other operations; neither code nor the
            descriptions of calls, whose size the compiler decides [byte].
    """

    arena_bytes: int
    activation_bytes: int
    peak_bytes: int
    constant_bytes: int


def arena_bytes(program: Program, arena: Arena) -> int:
    """The tensors of a program and the room to unpack its longest row of weights [byte]."""
    rows = [
        codes[0].numel()
        for name, codes in program.constants.items()
        if name.endswith(".weight") and int(program.constants[f"{name[:-6]}bits"].min()) < MAX_BITS
    ]
    return arena.size + max(rows, default=0)


def write_c(program: Program, directory: Path, name: str = "model") -> CReport:
    """Writes `<name>.c` and `<name>.h`, which need nothing but a C99 compiler.

    Args:
        program: The net.
        directory: Where to write; it exists.
        name: Of the files, and the beginning of every name in them.

    Raises:
        ValueError: When `name` is no identifier in C, or the net does not fit 32 bits.

    Example:
        >>> from plinio_sweep.ship.program import Grid, Move, Value
        >>> value = Value(shape=(2, 3), grid=Grid(scale=0.5, bits=8, signed=True))
        >>> net = Program(
        ...     inputs=("x",),
        ...     outputs=("y",),
        ...     structure="",
        ...     values={"x": value, "y": value},
        ...     operations=(Move(output="y", inputs=("x",), same=True),),
        ...     constants={},
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_c(net, Path(folder))
        CReport(arena_bytes=6, activation_bytes=6, peak_bytes=6, constant_bytes=0)
    """
    if not (name.isascii() and name.isidentifier()):
        raise ValueError(
            f"`name` must be an identifier in C, as every name in the code begins with it, but got "
            f"{name!r}; use letters, digits and underscores, and no digit first."
        )
    arena = arrange(program)
    calls = write_calls(program, arena)
    tables = {table.name: table for call in calls for table in call.tables}
    types = _narrow_types(tables.values())
    files = {".h": _header(program, arena), ".c": _source(program, arena, calls, tables, types)}
    for ending, text in files.items():
        (directory / f"{name}{ending}").write_text(_named(text, name), encoding="utf-8")
    return CReport(
        arena_bytes=arena_bytes(program, arena),
        activation_bytes=arena.size,
        peak_bytes=arena.peak,
        constant_bytes=sum(
            len(table.numbers) * SIZES[types.get(table.element, table.element)]
            for table in tables.values()
        ),
    )


def object_sizes(
    directory: Path, name: str = "model", compiler: str = "gcc", size: str = "size"
) -> Mapping[str, int]:
    """Bytes of the compiled net, as the tools of the target count them.

    Args:
        directory: Where `write_c` wrote.
        name: As `write_c` was told.
        compiler: The C compiler, for instance "arm-none-eabi-gcc"; it optimises for size.
        size: The tool that reads the object file, for instance "arm-none-eabi-size".

    Returns:
        "text" (code and constants), "data" and "bss" [byte].

    Raises:
        ValueError: When a tool is not installed or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.o"
        source = directory / f"{name}.c"
        # At a fixed address, as on a target: otherwise constants with addresses count as data.
        options = ("-std=c99", "-Os", "-fno-pic", "-c")
        _tool(compiler, *options, str(source), "-o", str(target))
        lines = _tool(size, str(target)).splitlines()
    return dict(zip(("text", "data", "bss"), map(int, lines[1].split()), strict=False))


def _tool(program: str, *arguments: str) -> str:
    """What a program printed."""
    if shutil.which(program) is None:
        raise ValueError(
            f"Sizes of compiled code need the program {program!r}, but it is not installed; "
            f"install it or name another one."
        )
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(
            f"{program!r} must compile and measure the C code, but ended with {done.returncode}: "
            f"{' '.join(done.stderr.split())[:300]}; check the file and the program."
        )
    return done.stdout


def _named(text: str, name: str) -> str:
    """The code with the name of the net at the beginning of every name."""
    prefixes = {"model_": f"{name}_", "MODEL_": f"{name.upper()}_", "@FILE@": name}
    return re.sub(r"\bmodel_|\bMODEL_|@FILE@", lambda found: prefixes[found.group()], text)


def _header(program: Program, arena: Arena) -> str:
    labelled = [*_labelled(program)]
    elements = [element_bytes(program.values[name].grid) for name in program.values]
    return HEADER.format(
        summary=f"Memory for tensors: {arena.size} bytes.",
        size=arena_bytes(program, arena),
        alignment=max(elements, default=1),
        tensors="\n".join(_tensor(program, arena, label, name) for label, name in labelled),
        arguments=_arguments(program),
    )


def _tensor(program: Program, arena: Arena, label: str, name: str) -> str:
    """Constants of an input or output, for the host."""
    value = program.values[name]
    return TENSOR.format(
        label=label,
        name=_comment(name),
        shape=f"({', '.join(map(str, value.shape))})",
        bits=value.grid.bits,
        size=value.size,
        low=_number(value.grid.low),
        high=value.grid.high,
        scale=repr(float(value.grid.scale)),  # as many digits as give the same number back
        type=TYPES[code_type(name, value.grid)],
        offset=arena.offsets[name],
    )


def _labelled(program: Program) -> Iterator[tuple[str, str]]:
    """Inputs and outputs as the C code calls them, and the values that they are."""
    yield from ((f"INPUT{number}", name) for number, name in enumerate(program.inputs))
    yield from ((f"OUTPUT{number}", name) for number, name in enumerate(program.outputs))


def _arguments(program: Program) -> str:
    """The parameters of the function that runs the net."""
    listed = []
    for label, name in _labelled(program):
        constant = "const " if label.startswith("INPUT") else ""
        type = TYPES[code_type(name, program.values[name].grid)]
        listed.append(f"{constant}{type} *{label.lower()}")
    return ", ".join([*listed, "void *arena"])


def _source(
    program: Program,
    arena: Arena,
    calls: Sequence[Call],
    tables: Mapping[str, Table],
    types: Mapping[str, str],
) -> str:
    """The C file."""
    reads = {type for call in calls for type in call.reads}
    writes = {type for call in calls for type in call.writes}
    codes = ", ".join(f"MODEL_{name}" for name in TYPES)
    kernels = write_kernels([call.kernel for call in calls], reads, writes)
    typedefs = [
        f"typedef {narrow} model_{name};\n"
        for name, narrow in types.items()
        if f"model_{name} " in kernels
    ]
    parts = [
        '#include "@FILE@.h"\n\n#include <stddef.h>\n#include <string.h>\n',
        *([f"enum {{ {codes} }};\n"] if calls else []),
        *typedefs,
        kernels,
        COPY,
        *(_array(table) for table in tables.values()),
        *(_record(call, number) for number, call in enumerate(calls)),
        _run(program, arena, calls),
    ]
    return "\n".join(part for part in parts if part)


def _run(program: Program, arena: Arena, calls: Sequence[Call]) -> str:
    """The function that runs the net."""
    lines = ["    uint8_t *const memory = arena;"]
    for label, name in _labelled(program):
        value = program.values[name]
        size = value.size * element_bytes(value.grid)
        place = f"memory + {arena.offsets[name]}"
        if label.startswith("INPUT"):
            lines.append(f"    model_copy({place}, {label.lower()}, {size});")
    lines += [
        f"    model_{call.kernel}(memory, &model_call_{number}); /* {_comment(call.output)} */"
        for number, call in enumerate(calls)
    ]
    for label, name in _labelled(program):
        value = program.values[name]
        size = value.size * element_bytes(value.grid)
        if label.startswith("OUTPUT"):
            lines.append(
                f"    model_copy({label.lower()}, memory + {arena.offsets[name]}, {size});"
            )
    body = "\n".join(lines)
    return f"void model_run({_arguments(program)})\n{{\n{body}\n}}\n"


def _record(call: Call, number: int) -> str:
    """The constants of one call."""
    fields = dict(call.fields)
    operands = fields.pop("operands", None)
    text = ""
    if isinstance(operands, tuple):
        name = fields["inputs"]
        assert isinstance(name, Name)
        text = f"static const model_tensor model_{name.text}[] = {_value(operands)};\n"
    inner = ",\n".join(f"    .{key} = {_value(value)}" for key, value in fields.items())
    return f"{text}static const model_{call.record} model_call_{number} = {{\n{inner},\n}};\n"


def _value(value: object) -> str:
    """A constant as C writes it."""
    match value:
        case Name(text="NULL"):
            return "NULL"
        case Name():
            return f"model_{value.text}"
        case Place():
            return f"{{{value.offset}, MODEL_{value.type}}}"
        case Mapping():
            inner = ", ".join(f".{key} = {_value(item)}" for key, item in value.items())
            return f"{{{inner}}}"
        case list() | tuple():
            return f"{{{', '.join(map(_value, value))}}}"
        case int():
            return _number(value)
    raise AssertionError(f"no constant in C: {value!r}")


def _array(table: Table) -> str:
    """A constant array; one of no elements, which C does not have, holds a zero."""
    type = table.type if table.type.endswith("_t") else f"model_{table.type}"
    groups = [
        table.numbers[start : start + table.width]
        for start in range(0, len(table.numbers), table.width)
    ]
    items = [_number(g[0]) if table.width == 1 else _value(g) for g in groups] or ["0"]
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > WIDTH:
            lines.append(line)
            line = "   "
        line += f" {item},"
    body = "\n".join([*lines, line])
    note = f"/* {_comment(table.note)} */\n" if table.note else ""
    return f"{note}static const {type} model_{table.name}[] = {{\n{body}\n}};\n"


def _number(number: int) -> str:
    """A whole number; the smallest of 32 bits cannot be written in C, only computed."""
    return "INT32_MIN" if number == -(2**31) else str(number)


def _narrow_types(tables: Iterable[Table]) -> dict[str, str]:
    """The narrowest types for output channels and for steps of runs that hold all of a net's."""
    channels, steps = [0], [0]
    for table in tables:
        if table.type == "channel":
            channels.extend(table.numbers)
        if table.type == "run_of":
            steps.extend(table.numbers)
    most = max(channels)
    wide = max(steps) >= 2**15  # a step back is no longer than the way from the start
    return {
        "channel": "uint8_t" if most < 2**8 else "uint16_t" if most < 2**16 else "uint32_t",
        "step": "int32_t" if wide else "int16_t",
    }


def _comment(text: str) -> str:
    """Text that neither begins nor ends a comment within the one around it."""
    return text.replace("*/", "* /").replace("/*", "/ *")
