"""How a study spent its time: hypervolume along it, phases by kind and by worker.

Pure functions of results, for pages and panels alike.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from plinio_sweep.view.front import hypervolume, is_comparable

if TYPE_CHECKING:
    from plinio_sweep.sweep.result import (
        BaselineRecord,
        PhaseRecord,
        StudyRecord,
        TrialRecord,
    )


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The end of one trial."""

    trial: int
    seconds: float  # since the study began
    epochs: int | None  # trained by then; nothing where older trials don't say
    hypervolume: float


@dataclass(frozen=True, kw_only=True)
class Span:
    """One phase that some worker came to."""

    worker: str  # "baselines", "baselines 2" of those, which don't say: as many as at a time
    phase: str  # "warmup", "pit.search", "evaluation"
    begin: float  # [s] since the study began
    seconds: float
    epochs: int
    reused: bool  # taken from the store instead of trained


@dataclass(frozen=True, kw_only=True)
class Share:
    """What all spans of one phase come to."""

    phase: str
    trained: float  # [s]
    reused: float  # [s] that it took to take it from the store
    trained_epochs: int
    reused_epochs: int
    num_trained: int
    num_reused: int


def course(study: StudyRecord) -> tuple[Moment, ...]:
    """The hypervolume at the end of every comparable trial; nothing where there is none.

    No baseline is part of it: the front is that of the trials.
    """
    count = len(study.objectives)
    ended = [t for t in study.trials if is_comparable(t, count) and t.end is not None]
    ended.sort(key=lambda trial: (trial.end or 0.0, trial.number))
    if not ended or hypervolume(replace(study, trials=())) is None:
        return ()
    start = _start(study)
    told = all(trial.phases for trial in ended)
    phases = sorted(_phases(study), key=lambda phase: phase.begin + phase.seconds)
    ends = [phase.begin + phase.seconds for phase in phases]
    epochs = [0, *accumulate(phase.trained_epochs for phase in phases)]
    senses = [1.0 if axis.maximize else -1.0 for axis in study.objectives]
    best: list[tuple[float, ...]] = []  # the front so far, the more the better
    kept: list[TrialRecord] = []
    moments: list[Moment] = []
    volume = 0.0
    for trial in ended:
        place = tuple(s * value for s, value in zip(senses, trial.values, strict=True))
        # Most trials change nothing, and are told so without a volume.
        if not any(all(b >= p for b, p in zip(other, place, strict=True)) for other in best):
            worse = [all(p >= b for p, b in zip(place, other, strict=True)) for other in best]
            best = [place, *(b for b, w in zip(best, worse, strict=True) if not w)]
            kept = [trial, *(t for t, w in zip(kept, worse, strict=True) if not w)]
            volume = hypervolume(replace(study, trials=tuple(kept))) or 0.0
        assert trial.end is not None
        moments.append(
            Moment(
                trial=trial.number,
                seconds=max(trial.end - start, 0.0),
                epochs=epochs[bisect_right(ends, trial.end)] if told else None,
                hypervolume=volume,
            )
        )
    return tuple(moments)


def spans(study: StudyRecord) -> tuple[Span, ...]:
    """Every phase that any worker came to, in the order of their beginnings."""
    start = _start(study)
    found = [
        Span(
            worker=worker,
            phase=phase.name,
            begin=max(phase.begin - start, 0.0),
            seconds=phase.seconds,
            epochs=phase.epochs,
            reused=phase.reused,
        )
        for worker, phases in (*_beside(study), *_by_worker(study))
        for phase in phases
    ]
    return tuple(sorted(found, key=lambda span: span.begin))


def shares(found: tuple[Span, ...]) -> tuple[Share, ...]:
    """What the spans of each phase come to, the longest in all first."""
    phases: dict[str, list[Span]] = {}
    for span in found:
        phases.setdefault(span.phase, []).append(span)
    summed = [_share(phase, own) for phase, own in phases.items()]
    return tuple(sorted(summed, key=lambda share: -(share.trained + share.reused)))


def _share(phase: str, own: list[Span]) -> Share:
    trained = [span for span in own if not span.reused]
    reused = [span for span in own if span.reused]
    return Share(
        phase=phase,
        trained=sum(span.seconds for span in trained),
        reused=sum(span.seconds for span in reused),
        trained_epochs=sum(span.epochs for span in trained),
        reused_epochs=sum(span.epochs for span in reused),
        num_trained=len(trained),
        num_reused=len(reused),
    )


def _by_worker(study: StudyRecord) -> Iterator[tuple[str, tuple[PhaseRecord, ...]]]:
    return ((trial.worker or "unknown", trial.phases) for trial in study.trials)


def in_rows(study: StudyRecord) -> Iterator[tuple[str, BaselineRecord]]:
    """Baselines, which keep no worker, in rows of their own: as many as were in hand at a time."""
    seed = () if study.baseline is None else (study.baseline,)
    every = [baseline for baseline in (*seed, *study.baselines) if baseline.phases]
    ends: list[float] = []  # of each row
    for baseline in sorted(every, key=lambda own: own.phases[0].begin):
        begin = baseline.phases[0].begin
        row = next((i for i, end in enumerate(ends) if end <= begin), len(ends))
        ends[row : row + 1] = [max(phase.begin + phase.seconds for phase in baseline.phases)]
        yield ("baselines" if row == 0 else f"baselines {row + 1}"), baseline


def _beside(study: StudyRecord) -> Iterator[tuple[str, tuple[PhaseRecord, ...]]]:
    return ((row, baseline.phases) for row, baseline in in_rows(study))


def _phases(study: StudyRecord) -> Iterator[PhaseRecord]:
    for _, phases in (*_beside(study), *_by_worker(study)):
        yield from phases


def _start(study: StudyRecord) -> float:
    """When the first worker began [s since 1970]."""
    begins = [phase.begin for phase in _phases(study)]
    begins += [trial.begin for trial in study.trials if trial.begin is not None]
    return min(begins, default=math.nan)
