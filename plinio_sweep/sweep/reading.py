"""Reads a stored study as plain data: with Optuna, without torch and without the study file."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.result import (
    SEED,
    BaselineRecord,
    Objective,
    PhaseRecord,
    State,
    StudyRecord,
    TrialRecord,
)
from plinio_sweep.sweep.storage import StorageError, explained, open_storage

_STATES: Mapping[optuna.trial.TrialState, State] = {
    optuna.trial.TrialState.COMPLETE: "complete",
    optuna.trial.TrialState.FAIL: "failed",
    optuna.trial.TrialState.PRUNED: "pruned",
    optuna.trial.TrialState.RUNNING: "running",
    optuna.trial.TrialState.WAITING: "waiting",
}


def read_study(
    path: Path, settings: Settings, name: str | None = None, named: Callable[[], str] | None = None
) -> StudyRecord:
    """The stored study of the file at `path`.

    Args:
        path: Of the study file.
        settings: Where it is stored.
        name: Of the study, for one whose file computes it.
        named: Finds that name, where `name` is left out and the file has started several studies;
            without it the last of them is taken.

    Raises:
        StorageError: When it was never started or its database can't be used.
    """
    written = name or study_name(path)
    storage = open_storage(settings, create=False)
    with explained(settings):
        names = [s.study_name for s in optuna.get_all_study_summaries(storage)]
        name = written or _name_by_file(path, storage, named)
        if name not in names:
            raise StorageError(
                f"The study must have been started, but the database holds {names} and not "
                f"{name or path.name!r}; start it with plinio-sweep run {path}."
            )
        record = record_of(optuna.load_study(study_name=name, storage=storage), settings.folder)
        storage.engine.dispose()  # a study file may read others: workers need their connections
        return record


def study_name(path: Path) -> str | None:
    """The name of the sweep in a study file, read without running it; nothing if computed.

    Raises:
        ValueError: When there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"There must be a study file at {path}, but is none; correct the path.")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Sweep":
            for word in node.keywords:
                if word.arg == "name" and isinstance(word.value, ast.Constant):
                    return str(word.value.value)
    return None


def _name_by_file(path: Path, storage: Any, named: Callable[[], str] | None) -> str | None:
    started = [
        summary.study_name
        for summary in optuna.get_all_study_summaries(storage)
        if summary.user_attrs.get("file") == path.name
    ]
    # To run the file takes seconds: only where it says what nothing else does.
    if len(started) > 1 and named is not None:
        return named()
    return started[-1] if started else None


def record_of(study: optuna.Study, folder: Path) -> StudyRecord:
    """What `study` holds by now."""
    attrs = study.user_attrs
    axes = tuple(Objective(**axis) for axis in attrs.get("objectives", []))
    every = study.get_trials(deepcopy=False)
    lost = {trial.number: trial.user_attrs["lost"] for trial in every if is_lost(trial)}
    trials = tuple(
        _trial(trial, attrs.get(f"test:{trial.number}", {}), lost)
        for trial in every
        if trial.number not in lost
    )
    baseline = _baseline(attrs, axes, SEED, SEED) if f"baseline:{SEED}" in attrs else None
    return StudyRecord(
        name=study.study_name,
        objectives=axes,
        limits=attrs.get("limits", {}),
        units=attrs.get("units", {}),
        target_trials=attrs.get("target", 0),
        trials=trials,
        baseline=baseline,
        baselines=tuple(
            _baseline(attrs, axes, name, family) for name, family in attrs.get("baselines", [])
        ),
        replicates=_replicates(attrs, axes, trials),
        touched=attrs.get("touched", ""),
        tested=sum(name.startswith("test:") for name in attrs),
        folder=str(folder),
        definition=attrs.get("definition", {}),
        run=attrs.get("run", ""),
    )


