from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinio_sweep.sweep.result import BaselineRecord, Objective, StudyRecord
from plinio_sweep.view.front import front
from plinio_sweep.view.scene import Points, clear_labels, drawn_objectives, log_ticks, prefix, scene

METRIC = Objective(name="accuracy", maximize=True, kind="metric")
OTHER = Objective(name="recall", maximize=True, kind="metric")
COST = Objective(name="size_bytes", maximize=False, kind="cost", unit="byte")
ENERGY = Objective(name="energy", maximize=False, kind="cost", unit="pJ")


@pytest.mark.parametrize(
    ("objectives", "axes"),
    [
        ((METRIC, COST), (1, 0)),
        ((COST, METRIC), (0, 1)),
        ((METRIC, OTHER), (1, 0)),
        ((COST, ENERGY), (0, 1)),
        ((METRIC, OTHER, ENERGY, COST), (2, 0)),
    ],
)
def test_a_cost_lies_below_and_a_metric_at_the_side(
    paper_study: StudyRecord, objectives: tuple[Objective, ...], axes: tuple[int, int]
) -> None:
    assert drawn_objectives(replace(paper_study, objectives=objectives)) == axes


def test_one_objective_has_no_picture(paper_study: StudyRecord) -> None:
    with pytest.raises(ValueError, match=r"two objectives or more.*\['accuracy'\]"):
        scene(replace(paper_study, objectives=(METRIC,)))


def test_a_study_without_a_complete_trial_has_no_picture(paper_study: StudyRecord) -> None:
    with pytest.raises(ValueError, match="one complete trial or more"):
        scene(replace(paper_study, trials=paper_study.trials[4:8]))


def test_every_complete_trial_is_drawn_once(paper_study: StudyRecord) -> None:
    picture = scene(paper_study)
    assert picture.front.x == (12.5, 50.0, 72.5)
    assert picture.front.y == (0.4, 0.8, 0.88)
    assert picture.trials.x == (60.0,)
    assert picture.infeasible.x == (1.0,)
    assert picture.seed == replace(picture.seed, x=(100.0,), y=(0.8,), texts=("seed (float)",))
    assert picture.labels == ("1", "0", "3")


def test_test_metrics_stand_under_their_points(paper_study: StudyRecord) -> None:
    picture = scene(paper_study)
    assert picture.test.x == picture.front.x
    assert picture.test.y == pytest.approx([0.39, 0.79, 0.87])


def test_axes_name_split_and_unit(paper_study: StudyRecord) -> None:
    picture = scene(paper_study)
    assert picture.x.title == "size [kB]"
    assert picture.y.title == "accuracy (validation)"


def test_a_cost_over_more_than_a_decade_is_drawn_logarithmic(
    paper_study: StudyRecord, large_study: StudyRecord
) -> None:
    feasible = tuple(trial for trial in paper_study.trials if trial.feasible)
    assert scene(replace(paper_study, trials=feasible)).x.ticks == ()
    assert scene(large_study).x.ticks[:3] == (1.0, 2.0, 5.0)
    assert scene(large_study).y.ticks == ()


def test_outline_of_three_objectives_is_the_front_of_the_two_drawn(
    large_study: StudyRecord,
) -> None:
    trials = tuple(
        replace(trial, values=(*trial.values, trial.costs["macs"])) for trial in large_study.trials
    )
    study = replace(
        large_study,
        objectives=(*large_study.objectives, ENERGY),
        trials=trials,
        baseline=None,
    )
    picture = scene(study)
    assert len(picture.front.x) == len(front(study)) > len(picture.outline.x)
    assert picture.outline.x == scene(replace(large_study, baseline=None)).outline.x


@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=5))
def test_log_ticks_surround_their_values_and_rise(values: list[float]) -> None:
    ticks = log_ticks(values)
    assert list(ticks) == sorted(set(ticks))
    assert bool(ticks) == (max(values) > 10 * min(values))
    if ticks:
        assert sum(min(values) <= tick <= max(values) for tick in ticks) >= 3
        assert ticks[0] > min(values) / 2
        assert ticks[-1] < max(values) * 2


@pytest.mark.parametrize("values", [[0.0, 5.0], [-1.0, 100.0], [2.0, 3.0]])
def test_no_log_ticks_without_a_positive_decade(values: list[float]) -> None:
    assert log_ticks(values) == ()


@pytest.mark.parametrize(
    ("largest", "unit", "expected"),
    [
        (3.2e6, "MAC", (1e6, "MMAC")),
        (1_500, "byte", (1.0, "byte")),
        (311_000, "byte", (1e3, "kB")),
        (9e9, "pJ", (1.0, "pJ")),
    ],
)
def test_units_with_a_prefix(largest: float, unit: str, expected: tuple[float, str]) -> None:
    assert prefix(largest, unit) == expected


def test_labels_that_would_cover_each_other_are_left_out() -> None:
    labels = clear_labels(["1", "22", "3", "4"], [10, 13, 60, 60], [10, 12, 12, 40])
    assert labels == ("1", "", "3", "4")


def test_a_study_of_equal_trials_still_has_a_picture(paper_study: StudyRecord) -> None:
    alone = replace(paper_study, trials=paper_study.trials[:1], baseline=None)
    assert scene(alone).labels == ("0",)


def test_a_metric_that_is_not_a_number_on_the_test_split_is_not_drawn(
    paper_study: StudyRecord,
) -> None:
    first = replace(paper_study.trials[0], metrics={"test_accuracy": math.nan})
    assert scene(replace(paper_study, trials=(first,))).test.x == ()


def test_baselines_stand_in_series_by_family(paper_study: StudyRecord) -> None:
    def baseline(name: str, family: str, *values: float) -> BaselineRecord:
        return BaselineRecord(name=name, family=family, values=values)

    study = replace(
        paper_study,
        baselines=(
            baseline("w8a8", "uniform", 0.85, 200_000.0),
            baseline("l1 50%", "l1", 0.3, 40_000.0),
            baseline("w2a8", "uniform", 0.7, 20_000.0),
            BaselineRecord(name="wild", family="wild", reason="it diverged"),
        ),
    )
    picture = scene(study)
    assert picture.seed.texts == ("seed (float)",)
    assert dict(picture.baselines) == {
        "l1": Points(x=(40.0,), y=(0.3,), texts=("l1 50%",), names=("l1 50%",)),
        "uniform": Points(
            x=(20.0, 200.0), y=(0.7, 0.85), texts=("w2a8", "w8a8"), names=("w2a8", "w8a8")
        ),
    }
    assert max(picture.x.ticks) >= 200  # the axes hold them, too
