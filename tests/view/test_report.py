from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from plinio_sweep.sweep.result import BaselineRecord, StudyRecord, TrialRecord
from plinio_sweep.view.front import front
from plinio_sweep.view.report import (
    failures,
    format_bytes,
    format_cost,
    front_table,
    seen_line,
    strengths,
    summary_line,
    to_json,
)


def cells(study: StudyRecord) -> list[list[str]]:
    """The cells of the table row by row, header first."""
    columns = front_table(study).columns
    heading = [str(column.header).replace("\n", " ") for column in columns]
    rows = zip(*(map(str, column.cells) for column in columns), strict=True)
    return [heading, *map(list, rows)]


def test_table_starts_with_the_seed_net_and_follows_the_front(paper_study: StudyRecord) -> None:
    header, *rows = cells(paper_study)
    assert header == [
        "trial",
        "accuracy (validation)",
        "accuracy (test)",
        "size [byte]",
        "MAC",
        "order",
        "lambda",
    ]
    assert rows[0] == [
        "seed", "0.8000", "0.7900", "100,000 (100 kB)", "1,234,567", "", "",
    ]  # fmt: skip
    assert rows[1] == [
        "1", "0.4000", "0.3900", "12,500 (12.5 kB)", "125,000", "pit>mps",
        "0.123, 2",
    ]  # fmt: skip
    assert [row[0] for row in rows] == ["seed", "1", "0", "3"]


def test_table_without_test_metrics_or_seed_net_leaves_them_out(paper_study: StudyRecord) -> None:
    untested = tuple(
        replace(trial, metrics={"validation_accuracy": 0.5}, costs={"size_bytes": 640.0})
        for trial in paper_study.trials
    )
    header, first, *_ = cells(replace(paper_study, trials=untested, baseline=None))
    assert header == ["trial", "accuracy (validation)", "size [byte]", "order", "lambda"]
    assert first[:3] == ["1", "0.5000", "640"]


def test_table_shows_a_name_with_brackets_as_it_is(paper_study: StudyRecord) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(front_table(replace(paper_study, name="digits[bold]")))
    assert "digits[bold]" in capture.get()


def test_a_narrow_terminal_still_shows_every_number_whole(large_study: StudyRecord) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(front_table(large_study))
    text = capture.get()
    assert "(validation)" in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for trial in front(large_study):
        assert f"{trial.costs['size_bytes']:,.0f}" in text
        assert f"{trial.costs['macs']:,.0f}" in text
    assert "3,200,000" in text


def test_names_of_baselines_take_no_digit_from_a_number(large_study: StudyRecord) -> None:
    named = BaselineRecord(
        name="pit 1e-05",
        values=(0.9325, 118_236.0),
        metrics={"validation_accuracy": 0.9325, "test_accuracy": 0.8297},
        costs={"size_bytes": 118_236.0, "macs": 11_536_224.0},
    )
    console = Console(width=80)
    with console.capture() as capture:
        console.print(front_table(replace(large_study, baselines=(named,))))
    line = next(line for line in capture.get().splitlines() if "pit 1e-05" in line)
    assert all(number in line for number in ("0.9325", "0.8297", "118,236", "11,536,224"))


def test_summary_tells_the_state_of_the_study(paper_study: StudyRecord) -> None:
    assert summary_line(paper_study) == (
        "5 of 24 trials complete, 1 failed, 1 pruned, 1 running, front of 3 points, "
        "hypervolume 0.715"
    )


def test_summary_of_a_clean_single_point_is_short(paper_study: StudyRecord) -> None:
    study = replace(paper_study, trials=paper_study.trials[:1], target_trials=1, baseline=None)
    assert summary_line(study) == (
        "1 of 1 trials complete, 0 failed, front of 1 point, no hypervolume"
    )


def test_every_failure_is_one_line_with_its_reason(paper_study: StudyRecord) -> None:
    silent = TrialRecord(number=9, state="failed")
    study = replace(paper_study, trials=(*paper_study.trials, silent))
    assert failures(study) == [
        "trial 4 failed: CUDA out of memory at layer 3",
        "trial 9 failed: no reason recorded",
    ]


def test_what_was_seen_of_test_data_is_told(paper_study: StudyRecord) -> None:
    seen = replace(paper_study, touched="2026-11-27T15:51:35+00:00", tested=5)
    told = "test data were looked at: first on 2026-11-27 at 15:51 UTC, and for 5 nets by now"
    assert seen_line(seen) == told
    assert to_json(seen)["tested"] == {"nets": 5, "first": "2026-11-27T15:51:35+00:00"}
    # Of a study that an older version measured.
    older = replace(paper_study, tested=2)
    assert "before that was noted" in seen_line(older)
    assert to_json(older)["tested"] == {"nets": 2, "first": None}


