"""C code of integer nets, compiled, loaded and run."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from plinio_sweep.ship.arena import arrange, element_bytes
from plinio_sweep.ship.c99 import CReport, write_c
from plinio_sweep.ship.program import Program
from tests.ship.integer_nets import Codes

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow"]
GUARD = 64  # bytes on both sides of an arena that nobody may touch

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def gcc(*arguments: str | Path) -> None:
    done = subprocess.run(["gcc", *STRICT, *map(str, arguments)], capture_output=True, text=True)
    assert not done.returncode, done.stderr


def dtype(program: Program, name: str) -> type[np.generic]:
    grid = program.values[name].grid
    kinds = {1: (np.uint8, np.int8), 2: (np.uint16, np.int16), 4: (np.int32, np.int32)}
    return kinds[element_bytes(grid)][grid.signed]


class Compiled:
    """A program as a shared library, in a folder of its own."""

    def __init__(self, program: Program, folder: Path, *options: str) -> None:
        # A library of a known path would not be loaded again.
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.program, self.arena = program, arrange(program)
        self.report: CReport = write_c(program, self.folder, "net")
        library = self.folder / "net.so"
        gcc("-shared", "-fPIC", *(options or ("-O2",)), self.folder / "net.c", "-o", library)
        self.run = ctypes.CDLL(str(library)).net_run
        self.run.restype = None

    @property
    def source(self) -> str:
        return (self.folder / "net.c").read_text()

    @property
    def header(self) -> str:
        return (self.folder / "net.h").read_text()

    def __call__(self, inputs: list[Codes], *, in_place: bool = False) -> list[Codes]:
        """Outputs `(N, ...)`, of which each item finds the arena full of what another one left."""
        program, size = self.program, self.report.arena_bytes
        memory = np.full(size + 2 * GUARD, 0xA5, dtype=np.uint8)
        arena = memory.ctypes.data + GUARD
        found: list[list[Codes]] = [[] for _ in program.outputs]
        for item in zip(*inputs, strict=True):
            arguments = []
            held = []
            for name, codes in zip(program.inputs, item, strict=True):
                held.append(np.ascontiguousarray(codes.astype(dtype(program, name))))
                if in_place:
                    start = GUARD + self.arena.offsets[name]
                    memory[start : start + held[-1].nbytes] = held[-1].view(np.uint8).flatten()
                    arguments.append(arena + self.arena.offsets[name])
                else:
                    arguments.append(held[-1].ctypes.data)
            results = []
            for name in program.outputs:
                empty = np.empty(program.values[name].shape, dtype=dtype(program, name))
                results.append(empty)
                places = arena + self.arena.offsets[name]
                arguments.append(places if in_place else empty.ctypes.data)
            self.run(*(ctypes.c_void_p(a) for a in [*arguments, arena]))
            for name, result, outputs in zip(program.outputs, results, found, strict=True):
                if in_place:
                    start = GUARD + self.arena.offsets[name]
                    read = memory[start : start + result.nbytes].view(result.dtype)
                    result = read.reshape(result.shape)
                outputs.append(result.astype(np.int64))
        assert (memory[:GUARD] == 0xA5).all()
        assert (memory[GUARD + size :] == 0xA5).all()
        return [np.stack(outputs) for outputs in found]
