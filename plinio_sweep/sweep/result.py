"""Results of a sweep as plain data: readable without torch, Optuna or the study file.

`view` and `store` know no other form of a trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from plinio_sweep.train.history import Epoch

__all__ = [
    "SEED",
    "BaselineRecord",
    "Epoch",
    "Objective",
    "PhaseRecord",
    "State",
    "StudyRecord",
    "TrialRecord",
    "TrialResult",
    "replicate_name",
]

SEED = "seed"  # what the seed net is called among the baselines
State = Literal["complete", "failed", "pruned", "running", "waiting"]


def replicate_name(key: str, number: int) -> str:
    """What the replicate `number`, from 1, of a trial or of a baseline is filed under.

    >>> replicate_name("3", 1), replicate_name(SEED, 2)
    ('3#1', 'seed#2')
    """
    return f"{key}#{number}"


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One axis of the front."""

    name: str  # without a sign: "accuracy", "size_bytes"
    maximize: bool
    kind: Literal["metric", "cost"]
    unit: str = ""  # "byte", "MAC", …; empty for a metric

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Optuna's word for the sense of this objective."""
        return "maximize" if self.maximize else "minimize"


@dataclass(frozen=True, kw_only=True)
class PhaseRecord:
    """One node of a trial's path: when it was come to, and whether it had to be trained."""

    name: str  # "warmup", "pit.search", "pit.finetune", "evaluation"
    key: str  # content key of what is stored
    begin: float  # [s] since 1970, of the worker's clock
    seconds: float  # that this trial took for it; of a cut one, since the last cut
    epochs: int
    reused: bool  # whether it was taken from the store instead of trained

    @property
    def trained_epochs(self) -> int:
        """Epochs that somebody had to train for it."""
        return 0 if self.reused else self.epochs


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What one plan came to. Metrics and costs are those of the exported net."""

    metrics: Mapping[str, float]  # "validation_accuracy": the split is part of the name
    costs: Mapping[str, float]  # "size_bytes": the unit is part of the name or of `units`
    estimates: Mapping[str, float]  # what the search believed at its end, same names as costs
    units: Mapping[str, str]  # unit of every cost
    architecture: Mapping[str, Any]  # JSON: stages with their decisions, layers with their widths
    layers: tuple[Mapping[str, Any], ...]  # cost report, one row a layer: {"name", "op", <cost>: …}
    history: tuple[Epoch, ...]
    artifact: str  # folder of the artefact, relative to the artefact store's root
    seconds: float
    integers: Mapping[str, Any] = field(default_factory=dict)  # how a quantised net was scored
    reused_epochs: int = 0  # of the history, taken from the store instead of trained
    phases: tuple[PhaseRecord, ...] = ()  # along the path


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial of a stored study."""

    number: int
    state: State
    values: tuple[float, ...] = ()  # in the order of the study's objectives; empty until complete
    metrics: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str | float] = field(default_factory=dict)  # "order", "pit.strength"
    feasible: bool = True
    artifact: str = ""
    reason: str = ""  # why it failed or was given up
    losses: Mapping[int, str] = field(default_factory=dict)  # attempts before, and their ends
    drift: tuple[str, ...] = ()  # changes of the study that were accepted before it began
    seconds: float = 0.0
    reused_epochs: int = 0  # taken from the store instead of trained
    nodes: tuple[str, ...] = ()  # content keys of its training, one after another
    estimates: Mapping[str, float] = field(default_factory=dict)  # as searched, of the costs
    phases: tuple[PhaseRecord, ...] = ()  # along its path; none in studies of earlier versions
    worker: str = ""  # that had it last
    begin: float | None = None  # [s] since 1970, of its last attempt
    end: float | None = None  # [s] since 1970
    run: str = ""  # its key in the tracking store


@dataclass(frozen=True, kw_only=True)
class BaselineRecord:
    """A fixed plan beside the trials: the float seed net, trained on, and those of the study.

    A replicate is one, too: a trial or the seed net, trained again from another seed; its family is
    the key of what it repeats. Without values it has not been trained yet, or failed.
    """

    name: str = SEED
    family: str = SEED  # series that it belongs to
    values: tuple[float, ...] = ()  # in the order of the study's objectives
    metrics: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    artifact: str = ""
    reason: str = ""  # why it failed
    phases: tuple[PhaseRecord, ...] = ()  # along its path; none in studies of earlier versions


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A stored study, read whole."""

    name: str
    objectives: tuple[Objective, ...]
    limits: Mapping[str, float]
    units: Mapping[str, str]
    target_trials: int
    trials: tuple[TrialRecord, ...]
    baseline: BaselineRecord | None = None  # the seed net
    baselines: tuple[BaselineRecord, ...] = ()  # of the study, in its order, beside the seed net
    replicates: tuple[BaselineRecord, ...] = ()  # of trials and of baselines
    touched: str = ""  # when test data were first looked at: UTC, as "2026-11-27T15:51:35+00:00"
    tested: int = 0  # nets that were measured on test data
    folder: str = ""  # the `.plinio-sweep` folder that holds the artefacts
    definition: Mapping[str, Any] = field(default_factory=dict)  # as it was started: JSON
    run: str = ""  # its key in the tracking store

    def count(self, state: State) -> int:
        """Number of trials in `state`."""
        return sum(trial.state == state for trial in self.trials)
