"""All panels of a study that there is something to draw for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from plinio_sweep.sweep.detail import Detail
from plinio_sweep.sweep.result import StudyRecord
from plinio_sweep.view.panels.heatmap import heatmap_figure
from plinio_sweep.view.panels.lineage import lineage_figure
from plinio_sweep.view.panels.progress import progress_figure
from plinio_sweep.view.panels.strengths import strengths_figure
from plinio_sweep.view.panels.style import Figure
from plinio_sweep.view.panels.timeline import timeline_figure

# In the order of a page.
PANELS = ("front", "layers", "strengths", "progress", "workers")


def panels(study: StudyRecord, details: Mapping[int, Detail]) -> dict[str, Figure]:
    """The panels by name, in the order of a page; without those that have nothing to show yet.

    Args:
        study: As it stands.
        details: Of trials, by number, for the heat map: of those that `heatmap_trials` names.
    """
    drawers: Mapping[str, Callable[[StudyRecord], Figure]] = {
        "front": lineage_figure,
        "layers": partial(heatmap_figure, details=details),
        "strengths": strengths_figure,
        "progress": progress_figure,
        "workers": timeline_figure,
    }
    found = {}
    for name in PANELS:
        try:
            found[name] = drawers[name](study)
        except ValueError:  # says what is missing, which a page does without
            continue
    return found
