"""What the picture of a front shows: points, axes and words, free of any plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from plinio_sweep.sweep.result import SEED, BaselineRecord, StudyRecord, TrialRecord
from plinio_sweep.view.front import front, is_comparable
from plinio_sweep.view.report import (
    Record,
    compared,
    cost_title,
    format_strengths,
    metric_title,
    summary_line,
)

# Units that take a prefix, and how they are written behind one.
PREFIXED = {"byte": "B", "bit": "bit", "MAC": "MAC", "cycle": "cycle"}

# In typographic points: the plot area of the printed figure, and the room that a digit, the gap
# between two labels and a line take in its 8 point type.
AREA_WIDTH, AREA_HEIGHT = 440.0, 240.0
DIGIT_WIDTH, GAP, LINE_HEIGHT = 5.2, 2.0, 9.0


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One drawn objective: `index` among the objectives, shown divided by `factor`."""

    index: int
    maximize: bool
    title: str
    factor: float
    ticks: tuple[float, ...]  # of a logarithmic axis; empty on a linear one


@dataclass(frozen=True, kw_only=True)
class Points:
    """One series in drawn units, with what a page says of each point under the pointer."""

    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    names: tuple[int | str, ...] = ()  # number of a trial, name of a baseline


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A whole picture."""

    title: str
    subtitle: str
    x: Axis
    y: Axis
    trials: Points  # feasible and dominated
    infeasible: Points
    front: Points
    labels: tuple[str, ...]  # trial number of each point of the front; empty where crowded
    outline: Points  # the front of the two drawn objectives alone, along x: a line can join it
    test: Points  # the front again, at the metric of the test split
    seed: Points
    baselines: Mapping[str, Points] = field(default_factory=dict)  # by family, along x


def drawn_objectives(study: StudyRecord) -> tuple[int, int]:
    """Indices of the objectives on the two axes: the first cost below, the first metric beside.

    Without a cost the second metric is below; without a metric the second cost is at the side.

    Raises:
        ValueError: The study has fewer than two objectives.
    """
    if len(study.objectives) < 2:
        names = [objective.name for objective in study.objectives]
        raise ValueError(
            f"A figure needs two objectives or more, but study {study.name!r} has {names}; "
            "read its best trial from the table instead."
        )
    costs = [i for i, objective in enumerate(study.objectives) if objective.kind == "cost"]
    metrics = [i for i, objective in enumerate(study.objectives) if objective.kind == "metric"]
    return costs[0] if costs else metrics[1], metrics[0] if metrics else costs[1]


def prefix(largest: float, unit: str) -> tuple[float, str]:
    """Divisor and unit that keep the numbers on an axis short.

    >>> prefix(311_000, "byte"), prefix(900, "byte"), prefix(5e6, "pJ")
    ((1000.0, 'kB'), (1.0, 'byte'), (1.0, 'pJ'))
    """
    if unit in PREFIXED:
        for factor, letter in ((1e6, "M"), (1e3, "k")):
            if largest >= 2 * factor:
                return factor, letter + PREFIXED[unit]
    return 1.0, unit


def log_ticks(values: Iterable[float]) -> tuple[float, ...]:
    """Ticks 1, 2, 5 in every decade of `values`; none within a decade or with values <= 0.

    >>> log_ticks([3, 80])
    (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    """
    low, high = min(values), max(values)
    if low <= 0 or high <= 10 * low:
        return ()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = (float(f"{step}e{decade}") for decade in decades for step in (1, 2, 5))
    return tuple(tick for tick in ticks if low / 2 < tick < high * 2)


def _axis(study: StudyRecord, index: int, values: list[float]) -> Axis:
    objective = study.objectives[index]
    factor, title = 1.0, metric_title(objective.name)
    ticks: tuple[float, ...] = ()
    # A metric stays linear: a reader compares its differences, not its ratios.
    if objective.kind == "cost":
        factor, unit = prefix(max(values), objective.unit)
        name = cost_title(objective.name, objective.unit)
        title = f"{name} [{unit}]" if unit not in ("", name) else name
        ticks = log_ticks([value / factor for value in values])
    return Axis(index=index, maximize=objective.maximize, title=title, factor=factor, ticks=ticks)


def _text(record: Record) -> str:
    if not isinstance(record, TrialRecord):
        return "seed (float)" if record.name == SEED else record.name
    plan = (str(record.params.get("order", "")), f"lambda {format_strengths(record.params)}")
    return "<br>".join([f"trial {record.number}", *filter(None, plan)])


def _points(records: Iterable[Record], x: Axis, y: Axis) -> Points:
    records = tuple(records)
    return Points(
        x=tuple(record.values[x.index] / x.factor for record in records),
        y=tuple(record.values[y.index] / y.factor for record in records),
        texts=tuple(map(_text, records)),
        names=tuple(name_of(record) for record in records),
    )


def name_of(record: Record) -> int | str:
    """Number of a trial, name of a baseline."""
    return record.number if isinstance(record, TrialRecord) else record.name


def _families(baselines: Iterable[BaselineRecord], x: Axis, y: Axis) -> dict[str, Points]:
    families: dict[str, list[BaselineRecord]] = {}
    for baseline in sorted(baselines, key=lambda b: b.values[x.index]):
        families.setdefault(baseline.family, []).append(baseline)
    return {family: _points(families[family], x, y) for family in sorted(families)}


def _outline(study: StudyRecord, x: Axis, y: Axis) -> Points:
    flat = replace(
        study,
        objectives=(study.objectives[x.index], study.objectives[y.index]),
        trials=tuple(
            replace(trial, values=(trial.values[x.index], trial.values[y.index]))
            for trial in front(study)
        ),
    )
    trials = sorted(front(flat), key=lambda trial: trial.values[0])
    return _points(trials, replace(x, index=0), replace(y, index=1))


def _test(study: StudyRecord, x: Axis, y: Axis) -> Points:
    key = f"test_{study.objectives[y.index].name}"
    known = [trial for trial in front(study) if math.isfinite(trial.metrics.get(key, math.nan))]
    return Points(
        x=_points(known, x, y).x,
        y=tuple(trial.metrics[key] / y.factor for trial in known),
        texts=tuple(f"trial {trial.number}, test" for trial in known),
    )


def _places(values: Sequence[float], shown: Sequence[float], *, log: bool) -> list[float]:
    """Where on its axis each value stands, from 0 to 1, when `shown` fills the axis."""
    low, high = min(shown), max(shown)
    if high == low:
        return [0.5] * len(values)
    if log:
        return [math.log(value / low) / math.log(high / low) for value in values]
    return [(value - low) / (high - low) for value in values]


def clear_labels(
    labels: Sequence[str], columns: Sequence[float], rows: Sequence[float]
) -> tuple[str, ...]:
    """`labels` with those emptied that would be written over an earlier one.

    Args:
        labels: The words, most wanted first; each ends at its own point.
        columns: Place of each from the left, in points of the printed figure.
        rows: Place of each from below, in points of the printed figure.
    """
    kept: list[str] = []
    for i, label in enumerate(labels):
        hidden = any(
            abs(columns[i] - columns[j]) < DIGIT_WIDTH * max(len(label), len(kept[j])) + GAP
            and abs(rows[i] - rows[j]) < LINE_HEIGHT
            for j in range(i)
            if kept[j]
        )
        kept.append("" if hidden else label)
    return tuple(kept)


def _drawn_trials(study: StudyRecord) -> list[TrialRecord]:
    # Infeasible trials are drawn too, so feasibility is set aside here.
    count = len(study.objectives)
    drawn = [t for t in study.trials if is_comparable(replace(t, feasible=True), count)]
    if not drawn:
        raise ValueError(
            f"A figure needs one complete trial or more, but study {study.name!r} has none; "
            "run some trials first."
        )
    return drawn


def scene(study: StudyRecord) -> Scene:
    """The picture of a study: which points stand where, and what is written beside them.

    Raises:
        ValueError: The study has fewer than two objectives, or no complete trial.
    """
    across, upward = drawn_objectives(study)
    drawn = _drawn_trials(study)
    beside = compared(study)
    records: list[Record] = [*drawn, *beside]
    x = _axis(study, across, [record.values[across] for record in records])
    y = _axis(study, upward, [record.values[upward] for record in records])
    best, everything = front(study), _points(records, x, y)
    numbers = {trial.number for trial in best}
    points = _points(best, x, y)
    columns = _places(points.x, everything.x, log=bool(x.ticks))
    rows = _places(points.y, everything.y, log=bool(y.ticks))
    return Scene(
        title=study.name,
        subtitle=summary_line(study),
        x=x,
        y=y,
        trials=_points((t for t in drawn if t.feasible and t.number not in numbers), x, y),
        infeasible=_points((t for t in drawn if not t.feasible), x, y),
        front=points,
        labels=clear_labels(
            [str(trial.number) for trial in best],
            [AREA_WIDTH * place for place in columns],
            [AREA_HEIGHT * place for place in rows],
        ),
        outline=_outline(study, x, y),
        test=_test(study, x, y),
        seed=_points((b for b in beside if b.name == SEED), x, y),
        baselines=_families((b for b in beside if b.name != SEED), x, y),
    )
