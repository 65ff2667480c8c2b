"""A study as words, as a table for people and as JSON for machines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plinio_sweep.sweep.result import BaselineRecord, Objective, StudyRecord, TrialRecord
from plinio_sweep.view.front import front, hypervolume

if TYPE_CHECKING:
    from rich.table import Table

Record = TrialRecord | BaselineRecord

# Shown beside the cost objectives wherever a study has them: the two numbers of every data sheet.
COMMON_COSTS = ("size_bytes", "macs")


def _scaled(number: float, prefixes: tuple[str, ...]) -> tuple[str, str]:
    """`number` with three significant digits, below 1000 where a prefix allows, and the prefix."""
    *smaller, largest = prefixes
    for prefix in smaller:
        # Rounded first: 999,950 B are 1 MB, never 1e+03 kB.
        if float(f"{number:.3g}") < 1000:
            return f"{number:.3g}", prefix
        number /= 1000
    return (f"{number:.3g}" if float(f"{number:.3g}") < 1000 else f"{number:,.0f}"), largest


def format_bytes(size: float) -> str:
    """A size in bytes for people: three significant digits, 1 kB = 1000 B.

    >>> format_bytes(640), format_bytes(12_345), format_bytes(2_500_000)
    ('640 B', '12.3 kB', '2.5 MB')
    """
    return " ".join(_scaled(size, ("B", "kB", "MB", "GB")))


def format_short(cost: float, unit: str) -> str:
    """A cost in three significant digits, with its unit.

    >>> format_short(12_345, "byte"), format_short(1_234_567, "MAC"), format_short(12_345, "pJ")
    ('12.3 kB', '1.23 MMAC', '12,345 pJ')
    """
    if unit == "byte":
        return format_bytes(cost)
    # As in figures: other units are written out.
    prefixes = ("", "k", "M", "G") if unit in ("MAC", "bit", "cycle") else ("",)
    number, prefix = _scaled(cost, prefixes)
    return f"{number} {prefix}{unit}".rstrip()


def format_cost(cost: float, unit: str) -> str:
    """A cost with thousands marked; bytes in short behind it where there are a thousand.

    >>> format_cost(12_345, "byte"), format_cost(640, "MAC"), format_cost(1_234_567, "MAC")
    ('12,345 (12.3 kB)', '640', '1,234,567')
    """
    if not math.isfinite(cost):
        return str(cost)
    exact = f"{cost:,.0f}" if float(cost).is_integer() else f"{cost:,.4g}"
    return f"{exact} ({format_bytes(cost)})" if unit == "byte" and abs(cost) >= 1000 else exact


def format_metric(value: float) -> str:
    """A metric with four significant digits: "0.9100"."""
    return f"{value:#.4g}"


def metric_title(name: str, split: str = "validation") -> str:
    """A metric with its split.

    >>> metric_title("accuracy"), metric_title("accuracy", "test")
    ('accuracy (validation)', 'accuracy (test)')
    """
    return f"{name.replace('_', ' ')} ({split})"


def cost_title(name: str, unit: str) -> str:
    """A cost in words, without the unit that its name may end with.

    >>> cost_title("size_bytes", "byte"), cost_title("macs", "MAC"), cost_title("energy", "pJ")
    ('size', 'MAC', 'energy')
    """
    plural = f"{unit.lower()}s"
    if name == plural:
        return unit
    return name.removesuffix(f"_{plural}").replace("_", " ")


def cost_heading(name: str, unit: str) -> str:
    """A cost in words, with its unit.

    >>> cost_heading("size_bytes", "byte"), cost_heading("macs", "MAC")
    ('size [byte]', 'MAC')
    """
    title = cost_title(name, unit)
    return title if unit in ("", title) else f"{title} [{unit}]"


def strengths(params: Mapping[str, str | float]) -> dict[str, float]:
    """The strength of every stage of a trial, in the order in which the stages run.

    >>> strengths({"mps.strength": 2.0, "pit.strength": 0.5, "order": "pit>mps"})
    {'pit': 0.5, 'mps': 2.0}
    """
    ending = ".strength"
    found = {
        name.removesuffix(ending): float(value)
        for name, value in params.items()
        if name.endswith(ending)
    }
    stages = str(params["order"]).split(">") if "order" in params else list(found)
    return {stage: found[stage] for stage in stages if stage in found}


def format_strengths(params: Mapping[str, str | float]) -> str:
    """The strengths of a trial in the order of its stages: "0.123", "0.123, 4.56"."""
    return ", ".join(f"{value:.3g}" for value in strengths(params).values())


def cost_columns(study: StudyRecord) -> dict[str, str]:
    """Costs worth a column, with their units: the objectives first, then the common ones."""
    columns = {
        objective.name: objective.unit for objective in study.objectives if objective.kind == "cost"
    }
    records = _records(study, None)
    for name in COMMON_COSTS:
        if name not in columns and any(name in record.costs for record in records):
            columns[name] = study.units.get(name, "")
    return columns


def _records(study: StudyRecord, points: Sequence[TrialRecord] | None) -> list[Record]:
    """The rows of the table: seed net and baselines where they are known, then the front."""
    return [*compared(study), *(front(study) if points is None else points)]


def compared(study: StudyRecord) -> list[BaselineRecord]:
    """What the front is compared with, as far as it is trained: seed net, then baselines."""
    seed = [] if study.baseline is None else [study.baseline]
    return [*seed, *(baseline for baseline in study.baselines if baseline.values)]


def _metric_cell(key: str) -> Callable[[Record], str]:
    return lambda record: format_metric(record.metrics[key]) if key in record.metrics else ""


def _cost_cell(name: str, unit: str) -> Callable[[Record], str]:
    return lambda record: format_cost(record.costs[name], unit) if name in record.costs else ""


def _columns(study: StudyRecord, records: list[Record]) -> list[tuple[str, Callable[..., str]]]:
    """Title and cell of every column between the trial's number and its plan."""
    columns: list[tuple[str, Callable[..., str]]] = []
    for objective in study.objectives:
        if objective.kind == "metric":
            for split in ("validation", "test"):
                key = f"{split}_{objective.name}"
                if split == "validation" or any(key in record.metrics for record in records):
                    columns.append((metric_title(objective.name, split), _metric_cell(key)))
    for name, unit in cost_columns(study).items():
        columns.append((cost_heading(name, unit), _cost_cell(name, unit)))
    return columns


