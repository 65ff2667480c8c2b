"""C code of a net, compiled and run here, to see that it computes what it should."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from plinio_sweep.ship.arena import arrange, element_bytes
from plinio_sweep.ship.c99 import arena_bytes
from plinio_sweep.ship.program import Program
from plinio_sweep.ship.reference import Codes

COMPILERS = ("cc", "gcc", "clang")
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror")

_TYPES: dict[int, tuple[type[np.generic], type[np.generic]]] = {
    1: (np.uint8, np.int8),
    2: (np.uint16, np.int16),
    4: (np.int32, np.int32),
}


def find_compiler() -> str | None:
    """The C compiler of this machine: that of the variable CC, else the first that is there."""
    wanted = (os.environ["CC"],) if os.environ.get("CC") else COMPILERS
    return next((name for name in wanted if shutil.which(name)), None)


def run_c(
    directory: Path, program: Program, codes: Codes, compiler: str, name: str = "model"
) -> Codes:
    """What the code that `write_c` wrote gives for codes, each `(N, ...)`, int32.

    Args:
        directory: Where it wrote.
        program: What it wrote.
        codes: Of all inputs.
        compiler: A command that is installed.
        name: As `write_c` was told.

    Raises:
        ValueError: When the compiler refuses the code.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "model.so"
        source = str(directory / f"{name}.c")
        command = [compiler, *WARNINGS, "-O2", "-shared", "-fPIC", source, "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(
                f"The C code must compile without a warning, but {compiler} says "
                f"{' '.join(done.stderr.split())[:300]!r}; report the net."
            )
        function = getattr(ctypes.CDLL(str(library)), f"{name}_run")
        function.restype = None
        arena = np.zeros(max(arena_bytes(program, arrange(program)), 1), dtype=np.uint8)
        found = [_run_item(function, program, codes, item, arena) for item in range(len(codes[0]))]
    return tuple(torch.stack(outputs) for outputs in zip(*found, strict=True))


def _run_item(
    function: ctypes._NamedFuncPointer,
    program: Program,
    codes: Codes,
    item: int,
    arena: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> Codes:
    inputs = [
        np.ascontiguousarray(code[item].numpy().astype(_type(program, name)))
        for name, code in zip(program.inputs, codes, strict=True)
    ]
    outputs = [
        np.empty(program.values[name].shape, dtype=_type(program, name)) for name in program.outputs
    ]
    places = [array.ctypes.data for array in (*inputs, *outputs, arena)]
    function(*map(ctypes.c_void_p, places))
    return tuple(torch.from_numpy(array.astype(np.int32)) for array in outputs)


def _type(program: Program, name: str) -> type[np.generic]:
    grid = program.values[name].grid
    return _TYPES[element_bytes(grid)][grid.signed]
