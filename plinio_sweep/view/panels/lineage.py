"""The front with what each point grew from: a line from a plan to those that go on where it ends.

A plan "pit" that is trained and stored is the beginning of every "pit>mps" of the same strength;
the line goes from its point to theirs.
"""

from __future__ import annotations

from dataclasses import replace

from plinio_sweep.sweep.result import StudyRecord
from plinio_sweep.view.figure import DARK, page_figure
from plinio_sweep.view.lineage import Growth, growths
from plinio_sweep.view.panels.style import Figure, blank, counted, thinned
from plinio_sweep.view.scene import Points, Scene, name_of, scene

MOST_POINTS = 500  # of a series; those of the front are always drawn
MOST_LINES = 300


def lineage_figure(study: StudyRecord) -> Figure:
    """Accuracy against cost: trials, front, seed net, baselines, and lines of descent.

    Raises:
        ValueError: The study has fewer than two objectives, or no complete trial.
    """
    picture = scene(study)
    grown = {growth.trial.number: growth for growth in growths(study)}
    places = _places(picture)
    lines = [
        growth
        for number, growth in grown.items()
        if growth.beyond_warmup and number in places and name_of(growth.parent) in places
    ]
    front = set(picture.front.names)
    # Those of the front first: of very many they are the ones to be seen.
    drawn = sorted(lines, key=lambda g: (g.trial.number not in front, g.trial.number))[:MOST_LINES]
    trials, infeasible = _thin(picture.trials), _thin(picture.infeasible)
    left = len(picture.trials.x) + len(picture.infeasible.x) - len(trials.x) - len(infeasible.x)
    told = [picture.subtitle]
    if left:
        told.append(f"{counted(left, 'dominated trial')} not drawn")
    if len(drawn) < len(lines):
        told.append(f"{len(drawn)} of {len(lines):,} lines drawn")
    figure = page_figure(
        replace(
            picture,
            trials=_remarked(trials, grown),
            infeasible=_remarked(infeasible, grown),
            front=_remarked(picture.front, grown),
        )
    )
    figure.update_layout(blank("Front and lineage", ", ".join(told)).layout)
    if drawn:
        _add_lines(figure, drawn, places)
    return figure


def _places(picture: Scene) -> dict[int | str, tuple[float, float]]:
    """Where each result is drawn."""
    series = (picture.trials, picture.infeasible, picture.front, picture.seed)
    return {
        name: (x, y)
        for points in (*series, *picture.baselines.values())
        for name, x, y in zip(points.names, points.x, points.y, strict=True)
    }


def _thin(points: Points) -> Points:
    kept = thinned(len(points.x), MOST_POINTS)
    return Points(
        x=tuple(points.x[i] for i in kept),
        y=tuple(points.y[i] for i in kept),
        texts=tuple(points.texts[i] for i in kept),
        names=tuple(points.names[i] for i in kept),
    )


def _remarked(points: Points, grown: dict[int, Growth]) -> Points:
    texts = [
        f"{text}<br>{descent(grown[name])}" if isinstance(name, int) and name in grown else text
        for text, name in zip(points.texts, points.names, strict=True)
    ]
    return replace(points, texts=tuple(texts))


def descent(growth: Growth) -> str:
    """What a trial has in common with its parent, in words."""
    parent = name_of(growth.parent)
    whom = f"trial {parent}" if isinstance(parent, int) else f"baseline {parent}"
    what = "goes on from" if growth.whole else "begins like"
    return f"{what} {whom}: {', '.join(growth.shared)}"


def _add_lines(
    figure: Figure, drawn: list[Growth], places: dict[int | str, tuple[float, float]]
) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    sizes: list[int] = []
    for growth in drawn:
        begin, end = places[name_of(growth.parent)], places[growth.trial.number]
        x += [begin[0], end[0], None]
        y += [begin[1], end[1], None]
        sizes += [0, 9, 0]  # an arrow at the end
    figure.add_scatter(
        x=x,
        y=y,
        name="lineage",
        mode="lines+markers",
        line={"color": DARK, "width": 1},
        marker={"symbol": "arrow", "size": sizes, "angleref": "previous", "color": DARK},
        opacity=0.45,
        hoverinfo="skip",
    )
    # Below the points, or their texts would not be reached.
    figure.data = (figure.data[-1], *figure.data[:-1])
