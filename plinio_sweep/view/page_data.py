"""What a report's page knows, as compact JSON values: columns of numbers, each word once.

Legend: `P` points (seed net, baselines, trials, in this order), `L` layers of a net.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from plinio_sweep.sweep.detail import Detail, LayerRecord
from plinio_sweep.sweep.result import SEED, StudyRecord, TrialRecord
from plinio_sweep.view import report
from plinio_sweep.view.choose import knee
from plinio_sweep.view.confirm import Confirmation, confirmation_json
from plinio_sweep.view.course import course, shares, spans
from plinio_sweep.view.front import front
from plinio_sweep.view.report import Record
from plinio_sweep.view.scene import Axis, scene

Column = list[Any]

SPLITS = ("validation", "test")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one cost model says of one net."""

    value: float | None = None  # nothing when it can't be counted
    remark: str = ""  # why not, or which layers are free


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Stored nets under every cost model."""

    units: Mapping[str, str] = field(default_factory=dict)  # of every model
    cells: Mapping[str, Mapping[str, Cell]] = field(default_factory=dict)  # by artefact and model
    remark: str = ""  # why there is nothing, or not all


@dataclass(frozen=True, kw_only=True)
class About:
    """Where a report comes from."""

    commands: tuple[tuple[str, str], ...] = ()  # what each is for, and the words to type
    places: tuple[tuple[str, str], ...] = ()  # "database", "artefacts"


def page_data(
    study: StudyRecord,
    details: Mapping[str, Detail | str],
    hardware: Hardware,
    about: About,
    confirmed: Confirmation | None = None,
) -> dict[str, Any]:
    """All that a page shows of `study`.

    Args:
        study: As it was read.
        details: By artefact, or why there is none.
        hardware: Of some points.
        about: Where it comes from.
        confirmed: What its replicates say, if it has any.
    """
    records: list[Record] = [*report.compared(study), *study.trials]
    measures = _measures(study, records)
    place = {r.number: i for i, r in enumerate(records) if isinstance(r, TrialRecord)}
    chosen = knee(study)
    return {
        "name": study.name,
        "sentence": sentence(study),
        "measures": measures,
        "axes": _axes(study, measures),
        "points": _points(records, measures),
        "front": [place[trial.number] for trial in front(study)],
        "knee": place[chosen[0].number] if chosen else None,
        "nets": _nets(records, details, [m for m in measures if m["shown"]]),
        "hardware": _hardware(records, hardware),
        "confirmed": _confirmed(records, confirmed),
        "course": _course(study),
        "limits": [[*_bound(name), _short(bound)] for name, bound in study.limits.items()],
        "untrained": [[b.name, b.family, b.reason] for b in study.baselines if not b.values],
        "lines": [
            *(f"{line}." for line in report.drifts(study)),
            *(f"{line}." for line in report.retries(study)),
            *(f"{line}." for line in report.failures(study)),
        ],
        "environment": _environment(study, about),
        "commands": [list(command) for command in about.commands],
    }


def sentence(study: StudyRecord) -> str:
    """The study in one sentence: what was tried, and what is best of it."""
    tried, points = study.count("complete"), front(study)
    found = f"{tried:,} complete trial{'' if tried == 1 else 's'} of {study.name} found "
    if not points:
        return f"{found}no net yet that keeps all limits."
    found += "one net" if len(points) == 1 else f"{len(points)} nets"
    found += " that no other one beats"
    best = _best(study, points)
    found += f": the best at {_words(study, best.values)} (trial {best.number})"
    if len(points) > 1:
        (middle,) = knee(study)
        found += f", the knee at {_words(study, middle.values)} (trial {middle.number})"
    if study.baseline is not None and study.baseline.values:
        found += f"; the float seed net has {_words(study, study.baseline.values)}"
    return f"{found}."


def _best(study: StudyRecord, points: Sequence[TrialRecord]) -> TrialRecord:
    """By the first metric, or by the first objective."""
    kinds = [axis.kind for axis in study.objectives]
    index = kinds.index("metric") if "metric" in kinds else 0
    sense = 1 if study.objectives[index].maximize else -1
    return max(points, key=lambda trial: sense * trial.values[index])


def _words(study: StudyRecord, values: Sequence[float]) -> str:
    found = []
    for axis, value in zip(study.objectives, values, strict=True):
        if axis.kind == "metric":
            found.append(f"{report.format_metric(value)} {axis.name.replace('_', ' ')}")
        elif axis.unit == "byte":
            found.append(report.format_bytes(value))
        else:
            found.append(f"{report.format_cost(value, axis.unit)} {axis.unit}")
    return " and ".join((", ".join(found[:-1]), found[-1])) if len(found) > 1 else found[0]


# -- points ---------------------------------------------------------------------------------------


def _measures(study: StudyRecord, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Every metric and cost that a point has: objectives first, then those worth a column."""
    axes = {axis.name: axis for axis in study.objectives}
    has = dict.fromkeys(chain.from_iterable(record.metrics for record in records))
    found = []
    for key in has:
        split, _, name = key.partition("_")
        if split not in SPLITS:
            split, name = "", key
        axis = axes.get(name)
        drawn = axis is not None and axis.kind == "metric"
        maximize = axis.maximize if axis is not None else not name.endswith(("loss", "error"))
        title = report.metric_title(name, split) if split else name
        found.append(_measure(key, title, "metric", maximize, shown=drawn))
        found[-1]["objective"] = drawn and split == SPLITS[0]
    common = report.cost_columns(study)
    for name in dict.fromkeys(chain(common, *(record.costs for record in records))):
        unit = study.units.get(name, common.get(name, ""))
        shown = name in common
        title = report.cost_title(name, unit) if shown else name.replace("_", " ")
        found.append(_measure(name, title, "cost", False, shown=shown, unit=unit))
        found[-1]["objective"] = name in axes
    order = [axis.name for axis in study.objectives]
    return sorted(
        found, key=lambda m: (not m["shown"], _rank(m, order), m["kind"] != "metric", m["key"])
    )