def is_lost(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether another trial has taken the place of `trial`.

    One that was ended by its worker, just when it was put back, bears the word all the same.
    """
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return "lost" in trial.user_attrs and trial.state not in ended


def _trial(
    trial: optuna.trial.FrozenTrial, test: Mapping[str, float], lost: Mapping[int, str]
) -> TrialRecord:
    attrs = trial.user_attrs
    result = attrs.get("result", {})
    return TrialRecord(
        number=trial.number,
        state=_STATES[trial.state],
        values=tuple(trial.values or ()),
        metrics={**result.get("metrics", {}), **test},
        costs=result.get("costs", {}),
        params=trial.params,
        feasible=all(value <= 0 for value in trial.constraints.values()),
        artifact=result.get("artifact", ""),
        reason=attrs.get("error", ""),
        losses={number: lost[number] for number in attrs.get("retry_of", ()) if number in lost},
        drift=tuple(attrs.get("drift", ())),
        seconds=result.get("seconds", 0.0),
        reused_epochs=result.get("reused_epochs", 0),
        nodes=tuple(attrs.get("nodes", ())),
        estimates=result.get("estimates", {}),
        phases=_phases(result),
        worker=attrs.get("worker", ""),
        begin=_moment(trial.datetime_start),
        end=_moment(trial.datetime_complete),
        run=attrs.get("run", ""),
    )


def _phases(stored: Mapping[str, Any]) -> tuple[PhaseRecord, ...]:
    return tuple(PhaseRecord(**phase) for phase in stored.get("phases", ()))


def _moment(time: datetime | None) -> float | None:
    """Optuna writes the local time of the worker."""
    return None if time is None else time.timestamp()


def is_tested(attrs: Mapping[str, Any], key: str, artifact: str) -> bool:
    """Whether the net filed under `key` was measured on test data, and no other of that name.

    Args:
        attrs: Of the study.
        key: A trial's number, a baseline's or a replicate's name.
        artifact: Of its result.
    """
    return f"test:{key}" in attrs and attrs.get(f"tested:{key}", artifact) == artifact


def _replicates(
    attrs: Mapping[str, Any],
    axes: tuple[Objective, ...],
    trials: tuple[TrialRecord, ...],
) -> tuple[BaselineRecord, ...]:
    """Those of trials and baselines as they are: a seed net that changed has none any more."""
    artifacts = {str(trial.number): trial.artifact for trial in trials}
    artifacts |= {
        key.removeprefix("baseline:"): attrs[key].get("artifact", "")
        for key in attrs
        if key.startswith("baseline:")
    }
    prefix = "replicate:"
    names = [key.removeprefix(prefix) for key in attrs if key.startswith(prefix)]
    families = {name: name.rpartition("#")[0] for name in names}
    return tuple(
        _baseline(attrs, axes, name, family, prefix)
        for name, family in sorted(families.items())
        if attrs[f"{prefix}{name}"]["of"] == artifacts.get(family)
    )


def _baseline(
    attrs: Mapping[str, Any],
    axes: tuple[Objective, ...],
    name: str,
    family: str,
    prefix: str = "baseline:",
) -> BaselineRecord:
    stored = attrs.get(f"{prefix}{name}", {})
    if "metrics" not in stored:
        return BaselineRecord(name=name, family=family, reason=stored.get("error", ""))
    test = attrs[f"test:{name}"] if is_tested(attrs, name, stored["artifact"]) else {}
    return BaselineRecord(
        name=name,
        family=family,
        values=values_of(axes, stored["metrics"], stored["costs"]),
        metrics={**stored["metrics"], **test},
        costs=stored["costs"],
        artifact=stored["artifact"],
        phases=_phases(stored),
    )


def excesses_of(
    limits: Mapping[str, float], metrics: Mapping[str, float], costs: Mapping[str, float]
) -> dict[str, float]:
    """How far each limit is passed, relative to it; 0 or less where it is kept.

    Relative, so that limits in bytes and in accuracy weigh alike.

    Raises:
        ArithmeticError: When what is limited is no number.
    """
    known = {**{k.removeprefix("validation_"): v for k, v in metrics.items()}, **costs}
    excesses: dict[str, float] = {}
    for name, bound in limits.items():
        bare = name.removeprefix("-")
        value = -known[bare] if name.startswith("-") else known[bare]
        if math.isnan(value):
            raise ArithmeticError(
                f"What is limited must be a number, but {bare} is {value}; check that metric or "
                f"cost."
            )
        excesses[name] = (value - bound) / max(abs(bound), 1e-12)
    return excesses


def values_of(
    axes: tuple[Objective, ...], metrics: Mapping[str, float], costs: Mapping[str, float]
) -> tuple[float, ...]:
    """The objectives of one result, in their order.

    Raises:
        ArithmeticError: When one is not finite.
    """
    values = tuple(
        float(metrics[f"validation_{axis.name}"] if axis.kind == "metric" else costs[axis.name])
        for axis in axes
    )
    for axis, value in zip(axes, values, strict=True):
        if not math.isfinite(value):
            raise ArithmeticError(
                f"Objectives must be finite, but {axis.name} is {value}; check that metric or cost."
            )
    return values
