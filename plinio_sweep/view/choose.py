"""Which points of a front to look at: those within limits, its knee, a few that differ most.

Distances are taken on the scale on which fronts are drawn: each objective from 0 (the best of the
front) to 1 (its worst), costs by their logarithm where all are above 0.

References:
    Das, "On characterizing the 'knee' of the Pareto curve based on Normal-Boundary Intersection",
    Structural Optimization 18, 1999: the point farthest from the plane through the extremes.
    Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer
    Science 38, 1985: points that are each as far as can be from those chosen before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from plinio_sweep.view.front import front

if TYPE_CHECKING:
    from plinio_sweep.sweep.result import StudyRecord, TrialRecord

_BOUND = re.compile(r"\s*([^=\s]+)\s*=\s*([^a-zA-Z\s]+(?:e[+-]?\d+)?)\s*([kKMG]?)(i?)B?\s*")


def parse_bound(text: str) -> tuple[str, float]:
    """Name and value of a bound; 1 kB is 1000 B, 1 KiB is 1024 B.

    Raises:
        ValueError: For what is no bound.

    Example:
        >>> parse_bound("size_bytes=24kB"), parse_bound("accuracy=0.85")
        (('size_bytes', 24000.0), ('accuracy', 0.85))
    """
    found = _BOUND.fullmatch(text)
    try:
        if found is None:
            raise ValueError(text)
        name, number, prefix, binary = found.groups()
        value = float(number)
    except ValueError:
        raise ValueError(
            f"A bound must be NAME=NUMBER, with k, M, G, Ki, Mi, Gi and B as units, but got "
            f"{text!r}; write for instance size_bytes=24kB."
        ) from None
    return name, value * (1024 if binary else 1000) ** " KMG".index(prefix.upper() or " ")


def bounded(
    study: StudyRecord, limits: Mapping[str, float], at_least: Mapping[str, float]
) -> StudyRecord:
    """`study` with those trials infeasible that pass a bound.

    Args:
        study: As it is stored.
        limits: Upper bounds by metric or cost.
        at_least: Lower bounds by metric or cost.

    Raises:
        ValueError: For a name that no trial has.
    """
    known = {name for t in study.trials if t.state == "complete" for name in measures(t)}
    for name in (*limits, *at_least):
        if known and name not in known:
            raise ValueError(
                f"A bound must be on a metric or cost of the study, {sorted(known)}, but got "
                f"{name!r}; correct the name, or count it with --model."
            )

    def fits(trial: TrialRecord) -> bool:
        has = measures(trial)
        return all(has[name] <= bound for name, bound in limits.items()) and all(
            has[name] >= bound for name, bound in at_least.items()
        )

    trials = tuple(
        trial
        if trial.state != "complete"
        else replace(trial, feasible=trial.feasible and fits(trial))
        for trial in study.trials
    )
    return replace(study, trials=trials)


def measures(trial: TrialRecord) -> dict[str, float]:
    """What a trial may be chosen by: metrics on validation data, and costs. Never test data."""
    prefix = "validation_"
    metrics = {k.removeprefix(prefix): v for k, v in trial.metrics.items() if k.startswith(prefix)}
    return {**metrics, **trial.costs}


def knee(study: StudyRecord) -> tuple[TrialRecord, ...]:
    """The point of the front where more of one objective costs most of the others; or nothing.

    It is the farthest one from the plane through the extremes of the front, on its good side. Of
    equal ones the first of the front.
    """
    points, places = _places(study)
    if not points:
        return ()
    # The plane is where the places add up to 1.
    return (min(zip(points, places, strict=True), key=lambda pair: sum(pair[1]))[0],)


def diverse(study: StudyRecord, count: int) -> tuple[TrialRecord, ...]:
    """`count` points of the front that are far from each other, in the order of the front.

    First the knee, then always the one that is farthest from all that are chosen.

    Args:
        study: With its trials.
        count: At least 1; all of the front where it has no more.
    """
    points, places = _places(study)
    place = dict(zip((p.number for p in points), places, strict=True))
    chosen = list(knee(study))
    while len(chosen) < min(count, len(points)):
        rest = [point for point in points if point not in chosen]
        chosen.append(
            max(
                rest,
                key=lambda p: min(math.dist(place[p.number], place[c.number]) for c in chosen),
            )
        )
    return tuple(point for point in points if point in chosen)


def _places(study: StudyRecord) -> tuple[tuple[TrialRecord, ...], list[tuple[float, ...]]]:
    """The front, and of each point its objectives from 0, the best, to 1, the worst."""
    points = front(study)
    columns = []
    for index, objective in enumerate(study.objectives):
        values = [point.values[index] for point in points]
        if objective.kind == "cost" and points and min(values) > 0:
            values = [math.log(value) for value in values]
        low, high = min(values, default=0.0), max(values, default=0.0)
        scaled = [0.0 if high == low else (value - low) / (high - low) for value in values]
        columns.append([1 - place for place in scaled] if objective.maximize else scaled)
    return points, list(zip(*columns, strict=True))
