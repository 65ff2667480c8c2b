"""What all panels look like, and the one place that makes their figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import plotly.graph_objects as go

from plinio_sweep.view.figure import BLUE, DARK, GREEN, GREY, RULE, SOFT, VERMILLION

Figure: TypeAlias = go.Figure

ORANGE, PINK, SKY, BLACK = "#E69F00", "#CC79A7", "#56B4E9", "#000000"
# Of series without an order of their own. Numbers without a common divisor: with more series than
# colours each still has a pair of its own.
COLOURS = (BLUE, ORANGE, GREEN, PINK, VERMILLION, SKY, BLACK)
SYMBOLS = (
    *("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down"),
    *("pentagon", "hexagon", "hourglass"),
)

AXIS = {
    "gridcolor": RULE,
    "linecolor": GREY,
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": GREY,
    "ticklen": 4,
    "automargin": True,
    "title_standoff": 8,
}


def look(index: int) -> tuple[str, str]:
    """Colour and symbol of a series."""
    return COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)]


def blank(title: str, subtitle: str, **layout: Any) -> Figure:
    """A figure without data in the common style.

    Args:
        title: What it shows.
        subtitle: How much of it, and what is left out.
        layout: Of plotly, beside the common one.
    """
    # The default template is ten times as long as a figure, which the dashboard stores.
    figure = go.Figure(layout={"template": "none"})
    figure.update_layout(
        title={
            "text": title,
            "subtitle": {"text": subtitle, "font": {"color": SOFT}},
            "x": 0.01,
            "xanchor": "left",
        },
        font={"color": DARK},
        margin={"l": 60, "r": 20, "t": 76, "b": 50},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.21, "yanchor": "top"},
        hovermode="closest",
        # A page that is open gets new data every few seconds: what was zoomed into stays.
        uirevision="kept",
    )
    figure.update_layout(**layout)
    return figure


def log_axis(values: Sequence[float], factor: float = 1.0) -> dict[str, Any]:
    """A logarithmic axis with ticks 1, 2, 5 in every decade; a linear one for values <= 0.

    Args:
        values: All that are drawn, at least one.
        factor: That tick labels are divided by, as by 1000 for kB.
    """
    low, high = min(values) / factor, max(values) / factor
    if low <= 0:
        return {"type": "linear"}
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{step}e{decade}") for decade in decades for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if low / 2.6 < tick < high * 2.6]
    return {
        "type": "log",
        "tickvals": [tick * factor for tick in ticks],
        "ticktext": [f"{tick:,g}" for tick in ticks],
    }


def counted(number: int, thing: str) -> str:
    """A number and what is counted.

    >>> counted(1, "trial"), counted(5000, "trial")
    ('1 trial', '5,000 trials')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def thinned(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, evenly spread, with the first and the last.

    >>> thinned(3, 5), thinned(10, 4)
    ([0, 1, 2], [0, 3, 6, 9])
    """
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]
