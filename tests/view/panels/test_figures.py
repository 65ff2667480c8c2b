"""Every trial of a made-up study is in each panel, where it should be."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plinio_sweep.sweep.result import StudyRecord, TrialRecord
from plinio_sweep.view.course import course
from plinio_sweep.view.front import front, is_comparable
from plinio_sweep.view.lineage import growths
from plinio_sweep.view.panels import heatmap, lineage, progress, strengths, style, timeline
from plinio_sweep.view.panels.every import PANELS, panels
from plinio_sweep.view.panels.heatmap import heatmap_figure, heatmap_trials
from plinio_sweep.view.panels.lineage import lineage_figure
from plinio_sweep.view.panels.progress import progress_figure
from plinio_sweep.view.panels.strengths import strengths_figure
from plinio_sweep.view.panels.timeline import timeline_bars, timeline_figure
from tests.view.panels import made

MANY = 1500
few = settings(max_examples=6, deadline=None)  # a figure takes a while
studies = st.builds(made.study, st.integers(20, 40), seed=st.integers(0, 10_000))


def stored(figure: Any) -> Any:
    """As pages get it."""
    return json.loads(figure.to_json())


def traces(figure: Any) -> dict[str | None, Any]:
    return {trace.get("name"): trace for trace in stored(figure)["data"]}


def comparable(study: StudyRecord) -> list[TrialRecord]:
    return [t for t in study.trials if is_comparable(t, len(study.objectives))]


@pytest.fixture(scope="module")
def many() -> StudyRecord:
    return made.study(MANY)


# -- front ------------------------------------------------------------------------------------


@few
@given(studies)
def test_every_trial_stands_at_its_cost_and_accuracy(study: StudyRecord) -> None:
    drawn = traces(lineage_figure(study))
    points = {
        (x, y)
        for name in ("trial", "infeasible", "front")
        if name in drawn
        for x, y in zip(drawn[name]["x"], drawn[name]["y"], strict=True)
    }
    complete = [trial for trial in study.trials if trial.state == "complete"]
    assert points == {(t.values[1] / 1000, t.values[0]) for t in complete}
    assert len(drawn["front"]["x"]) == len(front(study))
    assert drawn["seed (float)"]["y"] == [0.95]
    assert len(drawn["uniform"]["x"]) == 3


@few
@given(studies)
def test_lines_go_from_parents_to_those_that_grew_from_them(study: StudyRecord) -> None:
    where = {t.number: (t.values[1] / 1000, t.values[0]) for t in study.trials if t.values}
    expected = {
        (where[g.parent.number], where[g.trial.number])
        for g in growths(study)
        if g.beyond_warmup and isinstance(g.parent, TrialRecord)
    }
    line = traces(lineage_figure(study)).get("lineage", {"x": [], "y": []})
    ends = list(zip(line["x"], line["y"], strict=True))
    assert set(zip(ends[0::3], ends[1::3], strict=True)) == expected
    assert set(ends[2::3]) <= {(None, None)}


def test_a_point_says_what_it_grew_from() -> None:
    study = made.study(30)
    texts = [
        text
        for trace in stored(lineage_figure(study))["data"]
        for text in trace.get("customdata", [])
    ]
    growth = growths(study)[-1]
    (text,) = [t for t in texts if t.startswith(f"trial {growth.trial.number}<br>")]
    assert text.endswith(f": {', '.join(growth.shared)}")


# -- layers -----------------------------------------------------------------------------------


@few
@given(studies)
def test_every_cell_is_that_of_its_trial_and_layer(study: StudyRecord) -> None:
    details = made.details(study)
    shown = heatmap_trials(study)
    widths, bits = stored(heatmap_figure(study, {t.number: details[t.number] for t in shown}))[
        "data"
    ]
    costs = [trial.values[1] for trial in shown]
    assert costs == sorted(costs)
    best = {trial.number for trial in front(study)}
    assert widths["x"] == [f"{t.number}{'*' if t.number in best else ''}" for t in shown]
    assert widths["y"] == list(made.LAYERS)
    for column, trial in enumerate(shown):
        for row, layer in enumerate(details[trial.number].layers):
            assert widths["z"][row][column] == pytest.approx(
                layer.outputs / layer.seed_outputs, abs=1e-4
            )
            assert 2 ** bits["z"][row][column] == pytest.approx(max(layer.mean_bits, 0.5), rel=1e-3)
    assert {t.number for t in shown} == {t.number for t in comparable(study)}


def test_of_very_many_trials_the_front_is_kept(many: StudyRecord) -> None:
    shown = heatmap_trials(many)
    assert len(shown) == heatmap.MOST_TRIALS
    assert {t.number for t in front(many)} <= {t.number for t in shown}
    figure = heatmap_figure(many, made.details(replace(many, trials=shown)))
    told = figure.layout.title.subtitle.text
    assert told.startswith(f"60 of {len(comparable(many)):,} trials, the front first")


def test_a_front_longer_than_the_map_is_thinned(many: StudyRecord) -> None:
    shown = heatmap_trials(many, most=5)
    best = front(many)
    assert [t.number for t in shown][0::4] == [best[0].number, best[-1].number]
    assert len(shown) == 5


def test_a_trial_that_is_gone_from_the_store_is_no_column() -> None:
    study = made.study(20)
    details = dict(made.details(study))
    gone = heatmap_trials(study)[0].number
    del details[gone]
    columns = traces(heatmap_figure(study, details))["bits"]["x"]
    assert str(gone) not in [column.rstrip("*") for column in columns]


# -- strengths --------------------------------------------------------------------------------


@few
@given(studies)
def test_every_trial_stands_at_the_strength_of_each_of_its_stages(study: StudyRecord) -> None:
    drawn = {
        (trace["name"], trace["xaxis"], x, y)
        for trace in stored(strengths_figure(study))["data"]
        for x, y in zip(trace["x"], trace["y"], strict=True)
    }
    figure = stored(strengths_figure(study))["layout"]
    axis = {
        figure[key]["title"]["text"].removeprefix("strength of "): key.replace("axis", "")
        for key in figure
        if key.startswith("xaxis")
    }
    expected = {
        (t.params["order"], axis[stage], t.params[f"{stage}.strength"], t.values[1])
        for t in comparable(study)
        for stage in str(t.params["order"]).split(">")
    }
    assert drawn == expected


@few
@given(studies)
def test_each_order_has_a_colour_and_a_symbol_of_its_own(study: StudyRecord) -> None:
    looks: dict[str, set[tuple[str, str]]] = {}
    for trace in stored(strengths_figure(study))["data"]:
        marker = trace["marker"]
        looks.setdefault(trace["name"], set()).add((marker["color"], marker["symbol"]))
    assert all(len(found) == 1 for found in looks.values())
    each = [found.pop() for found in looks.values()]
    assert len({color for color, _ in each}) == len({symbol for _, symbol in each}) == len(each)


def test_many_series_still_look_each_other() -> None:
    assert len({style.look(index) for index in range(70)}) == 70


# -- workers ----------------------------------------------------------------------------------


@few
@given(studies)
def test_every_phase_is_a_bar_or_a_sign_in_the_row_of_its_worker(study: StudyRecord) -> None:
    layout = stored(timeline_figure(study))
    bars = [
        (trace["y"][i], trace["base"][i], trace["x"][i], trace["customdata"][i])
        for trace in layout["data"]
        if trace["type"] == "bar"
        for i in range(len(trace["x"]))
    ]
    signs = traces(timeline_figure(study)).get("from the store", {"x": []})["x"]
    phases = [p for t in study.trials for p in t.phases]
    phases += [p for b in (study.baseline, *study.baselines) if b for p in b.phases]
    whole = [t for t in study.trials if not t.phases]
    assert len(signs) == sum(phase.reused for phase in phases)
    assert len(bars) == sum(not phase.reused for phase in phases) + len(whole)
    start = min(phase.begin for phase in phases)
    for trial in study.trials:
        for phase in trial.phases:
            if phase.reused:
                continue
            (found,) = [
                b for b in bars if b[3].startswith(f"trial {trial.number}, {phase.name}<br>")
            ]
            assert found[1] == pytest.approx(phase.begin - start, abs=1e-3)
            assert found[2] == pytest.approx(phase.seconds, abs=1e-3)
    rows = {b.row: b for b in timeline_bars(study)}
    assert len({row for row, *_ in bars}) <= len(rows)


@few
@given(studies)
def test_bars_of_a_row_do_not_lie_on_each_other(study: StudyRecord) -> None:
    rows: dict[str, list[timeline.Bar]] = {}
    for bar in timeline_bars(study):
        if bar.kind != "running":
            rows.setdefault(bar.row, []).append(bar)
    for found in rows.values():
        found.sort(key=lambda bar: bar.begin)
        for left, right in pairwise(found):
            assert left.begin + left.seconds <= right.begin + 1e-6


def test_of_very_many_trials_the_last_are_drawn(many: StudyRecord) -> None:
    numbers = {bar.text.split(",")[0].split("<")[0] for bar in timeline_bars(many)}
    begun = sorted(many.trials, key=lambda t: (t.begin or 0.0, t.number))
    last = {f"trial {t.number}" for t in begun[-timeline.MOST_TRIALS :]}
    assert {number for number in numbers if number.startswith("trial")} == last
    told = timeline_figure(many).layout.title.subtitle.text
    assert told.startswith(f"the last {timeline.MOST_TRIALS} of 1,500 trials")


# -- progress ---------------------------------------------------------------------------------


@few
@given(studies)
def test_both_curves_have_every_trial(study: StudyRecord) -> None:
    time, epochs = stored(progress_figure(study))["data"]
    moments = course(study)
    assert sorted(moment.trial for moment in moments) == [t.number for t in comparable(study)]
    assert time["y"] == epochs["y"] == [moment.hypervolume for moment in moments]
    assert epochs["x"] == [moment.epochs for moment in moments]
    assert time["x"] == sorted(time["x"])


def test_of_very_many_steps_those_that_rose_are_kept(many: StudyRecord) -> None:
    moments = course(many)
    volumes = [0.0, *(moment.hypervolume for moment in moments)]
    rises = {
        m.trial for m, old, new in zip(moments, volumes, volumes[1:], strict=False) if new > old
    }
    _, epochs = stored(progress_figure(many))["data"]
    drawn = {int(text.removeprefix("trial ")) for text in epochs["customdata"]}
    assert rises <= drawn
    assert len(drawn) <= progress.MOST_POINTS + 1


# -- all --------------------------------------------------------------------------------------


def test_all_panels_of_a_study_in_the_order_of_a_page() -> None:
    study = made.study(20)
    assert tuple(panels(study, made.details(study))) == PANELS


def test_a_study_without_trials_has_no_panel_but_what_its_baselines_did() -> None:
    assert tuple(panels(made.study(0), {})) == ("workers",)


def test_a_study_of_an_earlier_version_has_what_there_is_of_it() -> None:
    study = made.study(20)
    # When a trial began and ended Optuna has always kept.
    bare = tuple(replace(t, phases=(), nodes=(), worker="") for t in study.trials)
    beside = tuple(replace(b, phases=()) for b in study.baselines)
    assert study.baseline is not None
    seed = replace(study.baseline, phases=())
    old = replace(study, trials=bare, baselines=beside, baseline=seed)
    assert tuple(panels(old, {})) == ("front", "strengths", "progress", "workers")
    time, epochs = stored(progress_figure(old))["data"]
    assert len(time["y"]) == len(comparable(old)) and epochs["y"] == []


def test_a_study_of_one_objective_has_no_front() -> None:
    study = made.study(20)
    single = replace(
        study,
        objectives=study.objectives[1:],
        trials=tuple(replace(t, values=t.values[1:]) for t in study.trials),
        baseline=None,
        baselines=(),
    )
    assert tuple(panels(single, made.details(single))) == ("layers", "strengths", "workers")


def test_panels_of_very_many_trials_stay_small(many: StudyRecord) -> None:
    shown = heatmap_trials(many)
    figures = panels(many, made.details(replace(many, trials=shown)))
    sizes = {name: len(figure.to_json()) for name, figure in figures.items()}
    assert all(size < 160_000 for size in sizes.values()), sizes
    drawn = traces(figures["front"])
    assert len(drawn["trial"]["x"]) == lineage.MOST_POINTS
    assert len(drawn["lineage"]["x"]) == 3 * lineage.MOST_LINES
    assert "dominated trials not drawn" in figures["front"].layout.title.subtitle.text
    points = [len(trace["x"]) for trace in stored(figures["strengths"])["data"]]
    assert max(points) <= strengths.MOST_POINTS


def test_panels_are_light_whatever_the_browser_prefers() -> None:
    study = made.study(20)
    for figure in panels(study, made.details(study)).values():
        layout = stored(figure)["layout"]
        assert "plot_bgcolor" not in layout["template"].get("layout", {})
        assert len(json.dumps(layout["template"])) < 200
        assert layout["title"]["text"] and layout["title"]["subtitle"]["text"]