def front_table(study: StudyRecord, points: Sequence[TrialRecord] | None = None) -> Table:
    """The front as a table, one trial a row, behind what it is compared with.

    Args:
        study: With its baselines.
        points: What to show of the front; all of it when left out.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    records = _records(study, points)
    columns = _columns(study, records)
    # `Text` everywhere: a plain string such as "size [byte]" would be read as markup.
    table = Table(title=Text(study.name), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(Text("trial"), justify="right")
    for heading, cell in columns:
        # Split or unit on a line of its own. A narrow terminal still shows every number, and
        # whole: one in another unit goes below, orders and strengths are folded first.
        lines = Text(heading.replace(" (", "\n(").replace(" [", "\n["))
        words = [word for text in (heading, *map(cell, records)) for word in text.split()]
        table.add_column(lines, justify="right", overflow="fold", min_width=max(map(len, words)))
    for heading in ("order", "lambda"):
        table.add_column(Text(heading), overflow="fold")
    last = len(compared(study)) - 1
    for index, record in enumerate(records):
        cells = [cell(record) for _, cell in columns]
        if isinstance(record, TrialRecord):
            plan = [str(record.params.get("order", "")), format_strengths(record.params)]
            cells = [str(record.number), *cells, *plan]
        else:
            cells = [record.name, *cells, "", ""]
        table.add_row(*map(Text, cells), end_section=index == last)
    return table


def summary_line(study: StudyRecord) -> str:
    """One sentence on the state of a study: its trials, its front, its hypervolume."""
    # More may be done than the last run asked for.
    asked = max(study.target_trials, study.count("complete"))
    parts = [
        f"{study.count('complete')} of {asked} trials complete",
        f"{study.count('failed')} failed",
    ]
    if pruned := study.count("pruned"):
        parts.append(f"{pruned} pruned")
    if running := study.count("running"):
        parts.append(f"{running} running")
    size = len(front(study))
    parts.append(f"front of {size} point{'' if size == 1 else 's'}")
    volume = hypervolume(study)
    parts.append("no hypervolume" if volume is None else f"hypervolume {volume:.3f}")
    return ", ".join(parts)


def seen_line(study: StudyRecord) -> str:
    """One sentence on what was seen of the test data."""
    date, _, clock = study.touched.partition("T")
    first = f"first on {date} at {clock[:5]} UTC" if date else "before that was noted"
    nets = f"{study.tested} net{'' if study.tested == 1 else 's'}"
    return f"test data were looked at: {first}, and for {nets} by now"


def failures(study: StudyRecord) -> list[str]:
    """One line a failed trial or baseline, with the reason it left."""
    failed = {f"trial {t.number}": t.reason for t in study.trials if t.state == "failed"}
    failed |= {f"baseline {b.name}": b.reason for b in study.baselines if b.reason}
    return [
        f"{name} failed: {' '.join(reason.split()) or 'no reason recorded'}"
        for name, reason in failed.items()
    ]


def retries(study: StudyRecord) -> list[str]:
    """One line a trial that was not done at the first attempt, with how each one ended."""
    return [f"trial {t.number} {attempts(t.number, t.losses)}" for t in study.trials if t.losses]


def attempts(number: int, losses: Mapping[int, str]) -> str:
    """How often a trial was begun, and how that ended.

    >>> attempts(4, {1: "its worker died", 3: "it was interrupted"})
    'took 3 attempts: 1 (its worker died), 3 (it was interrupted), 4'
    """
    before = "".join(f"{lost} ({reason}), " for lost, reason in losses.items())
    return f"took {len(losses) + 1} attempts: {before}{number}"


def drifts(study: StudyRecord) -> list[str]:
    """One line a change of the study that was accepted, with the first trial under it."""
    first: dict[str, int] = {}
    for trial in study.trials:
        for change in trial.drift:
            first.setdefault(change, trial.number)
    return [f"since trial {number}, as accepted: {change}" for change, number in first.items()]


def uncovered_lines(uncovered: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One line for all cost models that take the same layers to be free.

    >>> uncovered_lines({"macs": ("gru", "bare"), "ops": ("gru", "bare")})
    ['not covered by macs, ops, so free there: gru, bare']
    """
    models: dict[tuple[str, ...], list[str]] = {}
    for model, layers in uncovered.items():
        models.setdefault(layers, []).append(model)
    return [
        f"not covered by {', '.join(names)}, so free there: {', '.join(layers)}"
        for layers, names in models.items()
    ]


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """`values` for JSON, which knows neither NaN nor infinity."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _result(record: Record) -> dict[str, Any]:
    return {
        "values": [value if math.isfinite(value) else None for value in record.values],
        "metrics": _finite(record.metrics),
        "costs": _finite(record.costs),
    }


def _objective(objective: Objective) -> dict[str, str]:
    return {"name": objective.name, "direction": objective.direction, "unit": objective.unit}


def _point(trial: TrialRecord) -> dict[str, Any]:
    return {
        "trial": trial.number,
        **_result(trial),
        "params": dict(trial.params),
        "artifact": trial.artifact,
    }


def _baseline(record: BaselineRecord) -> dict[str, Any]:
    return {**_result(record), "artifact": record.artifact}


def to_json(
    study: StudyRecord,
    points: Sequence[TrialRecord] | None = None,
    confirmed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A study as strict JSON values: the stable form for other programs.

    Args:
        study: As it was read.
        points: What to show of the front; all of it when left out.
        confirmed: What replicates said, if any were asked for.

    Returns:
        `study` (name), `objectives` (name, direction, unit), `trials` (number in each state that a
        trial can end or be in, and their `total`), `baseline` (the seed net, or null), `baselines`
        (of the study, by name: trained, or null), `front` (sorted as `front` does), `hypervolume`
        (or null), `tested` (number of nets that were measured on test data, and when the first
        was, or null) and `confirmed` (or null). `values` follow `objectives`; a number that is
        not finite is null.
    """
    counts = {
        "complete": study.count("complete"),
        "failed": study.count("failed"),
        "pruned": study.count("pruned"),
        "running": study.count("running"),
    }
    seed = study.baseline
    return {
        "study": study.name,
        "objectives": [_objective(objective) for objective in study.objectives],
        "trials": {**counts, "total": sum(counts.values())},
        "baseline": None if seed is None else _baseline(seed),
        "baselines": {b.name: _baseline(b) if b.values else None for b in study.baselines},
        "front": [_point(trial) for trial in (front(study) if points is None else points)],
        "hypervolume": hypervolume(study),
        "tested": {"nets": study.tested, "first": study.touched or None} if study.tested else None,
        "confirmed": confirmed,
    }
