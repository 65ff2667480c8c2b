"""The screen of a run: its parts by themselves, and in a terminal with a real run behind it."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plinio_sweep.sweep.result import BaselineRecord, Objective, StudyRecord, TrialRecord
from plinio_sweep.view import live, standing
from plinio_sweep.view.chart import POINT, SEED_NET, cell, draw, picture
from plinio_sweep.view.front import front
from plinio_sweep.view.layout import ASCII, bar, bars, budgets, plain, screen
from plinio_sweep.view.live import LiveView
from plinio_sweep.view.standing import Standing, best_per_budget, seconds_left
from plinio_sweep.view.tally import Tally
from tests.conftest import Finished
from tests.terminal import NAME, write_study
from tests.view.screens import Seen, watch

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[0-9;]*m")

AXES = {
    "accuracy": Objective(name="accuracy", maximize=True, kind="metric"),
    "error": Objective(name="error", maximize=False, kind="metric"),
    "size_bytes": Objective(name="size_bytes", maximize=False, kind="cost", unit="byte"),
    "macs": Objective(name="macs", maximize=False, kind="cost", unit="MAC"),
}


def study_of(
    axes: tuple[str, ...],
    points: list[tuple[float, ...]],
    seed: tuple[float, ...] | None = None,
    **changes: Any,
) -> StudyRecord:
    objectives = tuple(AXES[name] for name in axes)

    def costs(values: tuple[float, ...]) -> dict[str, float]:
        pairs = zip(objectives, values, strict=True)
        return {axis.name: value for axis, value in pairs if axis.kind == "cost"}

    study = StudyRecord(
        name="points",
        objectives=objectives,
        limits={},
        units={"size_bytes": "byte", "macs": "MAC"},
        target_trials=24,
        trials=tuple(
            TrialRecord(number=i, state="complete", values=values, costs=costs(values))
            for i, values in enumerate(points)
        ),
        baseline=None if seed is None else BaselineRecord(values=seed, costs=costs(seed)),
    )
    return replace(study, **changes)


@st.composite
def studies(draw: st.DrawFn) -> StudyRecord:
    axes = draw(
        st.sampled_from(
            [
                ("accuracy", "size_bytes"),
                ("error", "macs"),
                ("size_bytes", "macs"),
                ("accuracy", "error"),
                ("accuracy", "size_bytes", "macs"),
            ]
        )
    )
    value = {
        "metric": st.floats(-1e3, 1e3),
        "cost": st.floats(0, 1e12) | st.floats(1e-3, 10),
    }
    point = st.tuples(*(value[AXES[name].kind] for name in axes))
    points = draw(st.lists(point, min_size=1, max_size=8))
    return study_of(axes, points, draw(st.none() | point))


# -- the chart ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(studies(), st.integers(0, 90), st.integers(0, 20))
def test_every_point_of_a_front_is_drawn_inside_and_the_ends_are_labelled(
    study: StudyRecord, width: int, height: int
) -> None:
    found = picture(study)
    assert found is not None
    lines = draw(found, width, height)
    assert len(lines) in (0, height)
    assert all(len(line) <= width for line in lines)
    assert all(line.isprintable() for line in lines)
    if not lines:
        return
    area = lines[1:-2]
    margin = lines[-2].index("└") + 1
    assert {line[margin - 1] for line in area} <= {"┤", "│"}
    columns, rows = width - margin, height - 3
    assert len(found.points) == len(front(study))
    for point in found.points:
        column, row = cell(found, point, columns, rows)
        assert 0 <= column < columns
        assert 0 <= row < rows
        assert area[row][margin + column] == POINT
    for end in (found.upward.low, found.upward.high):
        assert any(line.strip().startswith(f"{found.upward.label(end)} ┤") for line in area)
    low = found.across.label(found.across.low)
    assert lines[-1].strip().startswith(low[:columns])
    high = found.across.label(found.across.high)
    if len(low) + len(high) + 2 <= columns and found.across.low < found.across.high:
        assert lines[-1].endswith(high)


def test_a_chart_has_costs_by_their_ratio_and_metrics_by_their_difference() -> None:
    study = study_of(
        ("accuracy", "size_bytes"), [(0.5, 1e3), (0.75, 1e4), (1.0, 1e5)], (1.0, 100_000.0)
    )
    found = picture(study)
    assert found is not None
    assert [cell(found, point, 41, 9) for point in found.points] == [(0, 8), (20, 4), (40, 0)]
    lines = draw(found, 50, 12)
    assert lines[0] == "accuracy (validation)  ● front  ◇ seed net"
    assert lines[1].startswith(" 1.000 ┤")
    assert lines[9].startswith("0.5000 ┤●")
    assert lines[-1].split() == ["1", "kB", "size,", "log", "100", "kB"]


def test_the_seed_net_is_marked_beside_the_front(large_study: StudyRecord) -> None:
    found = picture(large_study)
    assert found is not None
    text = "\n".join(draw(found, 60, 11)[1:])
    assert text.count(SEED_NET) == 1
    assert text.count(POINT) >= len(front(large_study)) // 2  # some share a character
    assert "311 kB" in text


def test_there_is_no_chart_before_the_first_trial_or_of_one_objective() -> None:
    assert picture(study_of(("accuracy", "size_bytes"), [])) is None
    assert picture(study_of(("accuracy",), [(0.5,)])) is None


# -- budgets, and the time ------------------------------------------------------------------------


POINTS: list[tuple[float, ...]] = [(0.9, 7000.0), (0.8, 4000.0), (0.8, 3000.0), (0.7, 900.0)]


def told(study: StudyRecord) -> list[tuple[str, str, str]]:
    return [budget.cells() for budget in best_per_budget(study)]


def test_budgets_are_shares_of_the_seed_net() -> None:
    assert told(study_of(("accuracy", "size_bytes"), POINTS, (0.9, 8000.0))) == [
        ("size ≤ 4 kB", "0.8000", "trial 2"),
        ("size ≤ 2 kB", "0.7000", "trial 3"),
        ("size ≤ 1 kB", "0.7000", "trial 3"),
    ]
    assert told(study_of(("accuracy", "size_bytes"), POINTS)) == []


def test_limits_come_before_their_shares() -> None:
    axes = ("accuracy", "size_bytes", "macs")
    limits = {"size_bytes": 7000.0, "-accuracy": -0.5, "macs": 10.0}
    points = [(*point, 9.0 - i) for i, point in enumerate(POINTS)]
    study = study_of(axes, points, (0.9, 1e6, 1e6), limits=limits)
    assert [row[0] for row in told(study)] == [
        *("size ≤ 7 kB", "≤ 10 MAC", "size ≤ 3.5 kB", "size ≤ 1.75 kB")
    ]
    assert told(study)[0][1:] == ("0.9000", "trial 0")


def test_what_passes_a_limit_is_never_the_best() -> None:
    study = study_of(("accuracy", "size_bytes"), POINTS, limits={"size_bytes": 8000.0})
    first = replace(study.trials[0], feasible=False)
    study = replace(study, trials=(first, *study.trials[1:]))
    assert told(study)[0] == ("size ≤ 8 kB", "0.8000", "trial 2")


def test_a_metric_that_is_to_be_small_has_its_smallest_for_its_best() -> None:
    study = study_of(("error", "size_bytes"), POINTS, (0.9, 8000.0))
    assert told(study)[0] == ("size ≤ 4 kB", "0.7000", "trial 3")


def test_no_time_is_told_before_the_first_trial_is_done() -> None:
    assert seconds_left(0, 0.0, 5, [100.0], 2) is None
    tally = Tally(4, 2, Standing(), 0.0)
    tally.hear(0, {"event": "start", "trial": 0}, 10.0)
    assert tally.seconds_left(60.0) is None
    assert "left" not in plain(tally, 60.0)


def test_the_time_left_is_that_of_this_runs_trials_over_the_workers() -> None:
    tally = Tally(5, 2, standing.standing(study_of(("accuracy", "size_bytes"), POINTS[:1])), 0.0)
    tally.hear(0, {"event": "start", "trial": 1}, 100.0)  # after the seed net
    tally.hear(1, {"event": "start", "trial": 2}, 100.0)
    tally.hear(0, {"event": "complete", "trial": 1, "values": [0.5, 1.0]}, 130.0)
    # Trials of 30 s: three are to come, and one of them is done but for nothing of it.
    assert tally.seconds_left(130.0) == (3 * 30 - 30) / 2
    assert "about 30 s left" in plain(tally, 130.0)


def test_without_beginnings_all_workers_are_taken_to_be_busy() -> None:
    tally = Tally(6, 4, Standing(), 0.0)  # as Slurm tells of trials
    for number, now in enumerate((50.0, 100.0)):
        tally.hear(0, {"event": "complete", "trial": number, "values": (0.5, 1.0)}, now)
    assert tally.seconds_left(100.0) == 4 * (4 * 100 / 2) / 4


# -- what is counted ------------------------------------------------------------------------------


def epoch(trial: int | None, phase: str, number: int, epochs: int) -> dict[str, Any]:
    return {"event": "epoch", "trial": trial, "phase": phase, "epoch": number, "epochs": epochs}


def busy(study: StudyRecord | None = None) -> Tally:
    """A tally that has heard of everything."""
    known = Standing() if study is None else standing.standing(study)
    tally = Tally(100, 3, known, 0.0)
    events: list[tuple[int, dict[str, Any]]] = [
        (0, {"event": "baseline start", "name": "seed"}),
        (0, epoch(None, "seed", 2, 5)),
        (0, {"event": "baseline", "name": "seed", "reused_epochs": 3}),
        (1, {"event": "baseline start", "name": "w8a8"}),
        (1, epoch(None, "mps.search", 4, 8)),
        (0, {"event": "start", "trial": 60, "params": {}}),
        (0, epoch(60, "pit.search", 1, 20)),
        (2, {"event": "start", "trial": 61, "params": {}}),
        (2, {"event": "failed", "trial": 61, "reason": "no"}),
        (2, {"event": "lost", "trial": 62, "reason": "its worker died", "given_up": False}),
        (2, {"event": "lost", "trial": 63, "reason": "its worker died", "given_up": True}),
        (2, {"event": "start", "trial": 64, "params": {}}),
        (2, {"event": "complete", "trial": 64, "values": [0.5, 10.0], "reused_epochs": 10}),
        (2, {"event": "something new"}),
    ]
    for now, (worker, event) in enumerate(events):
        tally.hear(worker, event, float(now))
    return tally


def test_all_is_counted_once_however_it_is_heard(paper_study: StudyRecord) -> None:
    tally = busy()
    assert [tally.ended(state) for state in ("complete", "failed", "pruned")] == [1, 2, 0]
    assert (tally.retried, tally.trained, tally.reused) == (1, 3, 13)
    # The database says the same, and more: of other machines.
    trials = [
        *paper_study.trials,
        TrialRecord(number=64, state="complete"),
        TrialRecord(number=65, state="complete", losses={62: "its worker died"}),
    ]
    tally.standing = standing.standing(replace(paper_study, trials=tuple(trials)))
    assert [tally.ended(state) for state in ("complete", "failed", "pruned")] == [7, 3, 1]
    assert tally.retried == 1


def test_workers_are_shown_with_what_they_are_at() -> None:
    tally = busy()
    lines = bars(tally, 75.0, 100, most=9)
    assert re.fullmatch(r"trials +━+╸?─+ +3/100  0:01:15, about \d+ s left", lines[0])
    assert lines[1].startswith("worker 0: trial 60, pit search ")
    assert lines[1].endswith(" 1/20")
    assert lines[2].startswith("worker 1: baseline w8a8, mps search ")
    assert lines[3].startswith("worker 2: trial 64 ")
    tally.hear(1, {"event": "baseline start", "name": "seed"}, 76.0)
    tally.hear(1, epoch(None, "seed", 1, 5), 76.0)
    assert bars(tally, 76.0, 100, most=9)[2].startswith("worker 1: seed net ")


def test_workers_without_room_are_counted() -> None:
    tally = Tally(24, 40, Standing(), 0.0)
    for worker in range(40):
        tally.hear(worker, {"event": "start", "trial": worker}, 0.0)
    lines = bars(tally, 1.0, 80, most=10)
    assert len(lines) == 10
    assert lines[-1] == "and 32 more workers"


def test_bars_can_be_read_without_colour() -> None:
    assert [bar(share, 4) for share in (0, 0.125, 0.5, 1, 2)] == [
        *("────", "╸───", "━━──", "━━━━", "━━━━")
    ]


# -- the whole screen -----------------------------------------------------------------------------


@pytest.mark.parametrize("height", [1, 2, 5, 10, 16, 24, 50])
@pytest.mark.parametrize("width", [1, 10, 40, 71, 80, 120, 300])
def test_a_screen_fits_into_any_terminal(large_study: StudyRecord, width: int, height: int) -> None:
    lines = screen(busy(large_study), 75.0, width, height)
    assert 1 <= len(lines) <= max(1, height - 1)
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("trials"[: width - 1])


@pytest.mark.parametrize("width", [40, 80, 120])
def test_every_part_is_there_where_there_is_room(large_study: StudyRecord, width: int) -> None:
    text = "\n".join(screen(busy(large_study), 75.0, width, 40))
    words = " ".join(text.split())
    for part in (
        *("trials", "worker 0: trial 60", "worker 1: baseline w8a8", " left", "0:01:15"),
        *("61 complete", "2 failed", "1 tried again", "epochs: 3 trained, 13 reused"),
        *("hypervolume 0.9", POINT, SEED_NET, "accuracy (validation)", "1.39 kB", "311 kB", "log"),
        *("best per budget", "≤ 1.2 MMAC", "0.9390 trial 8"),
    ):
        assert part in words, part


def test_a_screen_of_ascii_has_one_character_for_each(large_study: StudyRecord) -> None:
    for line in screen(busy(large_study), 75.0, 100, 40):
        assert line.translate(ASCII).isascii()
        assert len(line.translate(ASCII)) == len(line)


def test_budgets_that_nothing_keeps_say_so() -> None:
    assert budgets(standing.standing(study_of(("accuracy", "size_bytes"), []))) == []
    study = study_of(("accuracy", "size_bytes"), POINTS[:1], (0.9, 14_000.0))
    assert [line.split("  ")[-1].strip() for line in budgets(standing.standing(study))] == [
        *("best per budget", "trial 0", "none yet", "none yet")
    ]


# -- what is no terminal --------------------------------------------------------------------------


def complete(number: int) -> dict[str, Any]:
    return {"event": "complete", "trial": number, "values": [0.5, 10.0], "reused_epochs": 2}


def test_without_a_terminal_each_event_is_a_line_and_now_and_then_their_sum(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as where many test: colours, but not a screen
    before = study_of(("accuracy", "size_bytes"), [], (0.5, 20.0), target_trials=100)
    after = study_of(("accuracy", "size_bytes"), [(0.5, 10.0)], (0.5, 20.0), target_trials=100)
    with LiveView(before, workers=2, read=lambda: after) as view:
        view.hear(0, epoch(0, "warmup", 1, 2))
        view.hear(0, {"event": "failed", "trial": 11, "reason": "two\nlines \x1b[31m and colour"})
        for number in range(10):
            view.hear(0, complete(number))
        view.hear(1, {"event": "warning", "text": "mind"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trial 11 failed: two lines  [31m and colour"
    assert lines[1:10] == [f"trial {number} complete: [0.5, 10.0]" for number in range(9)]
    start = "so far: 10 of 100 trials, 9 complete, 1 failed, 0 tried again, epochs: 1 trained, 18"
    assert lines[10].startswith(f"{start} reused, hypervolume 0.500, about ")
    assert lines[11:] == ["trial 9 complete: [0.5, 10.0]", "mind"]
    assert (view.trained, view.reused) == (1, 20)


def test_a_database_that_is_away_stops_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    def away() -> StudyRecord:
        raise OSError("away")

    before = study_of(("accuracy", "size_bytes"), [])
    with LiveView(before, workers=1, read=away) as view:
        for number in range(5):
            view.hear(0, complete(number))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("so far: 5 of 24 trials, 5 complete, 0 failed")


def test_a_run_without_a_terminal_has_no_control_character(finished: Finished) -> None:
    for done in (finished.first, finished.again, finished.more):
        assert not CONTROL.search(done.stdout + done.stderr)


# -- looks into the database ----------------------------------------------------------------------


def test_the_study_is_read_seldom_however_often_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAUSE", 3600.0)
    looked: list[str] = []
    begun = threading.Event()

    def look() -> None:
        looked.append(threading.current_thread().name)
        begun.set()

    looks = live._Looks(look)
    for _ in range(100):
        looks.wake()
        assert begun.wait(60)
    looks.stop()
    assert len(looked) == 1
    assert looked[0] != threading.current_thread().name


# -- in a terminal --------------------------------------------------------------------------------


def is_tidy(seen: Seen) -> bool:
    """Whether nothing is left of the screen, and the cursor is there again."""
    drawn = ("worker ", "trials ", "best per budget", POINT, "┤")
    left = [line for line in seen.final if line.startswith(drawn) or line.endswith(drawn)]
    hidden = seen.text.rfind("\x1b[?25l") > seen.text.rfind("\x1b[?25h")
    return not left and not hidden


def with_all(seen: Seen, *parts: str) -> bool:
    """Whether some frame has all `parts`."""
    return any(all(part in frame for part in parts) for frame in seen.frames)


def test_a_run_in_a_terminal_shows_the_front_so_far_and_leaves_a_tidy_screen(
    finished: Finished, tmp_path: Path
) -> None:
    folder = finished.copy(tmp_path)
    asked = ("run", NAME, "--trials", "7", "--workers", "2")
    seen = watch(folder, *asked, columns=100, BARS_PAUSE="0.05")
    assert seen.code == 0, seen.text
    assert with_all(
        *(seen, "trials ", "worker 0: trial ", "worker 1: trial ", " trained, ", "hypervolume 0."),
        *(POINT, SEED_NET, "accuracy (validation)", "best per budget", "size ≤ ", "0 failed"),
    )
    assert with_all(seen, " left", "/7  0:00:")
    assert COLOUR.search(seen.text)
    assert is_tidy(seen), seen.final
    assert seen.final[0].startswith("study bars in ")
    assert seen.final[2].startswith("epochs: ")
    assert seen.final[-1] == f"  plinio-sweep serve {NAME}"
    # Trials that are complete are seen on the screen: no lines, as in a log.
    assert " complete: " not in seen.text


def test_a_narrow_terminal_without_colour_shows_failures_in_full(tmp_path: Path) -> None:
    write_study(tmp_path, {"low=0.1, high=30.0": "low=1e-300, high=1e300"})
    asked = ("run", NAME, "--workers", "2")
    seen = watch(tmp_path, *asked, columns=40, rows=24, NO_COLOR="1", BARS_PAUSE="0.05")
    assert seen.code == 1, seen.text
    assert not COLOUR.search(seen.text)
    assert with_all(seen, "trials ", "worker 0: seed net")
    assert with_all(seen, " failed: The loss must stay finite, but became ", "worker ", "1 failed")
    drawn = [
        line
        for frame in seen.frames
        for line in frame.splitlines()
        if line.startswith(("trials ", "worker "))
    ]
    assert drawn
    assert max(map(len, drawn)) < 40
    assert is_tidy(seen), seen.final


def test_a_terminal_that_can_do_nothing_gets_lines(finished: Finished, tmp_path: Path) -> None:
    seen = watch(finished.copy(tmp_path), "run", NAME, "--trials", "5", TERM="dumb")
    assert seen.code == 0, seen.text
    assert not CONTROL.search(seen.text.replace("\r\n", "\n"))
    assert any(line.startswith("trial 4 complete: ") for line in seen.final)
