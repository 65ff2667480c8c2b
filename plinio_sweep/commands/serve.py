"""`plinio-sweep serve`: the dashboard of a study."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from urllib.parse import urlsplit

import click
import optuna

from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.storage import explained, open_storage
from plinio_sweep.view import dashboard, guard
from plinio_sweep.view.front import front


def serve_study(path: Path, host: str, port: int, token: str | None) -> None:
    """Serves the dashboard until interrupted.

    Args:
        path: Of the study.
        host: Address to listen on.
        port: Port to listen on.
        token: That every request must bring; may be missing where only this machine comes.

    Raises:
        ValueError: When the study was never started, the port is taken, the token is missing or
            the extra is.
    """
    guard.check_token(host, token)
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
        token=token,
        on_ready=lambda url: _tell(record.name, url, token),
    )


def _tell(name: str, url: str, token: str | None) -> None:
    if not guard.is_loopback(urlsplit(url).hostname or ""):
        click.echo(
            "warning: whoever reaches this machine and knows the token may delete the study, and "
            "the network sees what is sent",
            err=True,
        )
    # The token itself is not printed: terminals are logged.
    page = url if token is None else f"{url}/?token=..., with your token,"
    click.echo(f"study {name}: {page} (Ctrl-C ends it)")
