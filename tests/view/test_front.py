from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plinio_sweep.sweep.result import BaselineRecord, Objective, StudyRecord, TrialRecord
from plinio_sweep.view import front as module
from plinio_sweep.view.front import front, hypervolume


def study_of(
    points: list[tuple[float, ...]], maximize: tuple[bool, ...], seed: tuple[float, ...]
) -> StudyRecord:
    objectives = tuple(
        Objective(name=f"f{i}", maximize=up, kind="metric" if up else "cost", unit="")
        for i, up in enumerate(maximize)
    )
    return StudyRecord(
        name="points",
        objectives=objectives,
        limits={},
        units={},
        target_trials=len(points),
        trials=tuple(
            TrialRecord(number=i, state="complete", values=values)
            for i, values in enumerate(points)
        ),
        baseline=BaselineRecord(values=seed, metrics={}, costs={}),
    )


def brute_force_front(study: StudyRecord) -> set[int]:
    def signed(trial: TrialRecord) -> list[float]:
        return [
            value if objective.maximize else -value
            for value, objective in zip(trial.values, study.objectives, strict=True)
        ]

    def beats(one: TrialRecord, other: TrialRecord) -> bool:
        pairs = list(zip(signed(one), signed(other), strict=True))
        if all(a == b for a, b in pairs):
            return one.number < other.number
        return all(a >= b for a, b in pairs)

    return {t.number for t in study.trials if not any(beats(o, t) for o in study.trials)}


def brute_force_volume(study: StudyRecord) -> float:
    """Inclusion and exclusion over all subsets of points."""
    assert study.baseline is not None
    sides = []
    for trial in study.trials:
        shares = [v / b for v, b in zip(trial.values, study.baseline.values, strict=True)]
        sides.append(
            [
                max(0.0, share if objective.maximize else 1 - share)
                for share, objective in zip(shares, study.objectives, strict=True)
            ]
        )
    return sum(
        (-1) ** (size + 1) * math.prod(map(min, zip(*subset, strict=True)))
        for size in range(1, len(sides) + 1)
        for subset in itertools.combinations(sides, size)
    )


@st.composite
def studies(draw: st.DrawFn, least: int = 0) -> StudyRecord:
    """Few points on a coarse grid, so that ties, equals and dominated points are common."""
    count = draw(st.integers(2, 4))
    maximize = tuple(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    coordinate = st.integers(0, 6).map(float)
    points = draw(st.lists(st.tuples(*[coordinate] * count), min_size=least, max_size=7))
    seed = draw(st.tuples(*[st.sampled_from([2.0, 4.0, 5.0])] * count))
    return study_of(points, maximize, seed)


def test_front_of_the_paper_study_leaves_out_dominated_infeasible_and_unfinished(
    paper_study: StudyRecord,
) -> None:
    assert [trial.number for trial in front(paper_study)] == [1, 0, 3]


@given(studies())
def test_front_is_what_nothing_beats(study: StudyRecord) -> None:
    assert {trial.number for trial in front(study)} == brute_force_front(study)


@given(studies(least=1))
def test_front_is_sorted_by_the_first_minimised_objective(study: StudyRecord) -> None:
    maximise = [objective.maximize for objective in study.objectives]
    axis = maximise.index(False) if False in maximise else 0
    column = [trial.values[axis] for trial in front(study)]
    assert column == sorted(column)


@pytest.mark.parametrize("values", [(math.nan, 1.0), (math.inf, 1.0), (1.0,), ()])
def test_a_trial_without_finite_values_never_stands_on_the_front(values: tuple[float]) -> None:
    study = study_of([(0.5, 2.0), values], (True, False), (1.0, 4.0))
    assert [trial.number for trial in front(study)] == [0]


def test_of_equal_trials_the_one_with_the_lowest_number_stays() -> None:
    study = study_of([(0.5, 2.0)] * 3, (True, False), (1.0, 4.0))
    shuffled = replace(study, trials=(study.trials[2], study.trials[0], study.trials[1]))
    assert [trial.number for trial in front(shuffled)] == [0]


def test_a_single_objective_has_a_front_of_its_best_trial() -> None:
    study = study_of([(0.5,), (0.9,), (0.7,)], (True,), (1.0,))
    assert [trial.number for trial in front(study)] == [1]
    assert hypervolume(study) == pytest.approx(0.9)


def test_hypervolume_of_the_paper_study_equals_the_sum_of_its_three_boxes(
    paper_study: StudyRecord,
) -> None:
    boxes = 0.5 * (1 - 0.125) + 0.5 * (1 - 0.5) + 0.1 * (1 - 0.725)
    assert hypervolume(paper_study) == pytest.approx(boxes)


@given(studies())
def test_hypervolume_equals_inclusion_and_exclusion(study: StudyRecord) -> None:
    assert hypervolume(study) == pytest.approx(brute_force_volume(study), abs=1e-12)


@given(studies(least=1), st.data())
def test_a_dominated_point_changes_nothing(study: StudyRecord, data: st.DataObject) -> None:
    better = data.draw(st.sampled_from(study.trials))
    worse = tuple(
        value - 1 if objective.maximize else value + 1
        for value, objective in zip(better.values, study.objectives, strict=True)
    )
    added = TrialRecord(number=len(study.trials), state="complete", values=worse)
    grown = replace(study, trials=(*study.trials, added))
    assert front(grown) == front(study)
    assert hypervolume(grown) == hypervolume(study)


@given(studies(least=1))
def test_more_trials_never_lower_the_hypervolume(study: StudyRecord) -> None:
    steps = range(len(study.trials) + 1)
    volumes = [hypervolume(replace(study, trials=study.trials[:n])) for n in steps]
    for fewer, more in itertools.pairwise(volumes):
        assert fewer is not None
        assert more is not None
        assert more >= fewer - 1e-12


def test_hypervolume_agrees_with_optuna_in_two_dimensions(large_study: StudyRecord) -> None:
    from optuna._hypervolume import compute_hypervolume

    assert large_study.baseline is not None
    share = np.array([trial.values for trial in front(large_study)]) / large_study.baseline.values
    minimised = share * [-1.0, 1.0]
    expected = compute_hypervolume(minimised, np.array([0.0, 1.0]))
    assert hypervolume(large_study) == pytest.approx(expected)


def test_a_trial_better_than_the_seed_net_counts_above_one() -> None:
    assert hypervolume(study_of([(0.9, 0.0)], (True, False), (0.6, 4.0))) == pytest.approx(1.5)


def test_a_trial_as_costly_as_the_seed_net_adds_nothing() -> None:
    assert hypervolume(study_of([(0.9, 4.0)], (True, False), (0.6, 4.0))) == 0


def test_an_empty_front_has_no_volume() -> None:
    assert hypervolume(study_of([], (True, False), (0.6, 4.0))) == 0


@pytest.mark.parametrize("seed", [(0.0, 4.0), (0.6, math.nan), (-1.0, 4.0)])
def test_without_a_positive_seed_value_no_share_can_be_taken(seed: tuple[float, float]) -> None:
    assert hypervolume(study_of([(0.9, 1.0)], (True, False), seed)) is None


def test_without_a_seed_net_there_is_no_hypervolume(paper_study: StudyRecord) -> None:
    assert hypervolume(replace(paper_study, baseline=None)) is None


def test_reading_results_loads_no_heavy_library() -> None:
    heavy = "torch optuna mlflow numpy moocore matplotlib plotly rich".split()
    script = (
        "import sys, plinio_sweep.view.report, plinio_sweep.view.figure\n"
        f"print(*(name for name in {heavy} if name in sys.modules))"
    )
    root = Path(module.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
