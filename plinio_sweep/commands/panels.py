"""Layers of stored trials, for the panels."""

from __future__ import annotations

from plinio_sweep.settings import Settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.detail import Detail, detail_of
from plinio_sweep.sweep.result import TrialRecord
from plinio_sweep.view.board import Look


def look_into(settings: Settings) -> Look:
    """What finds the layers of a trial in the store of `settings`; nothing where it is damaged."""
    store = open_store(settings)

    def look(trial: TrialRecord) -> Detail | None:
        try:
            folder = store.find(trial.artifact)
            return None if folder is None else detail_of(folder)
        except (OSError, ValueError):  # a picture does without; `run` mends it
            return None

    return look
