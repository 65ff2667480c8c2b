"""A result as points of curves: plain numbers with their times, for any tracking store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from plinio_sweep.sweep.result import Epoch, PhaseRecord, TrialResult


class Point(NamedTuple):
    """One value of a curve."""

    name: str
    value: float
    when: float  # [s] since 1970
    step: int


def trial_points(result: TrialResult, when: float) -> list[Point]:
    """Every curve of a trial, and one step after the last epoch its final values.

    So these are the latest of curves of the same name.

    Args:
        result: What the trial came to.
        when: It was told [s].
    """
    last = 1 + max((epoch.step for epoch in result.history), default=-1)
    final = {
        **result.metrics,
        **result.costs,
        **{f"estimate.{name}": value for name, value in result.estimates.items()},
    }
    curves = [point for epoch in result.history for point in _points(epoch, when, epoch.step)]
    return curves + [Point(name, float(value), when, last) for name, value in final.items()]


def stages(result: TrialResult) -> Iterator[tuple[PhaseRecord, list[Point]]]:
    """Every phase that has epochs, with its curves from step 0: as those of other trials begin."""
    for phase in result.phases:
        epochs = [epoch for epoch in result.history if epoch.phase == phase.name]
        if epochs:
            yield phase, list(_stage_points(phase, epochs))


def _stage_points(phase: PhaseRecord, epochs: Iterable[Epoch]) -> Iterator[Point]:
    # When each epoch ended is not stored: they take about as long as one another.
    for epoch in epochs:
        share = (epoch.index + 1) / max(phase.epochs, 1)
        yield from _points(epoch, phase.begin + share * phase.seconds, epoch.index)


def _points(epoch: Epoch, when: float, step: int) -> list[Point]:
    values = {
        "train_loss": epoch.train_loss,
        "validation_loss": epoch.validation_loss,
        "strength": epoch.strength,
        **{f"validation_{name}": value for name, value in epoch.metrics.items()},
        **{f"cost.{name}": value for name, value in epoch.costs.items()},
    }
    return [Point(name, float(value), when, step) for name, value in values.items()]
