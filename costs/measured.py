"""A cost model out of measurements: a table of layers, timed on one's own board.

Each row of the file is one measured layer. These columns say which layers a row stands for; an
empty cell, or a column that is left out, stands for all:

    name        a pattern of shell style: "features.*"
    op          "conv", "linear", ...
    kernel      "3x3"; in JSON also [3, 3]
    stride      "2x2"
    out         "32x32"
    depthwise   "true" or "false"

These columns are numbers, between which values lie on straight lines: `cin`, `cout`, `positions`
(the product of the output sizes), `w_bits`, `x_bits`. The rows of one pattern must form a grid over
them. The column `value` is what was measured. Of several patterns that fit, the first one counts.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from costs.interpolate import Numbers, on_grid
from costs.spec import Combine, CostModel, LayerSpec, Scalar, expected

PATTERNS = ("name", "op", "kernel", "stride", "out", "depthwise")
AXES = ("cin", "cout", "positions", "w_bits", "x_bits")
VALUE = "value"

Pattern = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Block:
    """The rows of one pattern, as a grid."""

    pattern: Pattern
    axes: tuple[str, ...]
    knots: tuple[Numbers, ...]
    values: Numbers

    def fits(self, layer: LayerSpec) -> bool:
        return all(_fits(getattr(layer, field), cell) for field, cell in self.pattern)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A cost model that looks costs up: what `lut` makes."""

    name: str
    unit: str
    once: bool
    extrapolate: bool
    blocks: tuple[_Block, ...]

    @property
    def peak(self) -> bool:
        """Layers were measured, not moments."""
        return False

    @property
    def stacks(self) -> bool:
        """The row of a layer depends on its name and sizes."""
        return False

    @property
    def combine(self) -> Combine:
        """The expectation over candidates."""
        return expected

    def covers(self, layer: LayerSpec, /) -> bool:
        """Whether a row stands for such layers."""
        return any(block.fits(layer) for block in self.blocks)

    def __call__(self, layer: LayerSpec, /) -> Scalar:
        """The cost of one call of `layer`, in `unit`; 0 for a layer that is not covered.

        Raises:
            ValueError: For a number outside the rows, unless the table may be extrapolated.
        """
        block = next((block for block in self.blocks if block.fits(layer)), None)
        if block is None:
            return 0
        points = [getattr(layer, axis) for axis in block.axes]
        if not self.extrapolate:
            self._check_inside(layer, block, points)
        like = next((point for point in points if isinstance(point, Tensor)), None)
        if like is None:
            exact = [torch.tensor(float(point), dtype=torch.float64) for point in points]
            return float(on_grid(block.knots, block.values, exact)) if points else block.values[0]
        tensors = [torch.as_tensor(point).to(like) for point in points]
        return on_grid(block.knots, block.values, tensors).clamp(min=0)

    def _check_inside(self, layer: LayerSpec, block: _Block, points: list[Scalar]) -> None:
        for axis, knots, point in zip(block.axes, block.knots, points, strict=True):
            if not isinstance(point, Tensor) and not knots[0] <= point <= knots[-1]:
                raise ValueError(
                    f"`{axis}` must lie within the rows of {self.name}, {knots[0]:g} to "
                    f"{knots[-1]:g}, but got {axis}={point} in layer {layer.name!r}; measure such "
                    "a layer, or pass extrapolate=True."
                )


def lut(
    path: str | Path,
    *,
    unit: str,
    name: str | None = None,
    once: bool = False,
    extrapolate: bool = False,
) -> CostModel:
    """A cost model out of a table of measurements.

    A search asks with tensors, which are not looked at: beyond the rows its costs go on with the
    slope between the last two, and not below 0. The numbers of a finished net are checked.

    Args:
        path: A CSV file with a header, or a JSON file with a list of objects.
        unit: Unit of the values, in the singular.
        name: Of the model; the name of the file when left out.
        once: Whether values are storage, counted for the first call of a module only.
        extrapolate: Whether layers beyond the rows may be asked for.

    Raises:
        ValueError: If the file is no such table.

    Example:
        >>> import tempfile
        >>> rows = '[{"op": "linear", "cin": 16, "value": 100}, {"op": "linear", "cin": 32, '
        >>> rows += '"value": 180}]'
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "board.json").write_text(rows)
        ...     board_cycles = lut(Path(folder, "board.json"), unit="cycle")
        >>> board_cycles(LayerSpec(name="fc", op="linear", cin=24, cout=10))
        140.0
    """
    path = Path(path)
    rows = _rows(path)
    blocks: dict[Pattern, list[Mapping[str, Any]]] = {}
    for number, row in enumerate(rows, start=1):
        _check_row(path, number, row)
        pattern = tuple((field, _cell(row[field])) for field in PATTERNS if _cell(row.get(field)))
        blocks.setdefault(pattern, []).append(row)
    return Measured(
        name=name or path.stem,
        unit=unit,
        once=once,
        extrapolate=extrapolate,
        blocks=tuple(_block(path, pattern, rows) for pattern, rows in blocks.items()),
    )


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        rows = (
            json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.split("\n")))
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`path` must be a table in CSV or JSON, but {path} is not: "
            f"{' '.join(str(error).split())}; correct the file."
        ) from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"`path` must hold rows with names, but {path} does not; write a header and one line, "
            "or one object, a measured layer."
        )
    return rows


def _check_row(path: Path, number: int, row: Mapping[str, Any]) -> None:
    known = (*PATTERNS, *AXES, VALUE)
    if strange := [column for column in row if column not in known]:
        raise ValueError(
            f"Columns must be among {known}, but {path} has {strange[0]!r}; rename or drop it."
        )
    for column in (VALUE, *(axis for axis in AXES if _cell(row.get(axis)))):
        if _number(row.get(column)) is None:
            raise ValueError(
                f"`{column}` must be a number that is not negative, but is {row.get(column)!r} in "
                f"row {number} of {path}; correct that row."
            )


def _number(cell: Any) -> float | None:
    """A cell as a finite number that is not negative; nothing if it is none."""
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return None
    return number if number >= 0 and math.isfinite(number) else None


def _block(path: Path, pattern: Pattern, rows: list[Mapping[str, Any]]) -> _Block:
    axes = tuple(axis for axis in AXES if any(_cell(row.get(axis)) for row in rows))
    places = [tuple(_number(row.get(axis)) for axis in axes) for row in rows]
    knots = [sorted({p for p in column if p is not None}) for column in zip(*places, strict=True)]
    known = {place: float(row[VALUE]) for place, row in zip(places, rows, strict=True)}
    grid = list(itertools.product(*knots))
    if set(grid) != set(places) or len(places) != len(grid):
        missing = next((place for place in grid if place not in known), None)
        what = f"has none at {dict(zip(axes, missing, strict=True))}" if missing else "has too many"
        raise ValueError(
            f"The rows of one pattern must form a grid over {axes}, one row a point, but "
            f"{dict(pattern) or 'all layers'} in {path} {what}; add or drop rows."
        )
    return _Block(
        pattern=pattern,
        axes=axes,
        knots=tuple(tuple(axis) for axis in knots),
        values=tuple(known[place] for place in grid),
    )


def _cell(value: Any) -> str:
    """A field of a layer or a cell of a row as text: `(3, 3)` and "3x3" are the same."""
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return "x".join(map(str, value))
    return str(value).strip().lower() if isinstance(value, bool) else str(value).strip()


def _fits(value: Any, cell: str) -> bool:
    if isinstance(value, tuple) and any(isinstance(part, Tensor) for part in value):
        return False  # a kernel that is searched for is not looked at
    return fnmatchcase(_cell(value), cell)
