"""What a study tells of its trials while it runs. Implemented by the leaves (MLflow, dashboard)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import optuna
    from torch import Tensor, nn

    from plinio_sweep.sweep.result import StudyRecord, TrialResult


class Tracker(Protocol):
    """One run a trial in some tracking store. Methods may raise; a trial never depends on them."""

    def start(self, number: int, params: Mapping[str, str | float], run: str | None) -> str:
        """Opens the run of a trial, or re-opens `run` for a trial that is tried again; its id."""
        ...

    def finish(self, run: str, result: TrialResult, folder: Path) -> None:
        """Records a complete trial: `folder` is its artefact."""
        ...

    def keep(self, run: str, folder: Path, net: nn.Module, example: tuple[Tensor, ...]) -> None:
        """Records a trial of the front: the exported `net`; `folder` is its artefact."""
        ...

    def test(self, run: str, metrics: Mapping[str, float]) -> None:
        """Records the `metrics` of a trial on test data."""
        ...

    def fail(self, run: str, reason: str, *, lost: bool = False) -> None:
        """Records that a trial failed, or was `lost` with its worker, and why."""
        ...

    def progress(self, record: StudyRecord) -> None:
        """Records how far the study is."""
        ...


class Annotator(Protocol):
    """Writes what people read beside a trial into the study's own database, before `tell`."""

    def annotate(self, trial: optuna.Trial, result: TrialResult, folder: Path) -> None:
        """Adds the note and the files of one trial."""
        ...

    def keep(self, study: optuna.Study, number: int, path: Path) -> None:
        """Adds the file at `path` to a trial of the front, which is done already."""
        ...


def unkept(study: optuna.Study, keys: Iterable[str]) -> dict[str, str]:
    """Runs of those trials whose nets are not in the tracking store yet, by the trials' numbers.

    Args:
        study: As it is stored.
        keys: Numbers of trials; names of baselines, which have no runs, are passed over.
    """
    attrs, trials = study.user_attrs, study.get_trials(deepcopy=False)
    open_ = [key for key in keys if key.isdigit() and f"kept:{key}" not in attrs]
    runs = {key: trials[int(key)].user_attrs.get("run") for key in open_}
    return {key: run for key, run in runs.items() if run is not None}
