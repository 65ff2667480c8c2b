"""What became of each layer in each trial: the share of its channels that is left, and its bits.

Trials stand in the order of the front's cost, cheapest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from plotly.subplots import make_subplots

from plinio_sweep.sweep.detail import Detail, LayerRecord
from plinio_sweep.sweep.result import StudyRecord, TrialRecord
from plinio_sweep.view.figure import BLUE, VERMILLION
from plinio_sweep.view.front import front, is_comparable
from plinio_sweep.view.panels.style import Figure, blank, counted, thinned
from plinio_sweep.view.report import cost_title

MOST_TRIALS = 60  # columns: more are not told apart on half a page

BIT_TICKS = (1, 2, 4, 8, 16, 32)
LEAST_BITS = 0.5  # where the logarithmic scale of bits begins: a layer that is gone has none


def heatmap_trials(study: StudyRecord, most: int = MOST_TRIALS) -> tuple[TrialRecord, ...]:
    """The trials of the heat map: cheapest first, of very many the front and some of the rest.

    Args:
        study: With its trials.
        most: How many; of a longer front some points between its ends are left out.
    """
    axis = _cost_axis(study)
    count = len(study.objectives)
    known = [t for t in study.trials if is_comparable(t, count) and t.artifact]
    whole = front(study)
    numbers = {trial.number for trial in whole}
    best = [trial for trial in whole if trial.artifact]
    best = [best[place] for place in thinned(len(best), most)]

    def by_cost(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        return sorted(trials, key=lambda trial: (trial.values[axis], trial.number))

    rest = by_cost([trial for trial in known if trial.number not in numbers])
    room = most - len(best)
    places = thinned(len(rest), room) if room > 1 else range(min(room, len(rest)))
    return tuple(by_cost([*best, *(rest[place] for place in places)]))


def _cost_axis(study: StudyRecord) -> int:
    costs = [i for i, objective in enumerate(study.objectives) if objective.kind == "cost"]
    return costs[0] if costs else 0


def heatmap_figure(study: StudyRecord, details: Mapping[int, Detail]) -> Figure:
    """Channels kept above, bits of weights below; one row a layer, one column a trial.

    Args:
        study: With its trials.
        details: Of trials, by number: of those that `heatmap_trials` names, as far as they are
            still in the store.

    Raises:
        ValueError: There is not one trial with layers.
    """
    known = [t for t in study.trials if t.state == "complete" and t.number in details]
    axis = _cost_axis(study)
    trials = sorted(known, key=lambda trial: (trial.values[axis], trial.number))
    trials = [trial for trial in trials if details[trial.number].layers]
    if not trials:
        raise ValueError(
            f"A heat map needs one trial with searched layers or more, but study {study.name!r} "
            f"has none in the store; run some trials first."
        )
    layers = [layer.name for layer in details[trials[0].number].layers]
    figure = make_subplots(
        rows=2,
        shared_xaxes=True,
        vertical_spacing=0.09,
        subplot_titles=("channels kept", "mean bits of a weight, pruned channels as 0"),
        figure=blank("Width and bits by layer", _subtitle(study, trials, axis), margin_t=96),
    )
    grid = _Grid(study, trials, details, layers)
    grid.add(figure, 1, _share, "channels kept", BLUE, {"tickformat": ".0%"}, (0.0, 1.0))
    ticks = {"tickvals": [math.log2(bits) for bits in BIT_TICKS], "ticktext": list(BIT_TICKS)}
    limits = (math.log2(LEAST_BITS), math.log2(BIT_TICKS[-1]))
    grid.add(figure, 2, _log_bits, "bits", VERMILLION, ticks, limits)
    _style(figure, study, axis)
    return figure


def _subtitle(study: StudyRecord, trials: Sequence[TrialRecord], axis: int) -> str:
    every = sum(is_comparable(trial, len(study.objectives)) for trial in study.trials)
    count = counted(len(trials), "trial")
    part = count if len(trials) >= every else f"{len(trials)} of {every:,} trials, the front first"
    objective = study.objectives[axis]
    sense = "largest last" if objective.maximize else "cheapest first"
    title = cost_title(objective.name, objective.unit)
    return f"{part}, by {title}, {sense}; * on the front"


def _share(layer: LayerRecord) -> float:
    return layer.outputs / max(layer.seed_outputs, 1)


def _log_bits(layer: LayerRecord) -> float:
    return math.log2(max(layer.mean_bits, LEAST_BITS))


class _Grid:
    """The cells of both maps."""

    def __init__(
        self,
        study: StudyRecord,
        trials: Sequence[TrialRecord],
        details: Mapping[int, Detail],
        layers: Sequence[str],
    ) -> None:
        best = {trial.number for trial in front(study)}
        self._columns = [f"{t.number}{'*' if t.number in best else ''}" for t in trials]
        self._layers = layers
        self._found = [{layer.name: layer for layer in details[t.number].layers} for t in trials]
        self._costs = [t.values[_cost_axis(study)] for t in trials]

    def add(
        self,
        figure: Figure,
        row: int,
        value: Callable[[LayerRecord], float],
        name: str,
        color: str,
        ticks: Mapping[str, object],
        limits: tuple[float, float],
    ) -> None:
        """Adds one map; a layer that a trial has not is an empty cell."""
        cells = [
            [None if name not in found else round(value(found[name]), 4) for found in self._found]
            for name in self._layers
        ]
        texts = [
            ["" if name not in found else _text(found[name]) for found in self._found]
            for name in self._layers
        ]
        figure.add_heatmap(
            x=self._columns,
            y=list(self._layers),
            z=cells,
            zmin=limits[0],
            zmax=limits[1],
            colorscale=[[0, "#FFFFFF"], [1, color]],
            xgap=1,
            ygap=1,
            name=name,
            customdata=texts,
            hovertemplate="trial %{x}, %{y}<br>%{customdata}<extra></extra>",
            colorbar={"len": 0.46, "y": 0.79 if row == 1 else 0.23, "thickness": 10, **ticks},
            row=row,
            col=1,
        )


def _text(layer: LayerRecord) -> str:
    bits = ", ".join(f"{count} at {bits} bit" for bits, count in layer.w_bits.items())
    return f"{layer.outputs} of {layer.seed_outputs} channels<br>{bits or 'float'}"


def _style(figure: Figure, study: StudyRecord, axis: int) -> None:
    objective = study.objectives[axis]
    figure.update_xaxes(type="category", showgrid=False, ticks="", tickangle=-90)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, automargin=True)
    title = cost_title(objective.name, objective.unit)
    figure.update_xaxes(title_text=f"trial, by {title}", row=2)
    figure.update_annotations(font_size=12, x=0, xanchor="left")
