"""Stored trials: which there are, where they lie, and what they cost under other models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from costs import CostModel
from plinio_sweep.commands.models import resolve_models
from plinio_sweep.graph.count import CostReport, cost_of
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import Settings, load_settings, redacted
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.reading import read_study, values_of
from plinio_sweep.sweep.result import BaselineRecord, Objective, StudyRecord, TrialRecord
from plinio_sweep.sweep.stage import Store
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.sweep.trial import load_structure


def complete_trial(record: StudyRecord, number: int) -> TrialRecord:
    """The trial of this number.

    Raises:
        ValueError: When there is no such complete trial, with those that there are.
    """
    complete = [trial for trial in record.trials if trial.state == "complete"]
    for trial in complete:
        if trial.number == number:
            return trial
    numbers = [trial.number for trial in complete]
    known = f"{numbers}" if len(numbers) <= 12 else f"{numbers[:12]} and more"
    raise ValueError(
        f"`trial` must be a complete trial of study {record.name!r}, among {known}, but got "
        f"{number}; see plinio-sweep show."
    )


def folder_of(artifact: str, name: str, settings: Settings, store: Store) -> Path:
    """Where the artefact of the result called `name` lies, in the store of `settings`.

    Raises:
        ValueError: When it is gone or damaged.
    """
    folder = store.find(artifact)
    if folder is None:
        raise ValueError(
            f"The artefact of {name} must be in {redacted(settings.artifacts_url)}, but is gone; "
            f"name the store that holds it in `artifacts`, or remove the trial."
        )
    return folder


def stored_net(sweep: Sweep, path: Path, number: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The net of one trial of the study at `path`, without its weights, and an example input.

    Raises:
        ValueError: When there is no such complete trial, or its artefact is gone.
    """
    settings = load_settings(path)
    trial = complete_trial(read_study(path, settings, sweep.name), number)
    folder = folder_of(trial.artifact, f"trial {number}", settings, open_store(settings))
    return load_structure(sweep.nets, folder)


def rescored(
    path: Path, record: StudyRecord, names: tuple[str, ...], bits: str | None
) -> StudyRecord:
    """The study as if it had been run for other costs: metrics as they are, costs counted anew.

    Nothing is trained, and no data is loaded.

    Args:
        path: Of the study file.
        record: The stored study.
        names: Cost models; they take the place of the costs among the objectives.
        bits: Bit-widths of float layers, as "8,8"; nothing to have them as they are.

    Raises:
        ValueError: For an unknown model, or when an artefact is gone.
    """
    sweep, settings = load_study(path), load_settings(path)
    models = resolve_models(names, sweep.models, bits)
    axes = tuple(axis for axis in record.objectives if axis.kind == "metric") + tuple(
        Objective(name=name, maximize=False, kind="cost", unit=model.unit)
        for name, model in models.items()
    )
    reports: dict[str, CostReport] = {}
    store = open_store(settings)

    def costs_of(artifact: str, name: str, costs: Mapping[str, float]) -> dict[str, float]:
        if artifact not in reports:
            folder = folder_of(artifact, name, settings, store)
            reports[artifact] = _report(sweep, folder, models)
        return {**costs, **reports[artifact].totals}

    trials = []
    for trial in record.trials:
        if trial.state == "complete":
            costs = costs_of(trial.artifact, f"trial {trial.number}", trial.costs)
            values = values_of(axes, trial.metrics, costs)
            trial = replace(trial, costs=costs, values=values)
        trials.append(trial)

    def rescored(found: BaselineRecord) -> BaselineRecord:
        if not found.values:
            return found
        costs = costs_of(found.artifact, f"baseline {found.name}", found.costs)
        return replace(found, costs=costs, values=values_of(axes, found.metrics, costs))

    units = {**record.units, **{name: model.unit for name, model in models.items()}}
    return replace(
        record,
        objectives=axes,
        units=units,
        trials=tuple(trials),
        baseline=None if record.baseline is None else rescored(record.baseline),
        baselines=tuple(rescored(baseline) for baseline in record.baselines),
        replicates=tuple(rescored(replicate) for replicate in record.replicates),
    )


def _report(sweep: Sweep, folder: Path, models: Mapping[str, CostModel]) -> CostReport:
    net, example = load_structure(sweep.nets, folder)
    return cost_of(net, example, models)
