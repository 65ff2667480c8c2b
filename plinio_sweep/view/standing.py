"""How a study stands while it runs: pure functions of what is stored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from plinio_sweep.view.chart import Picture, picture
from plinio_sweep.view.front import hypervolume, is_comparable
from plinio_sweep.view.report import cost_title, format_metric, format_short

if TYPE_CHECKING:
    from plinio_sweep.sweep.result import State, StudyRecord, TrialRecord

FRACTIONS = (2, 4, 8)  # of what the seed net costs, or a limit allows
MOST_BUDGETS = 4


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The best that is had for at most `bound` of a cost."""

    cost: str
    unit: str
    bound: float
    best: TrialRecord | None  # feasible
    metric: float = math.nan  # of the best

    def cells(self) -> tuple[str, str, str]:
        """The budget, the metric and the trial, in words."""
        title = cost_title(self.cost, self.unit)
        asked = f"≤ {format_short(self.bound, self.unit)}"
        if title != self.unit:
            asked = f"{title} {asked}"
        if self.best is None:
            return asked, "none yet", ""
        return asked, format_metric(self.metric), f"trial {self.best.number}"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is shown of a study, taken from its record once, however often it is drawn."""

    ended: Mapping[int, State] = field(default_factory=dict)  # trials that are over
    retried: frozenset[int] = frozenset()  # lost ones, in whose place there is another
    picture: Picture | None = None
    budgets: tuple[Budget, ...] = ()
    volume: float | None = None


def standing(study: StudyRecord) -> Standing:
    """How `study` stands."""
    over = ("complete", "failed", "pruned")
    return Standing(
        ended={trial.number: trial.state for trial in study.trials if trial.state in over},
        retried=frozenset(number for trial in study.trials for number in trial.losses),
        picture=picture(study),
        budgets=best_per_budget(study),
        volume=hypervolume(study),
    )


def best_per_budget(study: StudyRecord) -> tuple[Budget, ...]:
    """The best feasible trials below a few budgets, widest first.

    Budgets are the limits of the study on costs, then 1/2, 1/4, 1/8 of its first cost: of the limit
    on that cost, or of what the seed net costs. None without a metric among the objectives.
    """
    metrics = [i for i, objective in enumerate(study.objectives) if objective.kind == "metric"]
    if not metrics:
        return ()
    found = (_best(study, metrics[0], cost, bound) for cost, bound in _bounds(study))
    return tuple(found)


def _bounds(study: StudyRecord) -> list[tuple[str, float]]:
    bounds = [(name, bound) for name, bound in study.limits.items() if name in study.units]
    costs = [objective.name for objective in study.objectives if objective.kind == "cost"]
    if costs:
        seed = {} if study.baseline is None else study.baseline.costs
        whole = study.limits.get(costs[0], seed.get(costs[0], math.nan))
        if math.isfinite(whole) and whole > 0:
            bounds += [(costs[0], whole / fraction) for fraction in FRACTIONS]
    return bounds[:MOST_BUDGETS]


def _best(study: StudyRecord, metric: int, cost: str, bound: float) -> Budget:
    up = study.objectives[metric].maximize
    fits = [
        trial
        for trial in study.trials
        if is_comparable(trial, len(study.objectives)) and trial.costs.get(cost, math.inf) <= bound
    ]
    best = min(
        fits,
        key=lambda trial: (
            -trial.values[metric] if up else trial.values[metric],
            trial.costs[cost],
            trial.number,
        ),
        default=None,
    )
    value = math.nan if best is None else best.values[metric]
    unit = study.units.get(cost, "")
    return Budget(cost=cost, unit=unit, bound=bound, best=best, metric=value)


def seconds_left(
    done: int, spent: float, remaining: int, begun: Iterable[float], workers: int
) -> float | None:
    """Time until the remaining trials are done, at the rate of this run [s].

    Args:
        done: Trials that were done in this run.
        spent: Time of a worker on all of these [s].
        remaining: Trials that are not done, with those that are running.
        begun: Time that is spent already on each of those that are running [s].
        workers: Between which they are shared.

    Returns:
        Nothing before the first trial is done: there is no rate yet.

    Example:
        >>> seconds_left(4, 40.0, 6, [7.0, 3.0], 2)
        25.0
    """
    if not done:
        return None
    each = spent / done
    # One that takes longer than others says nothing of those that are to come.
    left = remaining * each - sum(min(each, time) for time in begun)
    return max(0.0, left) / max(1, min(workers, remaining))


def in_words(seconds: float) -> str:
    """A time for people, no finer than it is known.

    >>> in_words(20), in_words(170), in_words(5400), in_words(200_000)
    ('20 s', '3 min', '1 h 30 min', '2 d 8 h')
    """
    if seconds < 99.5:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
