"""The panels of a study that is served, drawn anew while it runs.

They live in the memory of who serves them: nothing is written, so no worker pays for them, and no
page ever reads half a figure. What `run` stored at its end is what other dashboards show.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from plinio_sweep.sweep.detail import Detail
from plinio_sweep.sweep.result import StudyRecord, TrialRecord
from plinio_sweep.view.panels.every import panels
from plinio_sweep.view.panels.heatmap import heatmap_trials

SHARE = 0.1  # of a core that drawing may take, so that pages are answered meanwhile

Look = Callable[[TrialRecord], Detail | None]


def details_of(record: StudyRecord, look: Look) -> dict[int, Detail]:
    """Layers of the trials that are drawn, as far as they are in the store."""
    found = {trial.number: look(trial) for trial in heatmap_trials(record)}
    return {number: detail for number, detail in found.items() if detail is not None}


class Board:
    """What the page of one study shows beside that of the dashboard.

    Args:
        name: Of the study.
        read: Reads it.
        look: Finds the layers of a trial; asked once for each.
        pause: Least time between two looks at the study [s].
    """

    def __init__(
        self, name: str, read: Callable[[], StudyRecord], look: Look, *, pause: float = 2.0
    ) -> None:
        self.name = name
        self._read, self._look, self._pause = read, look, pause
        self._details: dict[str, Detail | None] = {}  # by key, which says what is in it
        self._record: StudyRecord | None = None
        self._figures: Mapping[str, str] = {}
        self._stop = threading.Event()

    @property
    def figures(self) -> Mapping[str, str]:
        """Plotly's JSON of every panel, by its name."""
        return self._figures

    def refresh(self) -> bool:
        """Draws the panels where the study has changed; whether it has."""
        record = self._read()
        if record == self._record:
            return False
        drawn = panels(record, details_of(record, self._known))
        # At once: a page that asks meanwhile gets the former ones, all of them.
        self._figures = {name: figure.to_json() for name, figure in drawn.items()}
        self._record = record
        return True

    def _known(self, trial: TrialRecord) -> Detail | None:
        if trial.artifact not in self._details:
            self._details[trial.artifact] = self._look(trial)
        return self._details[trial.artifact]

    @contextmanager
    def kept_fresh(self) -> Iterator[None]:
        """Looks at the study every few seconds, beside what the block does."""
        thread = threading.Thread(target=self._watch, name="panels", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()

    def _watch(self) -> None:
        while not self._stop.is_set():
            begin = time.monotonic()
            # The database may be away for a while: what is drawn stays until it is back.
            with suppress(Exception):
                self.refresh()
            spent = time.monotonic() - begin
            self._stop.wait(max(self._pause, spent / SHARE))
