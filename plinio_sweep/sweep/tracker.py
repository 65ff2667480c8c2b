"""What a study tells of its trials while it runs. Implemented by the leaves (MLflow, dashboard)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import optuna
    from torch import Tensor, nn

    from plinio_sweep.sweep.result import TrialResult


class Tracker(Protocol):
    """One run a trial in some tracking store. Methods may raise; a trial never depends on them."""

    def start(self, number: int, params: Mapping[str, str | float], run: str | None) -> str:
        """Opens the run of a trial, or re-opens `run` for a trial that is tried again; its id."""
        ...

    def finish(self, run: str, result: TrialResult, folder: Path) -> None:
        """Records a complete trial: `folder` is its artefact."""
        ...

    def keep(
        self,
        run: str,
        net: nn.Module,
        example: tuple[Tensor, ...],
        metrics: Mapping[str, float],
    ) -> None:
        """Records a trial of the front: the exported `net`, and its `metrics` on test data."""
        ...

    def fail(self, run: str, reason: str, *, lost: bool = False) -> None:
        """Records that a trial failed, or was `lost` with its worker, and why."""
        ...


class Annotator(Protocol):
    """Writes what people read beside a trial into the study's own database, before `tell`."""

    def annotate(self, trial: optuna.Trial, result: TrialResult, folder: Path) -> None:
        """Adds the note and the files of one trial."""
        ...

    def keep(self, study: optuna.Study, number: int, path: Path) -> None:
        """Adds the file at `path` to a trial of the front, which is done already."""
        ...
