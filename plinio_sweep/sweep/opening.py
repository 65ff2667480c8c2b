"""A study in its database: created, or found to be the one that it was."""

from __future__ import annotations

import warnings
from dataclasses import asdict

import optuna

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.connect import patiently
from plinio_sweep.sweep.drift import check_drift, identity, note_accepted
from plinio_sweep.sweep.result import SEED
from plinio_sweep.sweep.storage import exclusive, explained, open_storage
from plinio_sweep.sweep.study import Sweep


def open_study(
    sweep: Sweep,
    settings: Settings,
    *,
    file: str = "",
    accept_drift: bool = False,
    known: bool = False,
) -> optuna.Study:
    """The study of `sweep`, created or continued.

    Args:
        sweep: What is searched.
        settings: Where.
        file: Name of the study file.
        accept_drift: Whether a definition that has changed is taken.
        known: Whether the database was there before, and is waited for if its server is away.

    Raises:
        StorageError: When the database can't be used.
        DriftError: When the stored study was defined otherwise, with the fields that differ.
    """
    storage = open_storage(settings, create=True, known=known)

    def attempt() -> optuna.Study:
        with exclusive(settings):
            return _opened(sweep, storage, file, accept_drift)

    with explained(settings):
        return patiently(attempt, settings.patience if known else 0.0)


def _opened(
    sweep: Sweep, storage: optuna.storages.RDBStorage, file: str, accept_drift: bool
) -> optuna.Study:
    axes = sweep.axes
    study = optuna.create_study(
        study_name=sweep.name,
        storage=storage,
        directions=[axis.direction for axis in axes],
        load_if_exists=True,
    )
    directions = [direction.name.lower() for direction in study.directions]
    # Before anything was trained all may change: a first run often ends at a net that has to
    # be corrected.
    begun = f"baseline:{SEED}" in study.user_attrs or study.get_trials(deepcopy=False)
    stored = study.user_attrs.get("definition") if begun else None
    note_accepted(study, check_drift(sweep, stored, directions, accept=accept_drift))
    attrs = {
        "definition": identity(sweep),
        "objectives": [asdict(axis) for axis in axes],
        "limits": dict(sweep.limits),
        "units": {name: model.unit for name, model in sweep.models.items()},
        "baselines": [[baseline.name, baseline.family] for baseline in sweep.baselines],
        "file": file,
    }
    for name, value in attrs.items():
        if study.user_attrs.get(name) != value:
            study.set_user_attr(name, value)
    with warnings.catch_warnings():
        # Optuna calls it experimental; the dashboard needs it to name the axes.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([axis.name for axis in axes])
    return study
