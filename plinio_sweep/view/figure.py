"""The picture of a front: by matplotlib for print, by plotly for pages."""

from __future__ import annotations

import io
import os
import uuid
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinio_sweep.view.scene import Points, Scene, scene

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from plinio_sweep.sweep.result import StudyRecord

ENDINGS = (".png", ".svg", ".html")

# Okabe and Ito, "Color Universal Design", 2008: told apart by every kind of colour vision. Every
# series has a marker of its own as well, for print in grey.
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
GREY, DARK, RULE = "#7F7F7F", "#333333", "#E6E6E6"
SOFT = "#57606A"  # of small print: grey enough, and still read on white by everyone (WCAG 2, 4.5)

HOVER = "%{customdata}<br>%{x:.4g}, %{y:.4g}<extra></extra>"
# Of baselines, one family after another: colour, and marker in print and on pages.
FAMILIES = (
    ("#E69F00", "s", "square"),
    ("#CC79A7", "D", "diamond"),
    ("#56B4E9", "v", "triangle-down"),
    ("#000000", "x", "x"),
    (GREEN, "P", "cross"),
    (VERMILLION, "p", "pentagon"),
)

# In points: the printed figure, and what a letter of its legend and a marker with its gaps take.
WIDTH, LETTER, MARK = 504.0, 6.0, 48.0

Series = tuple[tuple[str, Points, dict[str, Any]], ...]


def _style_axes(axes: Axes, picture: Scene) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY, labelcolor=DARK)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(picture.x.title, color=DARK)
    axes.set_ylabel(picture.y.title, color=DARK)
    for drawn, axis, set_scale in (
        (picture.x, axes.xaxis, axes.set_xscale),
        (picture.y, axes.yaxis, axes.set_yscale),
    ):
        if drawn.ticks:
            set_scale("log")
            axis.set_major_locator(FixedLocator(drawn.ticks))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,g}"))
    axes.set_title(picture.title, loc="left", pad=20, fontweight="bold", color=DARK)
    axes.text(0, 1.025, picture.subtitle, transform=axes.transAxes, fontsize=8, color=SOFT)


def _print_labels(axes: Axes, picture: Scene) -> None:
    """Writes trial numbers on the side of the front where no trial can be."""
    right, up = (1 if axis.maximize else -1 for axis in (picture.x, picture.y))
    for label, x, y in zip(picture.labels, picture.front.x, picture.front.y, strict=True):
        axes.annotate(
            label,
            (x, y),
            xytext=(4 * right, 3 * up),
            textcoords="offset points",
            ha="left" if right == 1 else "right",
            va="bottom" if up == 1 else "top",
            fontsize=8,
            color=BLUE,
        )


def _print_figure(picture: Scene) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.6), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    _style_axes(axes, picture)
    step: Any = "steps-pre" if picture.x.maximize else "steps-post"
    axes.plot(picture.outline.x, picture.outline.y, color=BLUE, linewidth=1.4, drawstyle=step)
    series: Series = (
        ("trial", picture.trials, {"s": 16, "color": GREY, "alpha": 0.5, "linewidth": 0}),
        ("infeasible", picture.infeasible, {"s": 18, "fc": "none", "ec": GREY}),
        ("front", picture.front, {"s": 30, "color": BLUE, "linewidth": 0}),
        ("test", picture.test, {"s": 22, "marker": "^", "fc": "none", "ec": GREEN}),
        ("seed (float)", picture.seed, {"s": 150, "marker": "*", "color": VERMILLION}),
    )
    for label, points, style in series:
        if points.x:
            axes.scatter(points.x, points.y, label=label, zorder=3, **style)
    for (label, points), (color, marker, _) in zip(
        picture.baselines.items(), cycle(FAMILIES), strict=False
    ):
        axes.plot(points.x, points.y, color=color, linewidth=0.8, linestyle=":")
        axes.scatter(points.x, points.y, label=label, s=20, color=color, marker=marker, zorder=2)
    _print_labels(axes, picture)
    columns = _columns([str(label) for label in axes.get_legend_handles_labels()[1]])
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, labelcolor=DARK)
    return figure


