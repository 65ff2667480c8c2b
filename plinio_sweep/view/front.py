"""The front of a study and its hypervolume: pure functions of results.

Legend: `N` points, `M` objectives.

References:
    Zitzler and Thiele, "Multiobjective evolutionary algorithms: a comparative case study and the
    strength Pareto approach", IEEE Transactions on Evolutionary Computation 3(4), 1999 (the
    hypervolume, there "the size of the space covered").
    The `moocore` library computes dominance and the exact volume.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from plinio_sweep.sweep.result import SEED, replicate_name

if TYPE_CHECKING:
    from collections.abc import Collection

    from plinio_sweep.sweep.result import StudyRecord, TrialRecord


def is_comparable(trial: TrialRecord, num_objectives: int) -> bool:
    """Whether a trial may stand on a front: complete, feasible, `num_objectives` finite values."""
    return (
        trial.state == "complete"
        and trial.feasible
        and len(trial.values) == num_objectives
        and all(math.isfinite(value) for value in trial.values)
    )


def front(study: StudyRecord) -> tuple[TrialRecord, ...]:
    """The comparable trials that no other trial dominates.

    A trial dominates another one when it is at least as good in every objective and better in one.
    Of trials with equal values only the one with the lowest number stays.

    Returns:
        The trials, sorted by the first minimised objective, or by the first objective where none
        is minimised; smallest value first.
    """
    from moocore import is_nondominated

    trials = sorted(
        (trial for trial in study.trials if is_comparable(trial, len(study.objectives))),
        key=lambda trial: trial.number,
    )
    if not trials:
        return ()
    maximise = [objective.maximize for objective in study.objectives]
    # `moocore` keeps the first of equal points, hence the sort by number.
    kept = is_nondominated([trial.values for trial in trials], maximise=maximise)
    axis = maximise.index(False) if False in maximise else 0
    return tuple(
        sorted(
            (trial for trial, keep in zip(trials, kept, strict=True) if keep),
            key=lambda trial: (trial.values[axis], trial.number),
        )
    )


def shown(
    study: StudyRecord,
    points: Collection[int] | None = None,
    replicates: int = 0,
    baselines: Collection[str] = (),
) -> dict[str, str]:
    """What is worth a look: the front, and what it is compared with.

    Args:
        study: With its baselines.
        points: Numbers of the trials in place of the front; all of it when left out.
        replicates: How many of each of these trials, of the seed net and of `baselines`, as far as
            they are there.
        baselines: Names of those whose replicates are worth it, too.

    Returns:
        Keys of stored results by what they are filed under: a trial's number, the name of a
        baseline or of a replicate.
    """
    seed = [] if study.baseline is None else [study.baseline]
    trials = front(study) if points is None else [t for t in study.trials if t.number in points]
    wanted = {str(trial.number): trial.artifact for trial in trials}
    repeated = (SEED, *baselines, *wanted)
    again = {replicate_name(key, n + 1) for key in repeated for n in range(replicates)}
    beside = (*seed, *study.baselines, *(r for r in study.replicates if r.name in again))
    return wanted | {record.name: record.artifact for record in beside if record.artifact}


def hypervolume(study: StudyRecord) -> float | None:
    """Share of the box between "nothing" and the seed net that the front dominates.

    Every objective is divided by the baseline's value, so the seed net is the point `(1, ..., 1)`.
    The reference point is 0 for a maximised objective (no accuracy at all) and 1 for a minimised
    one (as costly as the seed net). The volume, `M`-dimensional and without a unit, is that of all
    points which some trial of the front dominates and which lie on the good side of the reference
    point in every objective. A trial as good as the seed net at no cost at all would score 1. The
    value exceeds 1 only where a trial beats the seed net in a maximised objective; a trial that
    costs as much as the seed net, or more, adds nothing.

    Returns:
        The volume; 0 while the front is empty; `None` without a baseline, or where a value of the
        baseline is not positive and finite, because no share of it can be taken.
    """
    if study.baseline is None:
        return None
    seed = study.baseline.values
    if not all(math.isfinite(value) and value > 0 for value in seed):
        return None
    trials = front(study)
    if not trials:
        return 0.0
    import moocore

    maximise = [objective.maximize for objective in study.objectives]
    points = [
        [value / whole for value, whole in zip(trial.values, seed, strict=True)] for trial in trials
    ]  # `N x M`
    reference = [0.0 if up else 1.0 for up in maximise]
    return float(moocore.hypervolume(points, ref=reference, maximise=maximise))
