"""`plinio-sweep serve`: the dashboard of a study."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import click
import optuna

from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.storage import explained, open_storage
from plinio_sweep.view import dashboard
from plinio_sweep.view.front import front


def serve_study(path: Path, host: str, port: int) -> None:
    """Serves the dashboard until interrupted.

    Raises:
        ValueError: When the study was never started, the port is taken or the extra is missing.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise ValueError(
            "The dashboard must be installed, but is not: pip install 'plinio-sweep[dashboard]'."
        )
    settings = load_settings(path)
    record = read_study(path, settings)
    storage = open_storage(settings, create=False)
    if len(record.objectives) > 1 and front(record):
        with explained(settings):
            study = optuna.load_study(study_name=record.name, storage=storage)
            dashboard.save_front(study, record)
    dashboard.serve(
        settings.storage_url,
        settings.folder / "dashboard",
        host=host,
        port=port,
        on_ready=lambda url: click.echo(f"study {record.name}: {url} (Ctrl-C ends it)"),
    )
