"""The front as a small chart of characters, for a terminal: readable without colour.

The first cost is below, on a logarithmic axis, the first metric beside. A line of braille dots says
what is had for at most that cost; the trials of the front and the seed net are marked on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plinio_sweep.view.front import front
from plinio_sweep.view.report import cost_title, format_metric, format_short, metric_title
from plinio_sweep.view.scene import drawn_objectives

if TYPE_CHECKING:
    from plinio_sweep.sweep.result import Objective, StudyRecord

POINT, SEED_NET = "●", "◇"
LEAST_COLUMNS, LEAST_ROWS = 12, 3  # of the area within the axes; below that nothing can be read

# Of a braille character, bit by place: two columns of four dots. (The Unicode Standard, chapter 21,
# "Braille Patterns": U+2800 and the bits of the dots that are raised.)
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BRAILLE = 0x2800


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One of the two axes."""

    objective: Objective
    low: float
    high: float

    @property
    def log(self) -> bool:
        """Whether it is logarithmic, as those of costs are: what counts there is a ratio."""
        return self.objective.kind == "cost" and self.low > 0

    def place(self, value: float) -> float:
        """Where `value` stands, from 0 to 1; what passes the ends stands there."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = (math.log(max(v, self.low)) for v in (low, high, value))
        if not high > low:
            return 0.5
        # Divided first: the difference of two large floats may be infinite.
        share = (value / 2 - low / 2) / (high / 2 - low / 2)
        return min(1.0, max(0.0, share))

    def label(self, value: float) -> str:
        """`value` with its unit."""
        if self.objective.kind == "metric":
            return format_metric(value)
        return format_short(value, self.objective.unit)

    @property
    def title(self) -> str:
        """What it shows."""
        if self.objective.kind == "metric":
            return metric_title(self.objective.name)
        name = cost_title(self.objective.name, self.objective.unit)
        return f"{name}, log" if self.log else name


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What there is to draw: points as (across, upward), in the units of the study."""

    across: Axis
    upward: Axis
    points: tuple[tuple[float, float], ...]  # the front, along its first axis
    seed: tuple[float, float] | None = None


def picture(study: StudyRecord) -> Picture | None:
    """What to draw of a study; nothing without two objectives, or before its first trial."""
    trials = front(study)
    if len(study.objectives) < 2 or not trials:
        return None
    across, upward = drawn_objectives(study)
    points = tuple((trial.values[across], trial.values[upward]) for trial in trials)
    seed = None
    if study.baseline is not None and all(map(math.isfinite, study.baseline.values)):
        seed = (study.baseline.values[across], study.baseline.values[upward])
    drawn = points if seed is None else (*points, seed)
    return Picture(
        across=_axis(study.objectives[across], [x for x, _ in drawn]),
        upward=_axis(study.objectives[upward], [y for _, y in drawn]),
        points=points,
        seed=seed,
    )


def _axis(objective: Objective, values: Sequence[float]) -> Axis:
    return Axis(objective=objective, low=min(values), high=max(values))


def draw(picture: Picture, width: int, height: int) -> tuple[str, ...]:
    """The picture as lines of at most `width` characters; none where there is no room.

    Args:
        picture: What to draw.
        width: Of all, with labels [characters].
        height: Of all, with title and labels [lines].
    """
    up = picture.upward
    labels = [up.label(up.high), up.label(up.low)]
    margin = max(map(len, labels)) + 2
    columns, rows = width - margin, height - 3
    if columns < LEAST_COLUMNS or rows < LEAST_ROWS:
        return ()
    area = _area(picture, columns, rows)
    # Where all points have one value, they are in the middle.
    flat = up.high == up.low
    ticks = {round(0.5 * (rows - 1)): labels[0]} if flat else {0: labels[0], rows - 1: labels[1]}
    lines = [_title(picture, width)]
    for index, line in enumerate(area):
        label = ticks.get(index, "")
        lines.append(f"{label:>{margin - 2}} {'┤' if label else '│'}{line}".rstrip())
    lines.append(" " * (margin - 1) + "└" + "─" * columns)
    lines.append(" " * margin + _below(picture.across, columns))
    return tuple(lines)


def _title(picture: Picture, width: int) -> str:
    marks = f"{POINT} front" + (f"  {SEED_NET} seed net" if picture.seed else "")
    title = picture.upward.title
    if len(title) + 2 + len(marks) > width:
        return title[:width]
    return f"{title}  {marks}"


def _below(axis: Axis, columns: int) -> str:
    """Both ends of the axis, and between them what it shows, if there is room."""
    low, high = axis.label(axis.low), axis.label(axis.high)
    if axis.low == axis.high:
        return f"{low} ({axis.title})".center(columns).rstrip()[:columns]
    room = columns - len(low) - len(high) - 2
    if room >= len(axis.title):
        return f"{low} {axis.title:^{room}} {high}"
    if room >= 0:
        return f"{low}{high:>{columns - len(low)}}"
    return low[:columns]


def cell(picture: Picture, point: tuple[float, float], columns: int, rows: int) -> tuple[int, int]:
    """Column from the left and row from above of the character in which a point stands."""
    x, y = picture.across.place(point[0]), picture.upward.place(point[1])
    return round(x * (columns - 1)), round((1 - y) * (rows - 1))


def _area(picture: Picture, columns: int, rows: int) -> list[str]:
    cells = [[0] * columns for _ in range(rows)]
    for x, y in _staircase(picture, columns, rows):
        cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]
    # A blank, not the braille of no dot: some fonts draw empty circles for that.
    drawn = [[chr(_BRAILLE + dots) if dots else " " for dots in row] for row in cells]
    if picture.seed is not None:
        column, row = cell(picture, picture.seed, columns, rows)
        drawn[row][column] = SEED_NET
    for point in picture.points:  # last: they are what this is about
        column, row = cell(picture, point, columns, rows)
        drawn[row][column] = POINT
    return ["".join(row) for row in drawn]


def _staircase(picture: Picture, columns: int, rows: int) -> Iterable[tuple[int, int]]:
    """Dots, as column and row, of the best upward value that is had for each value across."""
    # As steps between the cells of the points, so that it runs through their marks.
    best = max if picture.upward.objective.maximize else min
    backwards = picture.across.objective.maximize
    value: float | None = None
    corner: tuple[int, int] | None = None
    for point in sorted(picture.points, reverse=backwards):
        value = point[1] if value is None else best(value, point[1])
        column, row = cell(picture, (point[0], value), columns, rows)
        dot = (2 * column, 4 * row + 1)
        if corner is not None:
            first, last = sorted((corner[0], dot[0]))
            yield from ((x, corner[1]) for x in range(first, last + 1))
            top, bottom = sorted((corner[1], dot[1]))
            yield from ((dot[0], y) for y in range(top, bottom + 1))
        corner = dot
