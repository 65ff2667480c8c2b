"""Which worker did what when, and what it did not have to do: one row a worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from plinio_sweep.sweep.result import StudyRecord, TrialRecord
from plinio_sweep.view.course import in_rows
from plinio_sweep.view.figure import BLUE, DARK, GREEN, GREY, VERMILLION
from plinio_sweep.view.panels.style import AXIS, ORANGE, PINK, SKY, Figure, blank, counted

MOST_TRIALS = 200  # the last ones: a bar of an older one would be thinner than a line

# By the end of a phase's name: colour, and hatching for print in grey.
KINDS = {
    "warmup": (GREY, ""),
    "seed": (ORANGE, ""),
    "search": (BLUE, "/"),
    "finetune": (GREEN, "\\"),
    "evaluation": (PINK, "x"),
    "failed": (VERMILLION, "-"),
    "running": (SKY, "."),
    "trial": (DARK, ""),  # of earlier versions, which kept no phases
}
UNITS = (("h", 7200.0, 3600.0), ("min", 300.0, 60.0), ("s", 0.0, 1.0))  # name, from, divisor [s]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One thing that a worker did, or took from the store."""

    row: str
    kind: str
    begin: float  # [s] since 1970
    seconds: float
    text: str
    reused: bool = False


def timeline_bars(study: StudyRecord) -> tuple[Bar, ...]:
    """Every bar of the timeline: phases of complete trials, and the rest as a whole.

    Baselines keep no worker: they are in rows of their own, as many as were in hand at a time.
    A trial that runs ends with the last thing that is known of the study.
    """
    last = max((moment for trial in study.trials for moment in _moments(trial)), default=0.0)
    bars: list[Bar] = []
    for trial in _last_trials(study):
        bars += _trial_bars(trial, last)
    return (*bars, *_baseline_bars(study))


def _moments(trial: TrialRecord) -> Iterator[float]:
    yield from (moment for moment in (trial.begin, trial.end) if moment is not None)
    yield from (phase.begin + phase.seconds for phase in trial.phases)


def _last_trials(study: StudyRecord) -> list[TrialRecord]:
    known = [trial for trial in study.trials if trial.begin is not None]
    return sorted(known, key=lambda trial: (trial.begin, trial.number))[-MOST_TRIALS:]


def _trial_bars(trial: TrialRecord, last: float) -> Iterator[Bar]:
    assert trial.begin is not None
    row, name = trial.worker or "unknown", f"trial {trial.number}"
    if trial.state == "complete" and trial.phases:
        for phase in trial.phases:
            epochs = f", {counted(phase.epochs, 'epoch')}" if phase.epochs else ""
            how = " from the store" if phase.reused else ""
            yield Bar(
                row=row,
                kind=phase.name.rsplit(".", 1)[-1],
                begin=phase.begin,
                seconds=phase.seconds,
                text=f"{name}, {phase.name}{how}<br>{phase.seconds:,.1f} s{epochs}",
                reused=phase.reused,
            )
        return
    kind = {"complete": "trial", "running": "running"}.get(trial.state, "failed")
    seconds = (last if trial.end is None else trial.end) - trial.begin
    word = {"complete": "", "failed": ", failed"}.get(trial.state, f", {trial.state}")
    text = f"{name}{word}<br>{seconds:,.1f} s"
    yield Bar(row=row, kind=kind, begin=trial.begin, seconds=max(seconds, 0.0), text=text)


def _baseline_bars(study: StudyRecord) -> Iterator[Bar]:
    for row, baseline in in_rows(study):
        for phase in baseline.phases:
            how = " from the store" if phase.reused else ""
            yield Bar(
                row=row,
                kind=phase.name.rsplit(".", 1)[-1],
                begin=phase.begin,
                seconds=phase.seconds,
                text=f"baseline {baseline.name}, {phase.name}{how}<br>{phase.seconds:,.1f} s",
                reused=phase.reused,
            )


def timeline_figure(study: StudyRecord) -> Figure:
    """Phases of workers against time; a diamond stands where one was taken from the store.

    Raises:
        ValueError: Nothing is known of when the study did what.
    """
    bars = timeline_bars(study)
    if not bars:
        raise ValueError(
            f"A timeline needs one trial that was begun or more, but study {study.name!r} has "
            f"none; run some trials first."
        )
    start = min(bar.begin for bar in bars)
    length = max(bar.begin + bar.seconds for bar in bars) - start
    unit, divisor = next((name, by) for name, least, by in UNITS if length >= least)
    rows = _rows(bars)
    figure = blank("Workers", _subtitle(study, bars), barmode="overlay", bargap=0.25)
    for kind, (color, hatch) in KINDS.items():
        # Taken from the store it takes no time: a sign, not a bar.
        trained = [bar for bar in bars if bar.kind == kind and not bar.reused]
        if trained:
            figure.add_bar(
                orientation="h",
                x=[round(bar.seconds / divisor, 5) for bar in trained],
                base=[round((bar.begin - start) / divisor, 5) for bar in trained],
                y=[rows[bar.row] for bar in trained],
                name=kind,
                marker={
                    "color": color,
                    "pattern": {
                        "shape": hatch,
                        "fgcolor": "#FFFFFF",
                        "fgopacity": 0.45,
                        "fillmode": "overlay",
                        "size": 6,
                    },
                    "line": {"color": "#FFFFFF", "width": 0.5},
                },
                customdata=[bar.text for bar in trained],
                hovertemplate="%{customdata}<extra></extra>",
            )
    _add_reused(figure, [bar for bar in bars if bar.reused], rows, start, divisor)
    figure.update_xaxes(AXIS, title_text=f"time since the first began [{unit}]")
    figure.update_yaxes(AXIS, type="category", showgrid=False, autorange="reversed")
    figure.update_yaxes(categoryorder="array", categoryarray=list(rows.values()))
    return figure


def _add_reused(
    figure: Figure, bars: list[Bar], rows: dict[str, str], start: float, divisor: float
) -> None:
    if not bars:
        return
    figure.add_scatter(
        x=[round((bar.begin - start) / divisor, 5) for bar in bars],
        y=[rows[bar.row] for bar in bars],
        name="from the store",
        mode="markers",
        marker={
            "symbol": "diamond",
            "size": 8,
            "color": [KINDS.get(bar.kind, KINDS["trial"])[0] for bar in bars],
            "line": {"color": DARK, "width": 1},
        },
        customdata=[bar.text for bar in bars],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _rows(bars: tuple[Bar, ...]) -> dict[str, str]:
    """What each row is called: baselines first, then workers by their first bar."""
    first: dict[str, float] = {}
    for bar in bars:
        first[bar.row] = min(bar.begin, first.get(bar.row, bar.begin))
    names = sorted(first, key=lambda row: (not row.startswith("baselines"), first[row], row))
    workers = [name for name in names if not name.startswith("baselines")]
    hosts = {name.split("/")[0] for name in workers}
    said = {name: f" on {name.split('/')[0]}" if len(hosts) > 1 else "" for name in workers}
    numbered = {name: f"worker {i}{said[name]}" for i, name in enumerate(workers, 1)}
    return {name: numbered.get(name, name) for name in names}


def _subtitle(study: StudyRecord, bars: tuple[Bar, ...]) -> str:
    begun = sum(trial.begin is not None for trial in study.trials)
    drawn = min(begun, MOST_TRIALS)
    count = counted(drawn, "trial")
    part = count if drawn == begun else f"the last {drawn} of {begun:,} trials"
    reused = sum(bar.reused for bar in bars)
    return f"{part}; {counted(reused, 'phase')} of {len(bars):,} from the store"
