"""How time was spent: counts by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plinio_sweep.sweep.result import BaselineRecord, PhaseRecord, StudyRecord, TrialRecord
from plinio_sweep.view.course import course, shares, spans
from plinio_sweep.view.front import front, hypervolume


def phase(
    name: str, begin: float, seconds: float, epochs: int, reused: bool = False
) -> PhaseRecord:
    return PhaseRecord(
        name=name, key=name, begin=begin, seconds=seconds, epochs=epochs, reused=reused
    )


@pytest.fixture
def timed(paper_study: StudyRecord) -> StudyRecord:
    """The study by hand with times: the trials end at 130, 120, 140, 150 s, two workers at work."""
    ends = {0: 130.0, 1: 120.0, 2: 140.0, 3: 150.0}

    def timed(trial: TrialRecord) -> TrialRecord:
        end = ends.get(trial.number)
        if end is None:
            return trial
        phases = (
            phase("warmup", end - 20, 0.5, 5, reused=trial.number != 1),
            phase("pit.search", end - 19, 15.0, 10),
        )
        worker = f"here/{trial.number % 2}:a"
        return replace(trial, begin=end - 20, end=end, phases=phases, worker=worker)

    assert paper_study.baseline is not None
    seed = replace(paper_study.baseline, phases=(phase("seed", 95.0, 4.0, 7),))
    return replace(paper_study, trials=tuple(map(timed, paper_study.trials)), baseline=seed)


def test_hypervolume_grows_trial_by_trial(timed: StudyRecord) -> None:
    moments = course(timed)
    assert [moment.trial for moment in moments] == [1, 0, 2, 3]
    assert [moment.seconds for moment in moments] == [25.0, 35.0, 45.0, 55.0]
    for count, moment in enumerate(moments, 1):
        done = {other.trial for other in moments[:count]}
        trials = tuple(trial for trial in timed.trials if trial.number in done)
        assert moment.hypervolume == pytest.approx(hypervolume(replace(timed, trials=trials)))
    assert moments[2].hypervolume == moments[1].hypervolume  # a dominated trial adds nothing
    assert moments[-1].hypervolume == pytest.approx(hypervolume(timed))
    assert len(front(timed)) == 3


def test_epochs_are_those_that_were_trained_by_then(timed: StudyRecord) -> None:
    # The seed's 7, the one warm-up of 5, and a search of 10 for each.
    assert [moment.epochs for moment in course(timed)] == [22, 32, 42, 52]


def test_epochs_are_unknown_where_a_trial_does_not_say(timed: StudyRecord) -> None:
    trials = tuple(replace(trial, phases=()) for trial in timed.trials)
    moments = course(replace(timed, trials=trials))
    assert [moment.epochs for moment in moments] == [None] * 4


def test_no_course_without_a_seed_net_or_a_trial(timed: StudyRecord) -> None:
    assert course(replace(timed, baseline=None)) == ()
    assert course(replace(timed, trials=timed.trials[4:8])) == ()


def test_the_same_course_for_a_large_study(large_study: StudyRecord) -> None:
    trials = tuple(
        replace(t, begin=float(t.number), end=t.number + 1.0) for t in large_study.trials
    )
    study = replace(large_study, trials=trials)
    moments = course(study)
    assert len(moments) == sum(trial.feasible for trial in trials)
    assert moments[-1].hypervolume == pytest.approx(hypervolume(study))
    volumes = [moment.hypervolume for moment in moments]
    assert volumes == sorted(volumes)


def test_phases_are_summed_by_kind(timed: StudyRecord) -> None:
    found = {share.phase: share for share in shares(spans(timed))}
    assert list(found) == ["pit.search", "seed", "warmup"]
    warmup = found["warmup"]
    assert (warmup.trained, warmup.reused) == (0.5, 1.5)
    assert (warmup.trained_epochs, warmup.reused_epochs) == (5, 15)
    assert (warmup.num_trained, warmup.num_reused) == (1, 3)
    assert found["pit.search"].trained == 60.0


def test_spans_bear_their_workers(timed: StudyRecord) -> None:
    found = spans(timed)
    assert [span.begin for span in found] == sorted(span.begin for span in found)
    assert found[0].worker == "baselines" and found[0].begin == 0.0
    assert {span.worker for span in found[1:]} == {"here/0:a", "here/1:a"}


def test_baselines_that_overlap_stand_in_rows_of_their_own(timed: StudyRecord) -> None:
    def baseline(name: str, begin: float) -> BaselineRecord:
        return BaselineRecord(name=name, phases=(phase("warmup", begin, 10.0, 1),))

    study = replace(timed, baselines=(baseline("a", 96.0), baseline("b", 99.0)))
    rows = [span.worker for span in spans(study) if span.worker.startswith("baselines")]
    assert rows == ["baselines", "baselines 2", "baselines"]
