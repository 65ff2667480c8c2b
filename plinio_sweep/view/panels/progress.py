"""How the hypervolume grew: against time, and against epochs that somebody trained."""

from __future__ import annotations

from dataclasses import dataclass, replace

from plotly.subplots import make_subplots

from plinio_sweep.sweep.result import PhaseRecord, StudyRecord
from plinio_sweep.view.figure import BLUE
from plinio_sweep.view.front import front, hypervolume, is_comparable
from plinio_sweep.view.panels.style import AXIS, Figure, blank, counted, thinned
from plinio_sweep.view.panels.timeline import UNITS
from plinio_sweep.view.report import compared

MOST_POINTS = 500


@dataclass(frozen=True, kw_only=True)
class Step:
    """The study when one of its trials was done."""

    trial: int
    moment: float | None  # [s] since 1970
    epochs: int  # trained by then, for trials and baselines
    volume: float
    better: bool  # than before this trial


def progress_steps(study: StudyRecord) -> tuple[Step, ...]:
    """The study after each of its comparable trials, in the order in which they ended.

    Raises:
        ValueError: The study has no hypervolume, or no comparable trial.
    """
    count = len(study.objectives)
    done = [trial for trial in study.trials if is_comparable(trial, count)]
    if hypervolume(study) is None or not done:
        raise ValueError(
            f"A hypervolume over time needs a seed net and one complete trial or more, but study "
            f"{study.name!r} lacks them; run some trials first."
        )
    kept, beside = replace(study, trials=()), _beside(study)
    volume, epochs, steps = 0.0, 0, []
    for trial in sorted(done, key=lambda t: (t.end or 0.0, t.number)):
        epochs += _epochs(trial.phases)
        while beside and beside[-1][0] <= (trial.end or 0.0):
            epochs += beside.pop()[1]
        best = front(replace(kept, trials=(*kept.trials, trial)))
        new = volume
        if trial in best:
            # What is dominated now will be dominated later: the front is all that need be kept.
            kept = replace(kept, trials=best)
            new = max(volume, hypervolume(kept) or 0.0)
        steps.append(
            Step(
                trial=trial.number,
                moment=trial.end,
                epochs=epochs,
                volume=new,
                better=new > volume,
            )
        )
        volume = new
    return tuple(steps)


def _beside(study: StudyRecord) -> list[tuple[float, int]]:
    """End [s] and epochs of what was trained beside comparable trials, the last first."""
    count = len(study.objectives)
    found = [
        (max((phase.begin + phase.seconds for phase in b.phases), default=0.0), _epochs(b.phases))
        for b in compared(study)
    ]
    rest = [trial for trial in study.trials if not is_comparable(trial, count)]
    return sorted([*found, *((t.end or 0.0, _epochs(t.phases)) for t in rest)], reverse=True)


def _epochs(phases: tuple[PhaseRecord, ...]) -> int:
    return sum(phase.trained_epochs for phase in phases)


def progress_figure(study: StudyRecord) -> Figure:
    """Hypervolume against time on the left, and against trained epochs on the right.

    Raises:
        ValueError: The study has no hypervolume, or no comparable trial.
    """
    steps = progress_steps(study)
    kept = _thin(steps)
    timed = [step.moment for step in steps if step.moment is not None]
    start = min([*timed, *(t.begin for t in study.trials if t.begin is not None)], default=0.0)
    length = max(timed, default=start) - start
    unit, divisor = next((name, by) for name, least, by in UNITS if length >= least)
    told = f"{counted(len(steps), 'trial')}, filled where one raised it"
    if len(kept) < len(steps):
        told = f"{len(steps):,} trials, of which {len(kept)} are drawn, filled where one raised it"
    figure = make_subplots(
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        figure=blank("Hypervolume", f"{steps[-1].volume:.3f} after {told}", showlegend=False),
    )
    timed_steps = [step for step in kept if step.moment is not None]
    _add(figure, 1, timed_steps, [((s.moment or 0.0) - start) / divisor for s in timed_steps])
    _add(figure, 2, kept, [float(step.epochs) for step in kept])
    figure.update_xaxes(AXIS)
    figure.update_yaxes(AXIS, rangemode="tozero")
    figure.update_yaxes(title_text="share of the seed net's box", col=1)
    figure.update_xaxes(title_text=f"time since the first trial [{unit}]", col=1)
    figure.update_xaxes(title_text="epochs trained", col=2)
    return figure


def _thin(steps: tuple[Step, ...]) -> list[Step]:
    """All where it rose, and of the others so many that there is room for."""
    if len(steps) <= MOST_POINTS:
        return list(steps)
    rises = [i for i, step in enumerate(steps) if step.better]
    rises = [rises[place] for place in thinned(len(rises), MOST_POINTS // 2)]
    return [steps[i] for i in sorted({*rises, *thinned(len(steps), MOST_POINTS // 2)})]


def _add(figure: Figure, column: int, steps: list[Step], x: list[float]) -> None:
    figure.add_scatter(
        x=[round(value, 5) for value in x],
        y=[step.volume for step in steps],
        mode="lines+markers",
        line={"color": BLUE, "shape": "hv", "width": 2},
        marker={
            "color": [BLUE if step.better else "#FFFFFF" for step in steps],
            "size": 6,
            "line": {"color": BLUE, "width": 1},
        },
        customdata=[f"trial {step.trial}" for step in steps],
        hovertemplate="%{customdata}<br>hypervolume %{y:.4f}<extra></extra>",
        row=1,
        col=column,
    )