def _columns(labels: list[str]) -> int:
    """The most columns of a legend, up to six, that are within the width of the figure."""
    for columns in range(6, 1, -1):
        rows, longer = divmod(len(labels), columns)  # matplotlib fills one column after another
        ends = [(k + 1) * rows + min(k + 1, longer) for k in range(columns)]
        parts = [labels[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        widths = [max(map(len, part)) * LETTER + MARK for part in parts if part]
        if sum(widths) <= WIDTH:
            return columns
    return 1


def _style_page(figure: go.Figure, picture: Scene) -> None:
    for axis, update in ((picture.x, figure.update_xaxes), (picture.y, figure.update_yaxes)):
        update(title_text=axis.title, gridcolor=RULE, linecolor=GREY, zeroline=False)
        if axis.ticks:
            update(type="log", tickvals=axis.ticks, ticktext=[f"{tick:,g}" for tick in axis.ticks])
    subtitle = {"text": picture.subtitle, "font": {"color": SOFT}}
    figure.update_layout(
        title={"text": picture.title, "subtitle": subtitle},
        font={"color": DARK},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.2, "yanchor": "top"},
        hovermode="closest",
    )


def _add_baselines(figure: go.Figure, picture: Scene) -> None:
    for (name, points), (color, _, symbol) in zip(
        picture.baselines.items(), cycle(FAMILIES), strict=False
    ):
        figure.add_scatter(
            x=points.x,
            y=points.y,
            name=name,
            mode="lines+markers",
            line={"color": color, "dash": "dot", "width": 1},
            marker={"color": color, "symbol": symbol, "size": 8},
            customdata=points.texts,
            hovertemplate=HOVER,
        )


def front_figure(study: StudyRecord) -> go.Figure:
    """The picture of a study's front as a plotly figure, for pages.

    Raises:
        ValueError: The study has fewer than two objectives, or no complete trial.
    """
    return page_figure(scene(study))


def page_figure(picture: Scene) -> go.Figure:
    """A scene as a plotly figure, for pages."""
    import plotly.graph_objects as go

    # The default template is ten times as long as the figure, which the dashboard stores.
    figure = go.Figure(layout={"template": "none"})
    shape = "vh" if picture.x.maximize else "hv"
    figure.add_scatter(
        x=picture.outline.x,
        y=picture.outline.y,
        mode="lines",
        line={"color": BLUE, "shape": shape, "width": 2},
        hoverinfo="skip",
        showlegend=False,
    )
    vertical = "top" if picture.y.maximize else "bottom"
    side = f"{vertical} {'right' if picture.x.maximize else 'left'}"
    numbers = {"mode": "markers+text", "text": picture.labels, "textposition": side}
    series: Series = (
        ("trial", picture.trials, {"marker": {"color": GREY, "opacity": 0.5, "size": 7}}),
        ("infeasible", picture.infeasible, {"marker": {"color": GREY, "symbol": "circle-open"}}),
        ("front", picture.front, {**numbers, "marker": {"color": BLUE, "size": 9}}),
        ("test", picture.test, {"marker": {"color": GREEN, "symbol": "triangle-up-open"}}),
        ("seed (float)", picture.seed, {"marker": {"color": VERMILLION, "symbol": "star"}}),
    )
    for name, points, style in series:
        if points.x:
            trace = go.Scatter(x=points.x, y=points.y, name=name, mode="markers")
            trace.update(customdata=points.texts, hovertemplate=HOVER, textfont_color=BLUE, **style)
            figure.add_trace(trace)
    figure.update_traces(marker_size=15, selector={"name": "seed (float)"})
    _add_baselines(figure, picture)
    _style_page(figure, picture)
    return figure


def _rendered(study: StudyRecord, ending: str) -> bytes:
    """Content of the file; the same study gives the same bytes."""
    if ending == ".html":
        page: str = front_figure(study).to_html(include_plotlyjs=True, div_id="front")
        return page.encode()
    import matplotlib

    content = io.BytesIO()
    # Else matplotlib writes the date and random identifiers into an SVG.
    metadata = {"Date": None} if ending == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": study.name}):
        _print_figure(scene(study)).savefig(content, format=ending[1:], metadata=metadata)
    return content.getvalue()


def save_front(study: StudyRecord, path: Path) -> None:
    """Draws the front of a study into `path`, whole or not at all; makes missing folders.

    Args:
        study: Has two objectives or more; of more, the first cost and the first metric are drawn.
        path: Ends in `.png` or `.svg` for print, or in `.html` for a page that needs no network.

    Raises:
        ValueError: Another ending, fewer than two objectives, or no complete trial.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(
            f"`path` must end in one of {', '.join(ENDINGS)}, but got {path.name!r}; "
            "choose one of them."
        )
    content = _rendered(study, ending)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
