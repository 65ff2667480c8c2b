"""How the hypervolume grew: against time, and against epochs that somebody trained."""

from __future__ import annotations

from collections.abc import Sequence

from plotly.subplots import make_subplots

from plinio_sweep.sweep.result import StudyRecord
from plinio_sweep.view.course import Moment, course
from plinio_sweep.view.figure import BLUE
from plinio_sweep.view.panels.style import AXIS, Figure, blank, counted, thinned
from plinio_sweep.view.panels.timeline import UNITS

MOST_POINTS = 500


def progress_figure(study: StudyRecord) -> Figure:
    """Hypervolume against time on the left, and against trained epochs on the right.

    Raises:
        ValueError: The study has no hypervolume, or no comparable trial.
    """
    moments = course(study)
    if not moments:
        raise ValueError(
            f"A hypervolume over time needs a seed net and one complete trial or more, but study "
            f"{study.name!r} lacks them; run some trials first."
        )
    rises = _rises(moments)
    kept = _thin(moments, rises)
    length = moments[-1].seconds
    unit, divisor = next((name, by) for name, least, by in UNITS if length >= least)
    told = f"{counted(len(moments), 'trial')}, filled where one raised it"
    if len(kept) < len(moments):
        told = (
            f"{len(moments):,} trials, of which {len(kept)} are drawn, filled where one raised it"
        )
    figure = make_subplots(
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        figure=blank(
            "Hypervolume", f"{moments[-1].hypervolume:.3f} after {told}", showlegend=False
        ),
    )
    _add(figure, 1, kept, [moment.seconds / divisor for moment in kept], rises)
    counted_ones = [moment for moment in kept if moment.epochs is not None]
    _add(figure, 2, counted_ones, [float(moment.epochs or 0) for moment in counted_ones], rises)
    figure.update_xaxes(AXIS)
    figure.update_yaxes(AXIS, rangemode="tozero")
    figure.update_yaxes(title_text="share of the seed net's box", col=1)
    figure.update_xaxes(title_text=f"time since the first trial [{unit}]", col=1)
    figure.update_xaxes(title_text="epochs trained", col=2)
    return figure


def _rises(moments: Sequence[Moment]) -> set[int]:
    """Trials that raised the hypervolume."""
    before = (0.0, *(moment.hypervolume for moment in moments))
    return {m.trial for m, old in zip(moments, before, strict=False) if m.hypervolume > old}


def _thin(moments: tuple[Moment, ...], rises: set[int]) -> list[Moment]:
    """All where it rose, and of the others so many that there is room for."""
    if len(moments) <= MOST_POINTS:
        return list(moments)
    raised = [i for i, moment in enumerate(moments) if moment.trial in rises]
    raised = [raised[place] for place in thinned(len(raised), MOST_POINTS // 2)]
    return [moments[i] for i in sorted({*raised, *thinned(len(moments), MOST_POINTS // 2)})]


def _add(
    figure: Figure, column: int, moments: list[Moment], x: list[float], rises: set[int]
) -> None:
    figure.add_scatter(
        x=[round(value, 5) for value in x],
        y=[moment.hypervolume for moment in moments],
        mode="lines+markers",
        line={"color": BLUE, "shape": "hv", "width": 2},
        marker={
            "color": [BLUE if moment.trial in rises else "#FFFFFF" for moment in moments],
            "size": 6,
            "line": {"color": BLUE, "width": 1},
        },
        customdata=[f"trial {moment.trial}" for moment in moments],
        hovertemplate="%{customdata}<br>hypervolume %{y:.4f}<extra></extra>",
        row=1,
        col=column,
    )
