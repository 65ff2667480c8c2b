"""Choosing: what fits, the knee, and points that differ."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinio_sweep.sweep.result import Objective, StudyRecord, TrialRecord
from plinio_sweep.view.choose import bounded, diverse, knee, measures, parse_bound
from plinio_sweep.view.front import front
from tests.messages import is_sentence

ACCURACY = Objective(name="accuracy", maximize=True, kind="metric")
SIZE = Objective(name="size_bytes", maximize=False, kind="cost", unit="byte")


def study_of(*points: tuple[float, float]) -> StudyRecord:
    """One trial a point of accuracy and bytes."""
    trials = tuple(
        TrialRecord(
            number=number,
            state="complete",
            values=point,
            metrics={"validation_accuracy": point[0], "test_accuracy": 1.0},
            costs={"size_bytes": point[1], "macs": 1000.0 - number},
        )
        for number, point in enumerate(points)
    )
    return StudyRecord(
        name="paper",
        objectives=(ACCURACY, SIZE),
        limits={},
        units={},
        target_trials=len(trials),
        trials=trials,
    )


POINTS = st.lists(
    st.tuples(st.integers(0, 100).map(lambda p: p / 100), st.integers(1, 10**6).map(float)),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("size_bytes=24kB", ("size_bytes", 24_000.0)),
        ("size_bytes = 24 KiB", ("size_bytes", 24 * 1024.0)),
        ("size_bytes=1.5MiB", ("size_bytes", 1.5 * 2**20)),
        ("mpic_cycles=1.5M", ("mpic_cycles", 1.5e6)),
        ("macs=2e6", ("macs", 2e6)),
        ("ops=3G", ("ops", 3e9)),
        ("accuracy=.85", ("accuracy", 0.85)),
        ("loss=-1e-3", ("loss", -1e-3)),
        ("size_bytes=640B", ("size_bytes", 640.0)),
    ],
)
def test_a_bound_has_a_unit(text: str, bound: tuple[str, float]) -> None:
    name, value = parse_bound(text)
    assert (name, value) == (bound[0], pytest.approx(bound[1]))


@pytest.mark.parametrize(
    "text", ["", "size_bytes", "size_bytes=", "=3", "a=3 kg", "a=1..2", "a=nan", "a=3 k k", "a b=3"]
)
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=NUMBER") as error:
        parse_bound(text)
    assert is_sentence(error.value)


@given(points=POINTS, size=st.integers(0, 10**6), accuracy=st.floats(0, 1))
def test_what_fits_is_the_front_of_all_that_keeps_the_bounds(
    points: list[tuple[float, float]], size: int, accuracy: float
) -> None:
    study = bounded(study_of(*points), {"size_bytes": size}, {"accuracy": accuracy})
    fitting = [point for point in points if point[1] <= size and point[0] >= accuracy]
    assert front(study) == front(
        replace(study, trials=tuple(t for t in study.trials if t.values in fitting))
    )
    assert {trial.values for trial in front(study)} <= set(fitting)
    assert bool(front(study)) == bool(fitting)


def test_a_bound_on_another_cost_brings_back_what_was_dominated() -> None:
    study = study_of((0.9, 100.0), (0.8, 200.0))  # trial 1 takes fewer operations
    assert [t.number for t in front(study)] == [0]
    assert [t.number for t in front(bounded(study, {"macs": 999}, {}))] == [1]


def test_test_data_is_nothing_to_choose_by() -> None:
    study = study_of((0.9, 100.0))
    assert set(measures(study.trials[0])) == {"accuracy", "size_bytes", "macs"}
    with pytest.raises(ValueError, match="metric or cost of the study") as error:
        bounded(study, {}, {"test_accuracy": 0.5})
    assert is_sentence(error.value)


def test_the_knee_is_where_a_bit_more_costs_most() -> None:
    # By logarithm of bytes: 0, 1/4, 1/2, 3/4, 1 across; 0.9 is as high as to the last but one.
    study = study_of((0.1, 1.0), (0.3, 10.0), (0.9, 100.0), (0.95, 1000.0), (1.0, 10_000.0))
    assert [trial.number for trial in knee(study)] == [2]
    assert knee(study_of((0.5, 10.0)))[0].number == 0
    assert knee(replace(study, trials=())) == ()


@given(points=POINTS, count=st.integers(1, 12))
def test_diverse_points_are_of_the_front_and_apart(
    points: list[tuple[float, float]], count: int
) -> None:
    study = study_of(*points)
    best, chosen = front(study), diverse(study, count)
    assert len(chosen) == min(count, len(best))
    assert list(chosen) == [trial for trial in best if trial in chosen]
    numbers = {trial.number for trial in chosen}
    assert {trial.number for trial in knee(study)} <= numbers
    if count > 1:  # adding one never moves the others
        assert {trial.number for trial in diverse(study, count - 1)} <= numbers


def test_three_of_many_are_the_knee_and_both_ends() -> None:
    sizes = [10.0 ** (k / 10) for k in range(11)]
    study = study_of(*((math.sqrt(k / 10), size) for k, size in enumerate(sizes)))
    (middle,) = knee(study)
    assert {t.number for t in diverse(study, 3)} == {0, middle.number, 10}