def _rank(measure: Mapping[str, Any], order: Sequence[str]) -> int:
    name = measure["key"].removeprefix("validation_").removeprefix("test_")
    # The test split comes right behind the validation split.
    split = 1 if measure["key"].startswith("test_") else 0
    return 2 * order.index(name) + split if name in order else 2 * len(order)


def _measure(
    key: str, title: str, kind: str, maximize: bool, *, shown: bool, unit: str = ""
) -> dict[str, Any]:
    return {
        "key": key,
        "title": title,
        "kind": kind,
        "unit": unit,
        "maximize": maximize,
        "shown": shown,
    }


def _points(records: Sequence[Record], measures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    trials = [record if isinstance(record, TrialRecord) else None for record in records]
    names = sorted({name for trial in trials if trial for name in trial.params})
    workers, worker = _interned(_machine(trial.worker) if trial else "" for trial in trials)
    states, state = _interned(trial.state if trial else "complete" for trial in trials)
    return {
        "names": [r.number if isinstance(r, TrialRecord) else r.name for r in records],
        "families": ["" if isinstance(r, TrialRecord) else r.family for r in records],
        "states": states,
        "state": state,
        "feasible": [0 if trial and not trial.feasible else 1 for trial in trials],
        "values": [[_short(_value(r, m)) for r in records] for m in measures],
        "params": {
            name: [_short(trial.params.get(name)) if trial else None for trial in trials]
            for name in names
        },
        "strengths": [report.format_strengths(t.params) if t else "" for t in trials],
        "seconds": [round(trial.seconds, 1) if trial else None for trial in trials],
        "epochs": [_epochs(record) for record in records],
        "workers": workers,
        "worker": worker,
    }


def _value(record: Record, measure: Mapping[str, Any]) -> float | None:
    known = record.metrics if measure["kind"] == "metric" else record.costs
    return known.get(measure["key"])


def _epochs(record: Record) -> list[int] | None:
    """Trained ones, and those from the store."""
    if not record.phases:
        return None
    trained = sum(phase.trained_epochs for phase in record.phases)
    return [trained, sum(phase.epochs for phase in record.phases) - trained]


def _machine(worker: str) -> str:
    """The name of a worker's machine."""
    return worker.partition("/")[0]


def _short(value: Any) -> Any:
    """A number in few digits, none that is not finite; a text as it is.

    >>> _short(0.123456789), _short(12.0), _short(float("nan")), _short((2, 4))
    (0.123457, 12, None, '(2, 4)')
    """
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")


def _interned(words: Iterable[str]) -> tuple[list[str], list[int]]:
    """Each word once, and which one stands where."""
    places: dict[str, int] = {}
    numbers = [places.setdefault(word, len(places)) for word in words]
    return list(places), numbers


def _axes(study: StudyRecord, measures: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    try:
        picture = scene(study)
    except ValueError:
        return None  # one objective, or nothing to draw
    keys = [measure["key"] for measure in measures]

    def axis(drawn: Axis) -> dict[str, Any]:
        own = study.objectives[drawn.index]
        prefix = "validation_" if own.kind == "metric" else ""
        test = f"test_{own.name}"
        return {
            "measure": keys.index(prefix + own.name),
            "test": keys.index(test) if test in keys and own.kind == "metric" else None,
            "title": drawn.title,
            "factor": drawn.factor,
            "ticks": drawn.ticks,
            "maximize": drawn.maximize,
        }

    return {"x": axis(picture.x), "y": axis(picture.y), "labels": picture.labels}


# -- layers ---------------------------------------------------------------------------------------


def _nets(
    records: Sequence[Record],
    details: Mapping[str, Detail | str],
    measures: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The layers of all points. Nets of one shape share the list of their layers and seeds.

    Returns:
        `shapes`: lists of `[name, inputs, outputs, taps]` of the seed; `states`: what a layer may
        have become, `[inputs, outputs, taps, dilation, x_bits, bits, count, …]`; and by point its
        `shape`, the `state` of each of its layers, its own costs by measure, or why it has none.
    """
    costs = [m for m in measures if m["kind"] == "cost"]
    shapes: dict[tuple[Any, ...], int] = {}
    states: dict[tuple[Any, ...], int] = {}
    ops: dict[str, str] = {}
    shape: Column = []
    state: Column = []
    own: list[Column] = [[] for _ in costs]
    missing: dict[int, str] = {}
    for index, record in enumerate(records):
        detail = details.get(record.artifact, "") if record.artifact else ""
        if isinstance(detail, str):
            if detail:
                missing[index] = detail
            for column in (shape, state, *own):
                column.append(None)
            continue
        layers = detail.layers
        rows = {str(row["name"]): row for row in detail.costs}
        ops |= {name: str(row["op"]) for name, row in rows.items()}
        seed = tuple((n.name, n.seed_inputs, n.seed_outputs, n.seed_taps) for n in layers)
        shape.append(shapes.setdefault(seed, len(shapes)))
        state.append([states.setdefault(_state(layer), len(states)) for layer in layers])
        for column, measure in zip(own, costs, strict=True):
            column.append(_own_costs(layers, rows, measure["key"]))
    return {
        "shapes": [list(map(list, seed)) for seed in shapes],
        "states": list(map(list, states)),
        "ops": ops,
        "shape": shape,
        "state": state,
        "costs": {m["key"]: column for m, column in zip(costs, own, strict=True)},
        "missing": missing,
    }


def _state(layer: LayerRecord) -> tuple[Any, ...]:
    bits = chain.from_iterable(sorted(layer.w_bits.items()))
    return (layer.inputs, layer.outputs, layer.taps, layer.dilation, layer.x_bits, *bits)


def _own_costs(
    layers: Sequence[LayerRecord], rows: Mapping[str, Mapping[str, Any]], key: str
) -> Column:
    return [_short(rows[layer.name].get(key)) if layer.name in rows else None for layer in layers]


# -- the rest -------------------------------------------------------------------------------------


def _hardware(records: Sequence[Record], hardware: Hardware) -> dict[str, Any]:
    """One row a point, one cell a model: `[value, number of its remark]`."""
    remarks: dict[str, int] = {}
    rows = []
    for index, record in enumerate(records):
        cells = hardware.cells.get(record.artifact)
        if not record.artifact or cells is None:
            continue
        row: Column = []
        for model in hardware.units:
            cell = cells.get(model, Cell())
            number = remarks.setdefault(cell.remark, len(remarks)) if cell.remark else None
            row.append([_short(cell.value), number])
        rows.append([index, row])
    return {
        "models": [[name, unit] for name, unit in hardware.units.items()],
        "rows": rows,
        "remarks": list(remarks),
        "remark": hardware.remark,
    }


def _confirmed(records: Sequence[Record], confirmed: Confirmation | None) -> dict[str, Any] | None:
    """As on the command line, with the point of each net, and titles of what was measured."""
    if confirmed is None:
        return None
    names = [str(r.number) if isinstance(r, TrialRecord) else r.name for r in records]
    found = confirmation_json(confirmed)
    nets = found.pop("nets")
    reasons = {name: why for net in nets.values() for name, why in net.pop("failures").items()}
    rows = [{"point": names.index(name), **net} for name, net in nets.items()]
    metrics = dict.fromkeys(chain.from_iterable(net["metrics"] for net in nets.values()))
    titles = []
    for key in metrics:
        split, _, name = key.partition("_")
        titles.append([key, report.metric_title(name, split)])
    known = {"metrics": titles, "nets": _rounded(rows), "reasons": list(reasons.items())}
    return {**_rounded(found), **known}


def _rounded(value: Any) -> Any:
    """Every number in `value` in few digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(own) for key, own in value.items()}
    return list(map(_rounded, value)) if isinstance(value, list) else _short(value)


def _course(study: StudyRecord) -> dict[str, Any]:
    moments, found = course(study), spans(study)
    workers, worker = _interned(span.worker for span in found)
    kinds = shares(found)
    numbers = {share.phase: index for index, share in enumerate(kinds)}
    return {
        "trial": [moment.trial for moment in moments],
        "seconds": [round(moment.seconds, 1) for moment in moments],
        "epochs": [moment.epochs for moment in moments],
        "hypervolume": [_short(moment.hypervolume) for moment in moments],
        "workers": _rows(workers),
        "phases": [
            [
                *(share.phase, round(share.trained, 2), round(share.reused, 2)),
                *(share.trained_epochs, share.reused_epochs),
                *(share.num_trained, share.num_reused),
            ]
            for share in kinds
        ],
        "spans": {
            "worker": worker,
            "phase": [numbers[span.phase] for span in found],
            "begin": [round(span.begin, 1) for span in found],
            "seconds": [round(span.seconds, 1) for span in found],
            "reused": [int(span.reused) for span in found],
        },
    }


def _rows(workers: Sequence[str]) -> list[str]:
    """What the rows of a timeline are called: names of workers are for machines."""
    found: list[str] = []
    for name in workers:
        own = "/" in name
        found.append(f"worker {1 + sum(n.startswith('worker ') for n in found)}" if own else name)
    return found


def _bound(name: str) -> tuple[str, str]:
    """A limit's name and sense: "-accuracy" is one from below."""
    return (name[1:], "at least") if name.startswith("-") else (name, "at most")


def _environment(study: StudyRecord, about: About) -> list[list[str]]:
    packages: Mapping[str, str] = study.definition.get("packages", {})
    machines = sorted({_machine(t.worker) for t in study.trials if t.worker})
    workers = len({trial.worker for trial in study.trials if trial.worker})
    rows = [
        ["packages", ", ".join(f"{name} {v}" for name, v in sorted(packages.items()))],
        ["machines", ", ".join(machines)],
        ["workers", str(workers or "")],
    ]
    return [*(row for row in rows if row[1]), *map(list, about.places)]


def names_of(study: StudyRecord) -> dict[str, str]:
    """Artefacts of all points with a name of each, for messages: "trial 3", "baseline w8a8"."""
    found = {
        b.artifact: "the seed net" if b.name == SEED else f"baseline {b.name}"
        for b in report.compared(study)
        if b.artifact
    }
    return found | {t.artifact: f"trial {t.number}" for t in study.trials if t.artifact}
