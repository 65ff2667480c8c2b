"""Means of replicates, their intervals, and verdicts: against scipy, by hand, and as properties."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from plinio_sweep.sweep.result import SEED, BaselineRecord, StudyRecord, replicate_name
from plinio_sweep.view.confirm import (
    LEVEL,
    Estimate,
    confirmation,
    confirmation_json,
    confirmation_lines,
    confirmation_tables,
    difference,
    estimate,
    quantile,
    stored,
    verdict,
)

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))
samples = st.lists(numbers, min_size=2, max_size=8)


def close(found: float, expected: float) -> None:
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


# -- statistics -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.706), (2, 4.303), (4, 2.776), (10, 2.228), (1e9, 1.960)]
)
def test_quantiles_are_those_of_the_printed_tables(freedom: float, value: float) -> None:
    assert quantile(freedom) == pytest.approx(value, abs=5e-4)


def test_an_interval_by_hand() -> None:
    # Mean 0.9, variance 0.0004, so 2.776 * sqrt(0.0004 / 5).
    found = estimate([0.88, 0.88, 0.9, 0.92, 0.92])
    assert found.mean == pytest.approx(0.9)
    assert found.high - found.mean == pytest.approx(2.7764 * math.sqrt(0.0004 / 5), rel=1e-4)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


@given(values=samples)
def test_an_interval_is_that_of_scipy(values: list[float]) -> None:
    found, error = estimate(values), stats.sem(values)
    close(found.mean, sum(values) / len(values))
    if error > 1e-9:
        low, high = stats.t.interval(LEVEL, len(values) - 1, loc=found.mean, scale=error)
        close(found.low, low)
        close(found.high, high)


# It is scipy that warns: our sums are exact.
@pytest.mark.filterwarnings("ignore:Precision loss:RuntimeWarning")
@given(first=samples, second=samples)
def test_the_interval_of_a_difference_is_that_of_scipy(
    first: list[float], second: list[float]
) -> None:
    found = difference(first, second)
    if max(max(first) - min(first), max(second) - min(second)) > 1e-9:
        tested = stats.ttest_ind(first, second, equal_var=False).confidence_interval(LEVEL)
        close(found.low, tested.low)
        close(found.high, tested.high)


@given(first=samples, second=samples, shift=numbers)
def test_a_difference_turns_with_its_sides_and_moves_with_one(
    first: list[float], second: list[float], shift: float
) -> None:
    found, turned = difference(first, second), difference(second, first)
    close(found.mean, -turned.mean)
    close(found.low, -turned.high)
    moved = difference([value + shift for value in first], second)
    close(moved.mean, found.mean + shift)
    close(moved.high - moved.low, found.high - found.low)


@given(values=samples)
def test_more_of_the_same_values_narrow_an_interval(values: list[float]) -> None:
    once, twice = estimate(values), estimate(2 * values)
    assert once.low <= once.mean <= once.high
    assert twice.high - twice.low <= once.high - once.low


@pytest.mark.parametrize("others", [[1.0], [1.0, 2.0]])
def test_one_value_says_nothing_of_its_spread(others: Sequence[float]) -> None:
    assert estimate([0.5]) == Estimate(mean=0.5, low=-math.inf, high=math.inf)
    for found in (difference([0.5], others), difference(others, [0.5])):
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert verdict(found, 1e9) == "undecided"


def test_equal_values_have_an_interval_without_width() -> None:
    assert difference([1.0, 1.0], [1.0, 1.0]) == Estimate(mean=0.0, low=0.0, high=0.0)


def test_a_variance_whose_square_is_no_float_still_has_an_interval() -> None:
    tiny = [0.0, 1e-100]
    assert 0 < difference(tiny, tiny).high < 1e-98


@given(mean=numbers, half=st.floats(0, 10), margin=st.floats(0, 10))
def test_a_verdict_follows_from_the_ends_of_the_interval(
    mean: float, half: float, margin: float
) -> None:
    found = verdict(Estimate(mean=mean, low=mean - half, high=mean + half), margin)
    assert (found == "within") == (mean + half <= margin)
    assert (found == "not within") == (mean - half > margin)
    # Of a wider margin nothing becomes worse.
    wider = verdict(Estimate(mean=mean, low=mean - half, high=mean + half), margin + 1)
    order = ("not within", "undecided", "within")
    assert order.index(wider) >= order.index(found)


# -- a study --------------------------------------------------------------------------------------


def replicates(
    key: str, accuracies: Sequence[float], sizes: Sequence[float]
) -> list[BaselineRecord]:
    return [
        BaselineRecord(
            name=replicate_name(key, number),
            family=key,
            values=(accuracy, size),
            metrics={"validation_accuracy": accuracy},
            costs={"size_bytes": size, "macs": 10 * size},
            artifact=f"{key}/{number}",
        )
        for number, (accuracy, size) in enumerate(zip(accuracies, sizes, strict=True), start=1)
    ]


@pytest.fixture
def repeated(paper_study: StudyRecord) -> StudyRecord:
    """Three replicates of the seed net, of trial 0, and of trial 3, of which one failed."""
    again = [
        *replicates(SEED, (0.80, 0.81, 0.79), 3 * [100_000.0]),
        *replicates("0", (0.80, 0.82, 0.81), (50_000.0, 41_000.0, 45_000.0)),
        *replicates("3", (0.70, 0.71), (72_500.0, 72_500.0)),
        BaselineRecord(name="3#3", family="3", reason="the loss\nbecame nan"),
    ]
    return replace(paper_study, replicates=tuple(again))


def test_a_trial_counts_for_none_of_its_replicates(repeated: StudyRecord) -> None:
    found = confirmation(repeated, ["3"], 3)
    seed, trial = found.nets
    assert (seed.name, seed.seeds, seed.losses, seed.verdicts) == (SEED, 3, {}, {})
    assert (trial.name, trial.seeds) == ("3", 2)
    # Its own value, by which it was chosen, is 0.88.
    assert trial.metrics["validation_accuracy"].mean == pytest.approx(0.705)
    assert trial.losses["validation_accuracy"].mean == pytest.approx(0.095)
    assert trial.failures == {"3#3": "the loss\nbecame nan"}
    assert "replicate 3#3 failed: the loss became nan" in confirmation_lines(found)


@pytest.mark.parametrize(
    ("margin", "expected"), [(0.005, "undecided"), (0.05, "within"), (0.0, "undecided")]
)
def test_a_loss_is_judged_by_the_margin(
    repeated: StudyRecord, margin: float, expected: str
) -> None:
    trial = confirmation(repeated, ["0"], 3, margin).nets[1]
    assert trial.losses["validation_accuracy"].mean == pytest.approx(-0.01)
    assert trial.verdicts == {"validation_accuracy": expected}
    worse = confirmation(repeated, ["3"], 3, margin).nets[1]
    assert worse.verdicts["validation_accuracy"] in ("not within", "undecided")


def test_a_metric_that_is_minimised_is_lost_upwards(repeated: StudyRecord) -> None:
    error = replace(repeated.objectives[0], maximize=False)
    turned = replace(repeated, objectives=(error, *repeated.objectives[1:]))
    loss = confirmation(turned, ["0"], 3).nets[1].losses["validation_accuracy"]
    assert loss.mean == pytest.approx(0.01)


def test_costs_are_told_with_their_range(repeated: StudyRecord) -> None:
    costs = confirmation(repeated, ["0"], 3).nets[1].costs
    assert costs["size_bytes"] == Estimate(mean=45_333.0, low=41_000.0, high=50_000.0)
    assert list(costs) == ["size_bytes", "macs"]


def test_only_as_many_replicates_count_as_are_asked_for(repeated: StudyRecord) -> None:
    trial = confirmation(repeated, ["0"], 2).nets[1]
    assert trial.metrics["validation_accuracy"].mean == pytest.approx(0.81)
    missing = confirmation(repeated, ["1"], 2).nets[1]
    assert (missing.seeds, missing.metrics, missing.losses, missing.costs) == (0, {}, {}, {})


def test_all_that_is_stored_is_told_whatever_it_repeats(repeated: StudyRecord) -> None:
    found = stored(repeated)
    assert found == confirmation(repeated, ["0", "3"], 3, None)
    assert found is not None and all(not net.verdicts for net in found.nets)
    assert stored(repeated, 2, 0.05) == confirmation(repeated, ["0", "3"], 2, 0.05)
    assert stored(replace(repeated, replicates=())) is None


def test_test_data_have_a_table_of_their_own_once_they_were_looked_at(
    repeated: StudyRecord,
) -> None:
    def titles(study: StudyRecord) -> list[str]:
        return [
            str(table.title) for table in confirmation_tables(study, confirmation(study, ["0"], 3))
        ]

    assert titles(repeated) == ["digits-size: 3 other seeds each, validation data"]
    tested = tuple(
        replace(r, metrics={**r.metrics, "test_accuracy": 0.75}) for r in repeated.replicates[:6]
    )
    after = replace(repeated, replicates=tested)
    assert titles(after)[1:] == ["digits-size: 3 other seeds each, test data"]
    trial = confirmation(after, ["0"], 3).nets[1]
    assert trial.verdicts["test_accuracy"] == "within"


def test_the_table_shows_every_number_on_a_narrow_terminal(repeated: StudyRecord) -> None:
    console = Console(width=80)
    found = confirmation(repeated, ["0", "3"], 3)
    with console.capture() as capture:
        console.print(*confirmation_tables(repeated, found))
    text = capture.get()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for word in ("3/3", "2/3", "0.8100", "±0.025", "undecided", "45,333", "(41,000", "0.09500"):
        assert word in text


def test_json_is_strict_and_says_null_where_nothing_is_known(repeated: StudyRecord) -> None:
    found = confirmation_json(confirmation(repeated, ["3"], 1, 0.02))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["replicates"], found["level"], found["margin"]) == (1, 0.95, 0.02)
    assert found["nets"]["3"] == {
        "seeds": 1,
        "metrics": {"validation_accuracy": {"mean": 0.7, "low": None, "high": None}},
        "losses": {
            "validation_accuracy": {
                "mean": pytest.approx(0.1),
                "low": None,
                "high": None,
                "verdict": "undecided",
            }
        },
        "costs": {
            "size_bytes": {"mean": 72_500.0, "low": 72_500.0, "high": 72_500.0},
            "macs": {"mean": 725_000.0, "low": 725_000.0, "high": 725_000.0},
        },
        "failures": {},
    }
