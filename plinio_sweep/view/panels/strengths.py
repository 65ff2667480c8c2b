"""What a strength leads to: the strength of each stage against the final cost."""

from __future__ import annotations

from plotly.subplots import make_subplots

from plinio_sweep.sweep.result import Objective, StudyRecord, TrialRecord
from plinio_sweep.view.front import is_comparable
from plinio_sweep.view.panels.style import AXIS, Figure, blank, counted, log_axis, look, thinned
from plinio_sweep.view.report import cost_title, format_cost, strengths
from plinio_sweep.view.scene import prefix

MOST_POINTS = 300  # of an order, in each of its stages


def strengths_figure(study: StudyRecord) -> Figure:
    """Strength of each stage against final cost, one colour and symbol an order of stages.

    Both axes are logarithmic where no value is 0.

    Raises:
        ValueError: The study has no cost among its objectives, or no trial with strengths.
    """
    cost = next((axis for axis in study.objectives if axis.kind == "cost"), None)
    if cost is None:
        raise ValueError(
            f"A strength is drawn against a cost, but study {study.name!r} has none among its "
            f"objectives; add one."
        )
    index = study.objectives.index(cost)
    orders = _orders(study, index)
    stages = list(
        dict.fromkeys(s for trials in orders.values() for t in trials for s in strengths(t.params))
    )
    if not stages:
        raise ValueError(
            f"A strength needs one complete trial or more to be drawn, but study {study.name!r} "
            f"has none; run some trials first."
        )
    total = sum(map(len, orders.values()))
    kept = {
        order: [trials[place] for place in thinned(len(trials), MOST_POINTS)]
        for order, trials in orders.items()
    }
    drawn = sum(map(len, kept.values()))
    told = counted(total, "trial") if drawn == total else f"{drawn:,} of {total:,} trials"
    figure = make_subplots(
        cols=len(stages),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        figure=blank("Strength against cost", f"{told}, one symbol an order"),
    )
    for place, (order, trials) in enumerate(kept.items()):
        seen = False
        for column, stage in enumerate(stages, 1):
            points = [t for t in trials if stage in strengths(t.params)]
            if points:
                _add(figure, column, place, order, stage, points, index, cost.unit, not seen)
                seen = True
    _style(figure, cost, stages, [t for trials in kept.values() for t in trials], index)
    return figure


def _orders(study: StudyRecord, index: int) -> dict[str, list[TrialRecord]]:
    """Trials with a cost by order, in the order of costs."""
    orders: dict[str, list[TrialRecord]] = {}
    known = [t for t in study.trials if is_comparable(t, len(study.objectives))]
    for trial in sorted(known, key=lambda t: (t.values[index], t.number)):
        found = strengths(trial.params)
        if found:
            order = str(trial.params.get("order", ">".join(found)))
            orders.setdefault(order, []).append(trial)
    return {order: orders[order] for order in sorted(orders)}


def _add(
    figure: Figure,
    column: int,
    place: int,
    order: str,
    stage: str,
    trials: list[TrialRecord],
    index: int,
    unit: str,
    first: bool,
) -> None:
    color, symbol = look(place)
    figure.add_scatter(
        x=[strengths(trial.params)[stage] for trial in trials],
        y=[trial.values[index] for trial in trials],
        mode="markers",
        marker={"color": color, "symbol": symbol, "size": 8, "opacity": 0.85},
        name=order,
        legendgroup=order,
        showlegend=first,
        customdata=[f"trial {t.number}<br>{format_cost(t.values[index], unit)}" for t in trials],
        hovertemplate="%{customdata}<br>strength %{x:.3g}<extra>%{fullData.name}</extra>",
        row=1,
        col=column,
    )


def _style(
    figure: Figure, cost: Objective, stages: list[str], trials: list[TrialRecord], index: int
) -> None:
    figure.update_xaxes(AXIS)
    figure.update_yaxes(AXIS)
    for column, stage in enumerate(stages, 1):
        found = [strengths(t.params) for t in trials]
        scale = log_axis([known[stage] for known in found if stage in known])
        figure.update_xaxes(title_text=f"strength of {stage}", col=column, **scale)
    costs = [trial.values[index] for trial in trials]
    factor, unit = prefix(max(costs), cost.unit)
    title = cost_title(cost.name, cost.unit)
    figure.update_yaxes(log_axis(costs, factor))
    figure.update_yaxes(title_text=f"{title} [{unit}]" if unit not in ("", title) else title, col=1)