def test_json_has_the_documented_shape(paper_study: StudyRecord) -> None:
    document = to_json(paper_study)
    assert list(document) == [
        "study", "objectives", "trials", "baseline", "baselines", "front", "hypervolume",
        "tested", "confirmed",
    ]  # fmt: skip
    assert document["study"] == "digits-size"
    assert document["objectives"] == [
        {"name": "accuracy", "direction": "maximize", "unit": ""},
        {"name": "size_bytes", "direction": "minimize", "unit": "byte"},
    ]
    assert document["trials"] == {
        "complete": 5, "failed": 1, "pruned": 1, "running": 1, "total": 8,
    }  # fmt: skip
    assert document["baseline"] == {
        "values": [0.8, 100_000.0],
        "metrics": {"validation_accuracy": 0.8, "test_accuracy": 0.79},
        "costs": {"size_bytes": 100_000.0, "macs": 1_234_567.0},
        "artifact": "baseline",
    }
    assert document["front"][0] == {
        "trial": 1,
        "values": [0.4, 12_500.0],
        "metrics": {"validation_accuracy": 0.4, "test_accuracy": 0.39},
        "costs": {"size_bytes": 12_500.0, "macs": 125_000.0},
        "params": {"order": "pit>mps", "mps.strength": 2.0, "pit.strength": 0.123456},
        "artifact": "trial/1",
    }
    assert document["hypervolume"] == pytest.approx(0.715)


def test_json_without_a_seed_net_says_null(paper_study: StudyRecord) -> None:
    document = to_json(replace(paper_study, baseline=None))
    assert document["baseline"] is None
    assert document["hypervolume"] is None


def test_json_is_strict_even_with_a_metric_that_is_not_a_number(paper_study: StudyRecord) -> None:
    first = replace(paper_study.trials[0], metrics={"test_accuracy": math.nan})
    study = replace(paper_study, trials=(first,))
    read = json.loads(json.dumps(to_json(study), allow_nan=False))
    assert read == to_json(study)
    assert read["front"][0]["metrics"] == {"test_accuracy": None}


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.7, "1 kB"),
        (1000, "1 kB"),
        (999_949, "1 MB"),
        (311_000, "311 kB"),
        (2_500_000, "2.5 MB"),
        (4.2e9, "4.2 GB"),
        (1.23456e13, "12,346 GB"),
    ],
)
def test_bytes_for_people(size: float, text: str) -> None:
    assert format_bytes(size) == text


@given(st.floats(min_value=1, max_value=1e15))
def test_a_shortened_size_is_within_half_a_percent(size: float) -> None:
    digits, _, prefix = format_bytes(size).partition(" ")
    factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[prefix]
    assert float(digits.replace(",", "")) * factor == pytest.approx(size, rel=0.0051)


def test_costs_keep_their_digits_and_survive_infinity() -> None:
    assert format_cost(12.5, "pJ") == "12.5"
    assert format_cost(1_234.5, "cycle") == "1,234"
    assert format_cost(math.inf, "byte") == "inf"


def test_strengths_of_other_orders_are_left_out() -> None:
    params = {"order": "mps", "pit.strength": 0.5, "mps.strength": 2.0}
    assert strengths(params) == {"mps": 2.0}
    assert strengths({"pit.strength": 0.5}) == {"pit": 0.5}


def test_summary_never_counts_more_than_all(paper_study: StudyRecord) -> None:
    assert summary_line(replace(paper_study, target_trials=1)).startswith("5 of 5 trials complete")


def test_baselines_stand_between_seed_and_front(paper_study: StudyRecord) -> None:
    trained = BaselineRecord(
        name="w8a8",
        family="uniform",
        values=(0.79, 25_000.0),
        metrics={"validation_accuracy": 0.79},
        costs={"size_bytes": 25_000.0},
        artifact="key",
    )
    failed = BaselineRecord(name="wild", family="wild", reason="the loss\nis NaN")
    study = replace(paper_study, baselines=(trained, failed))
    rows = list(front_table(study).columns[0].cells)
    assert [str(cell) for cell in rows] == ["seed", "w8a8", "1", "0", "3"]
    assert "baseline wild failed: the loss is NaN" in failures(study)
    assert to_json(study)["baselines"] == {
        "w8a8": {
            "values": [0.79, 25_000.0],
            "metrics": {"validation_accuracy": 0.79},
            "costs": {"size_bytes": 25_000.0},
            "artifact": "key",
        },
        "wild": None,
    }
