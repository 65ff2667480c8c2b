"""`plinio-sweep serve`: the dashboard of a study."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click
import optuna

from plinio_sweep.commands.mlflow_page import mlflow_page
from plinio_sweep.commands.panels import look_into
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.reading import read_study, record_of
from plinio_sweep.sweep.storage import explained, open_storage
from plinio_sweep.view import dashboard, guard
from plinio_sweep.view.board import Board


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where pages are, and who gets in.

    Args:
        host: Address to listen on.
        port: Port to listen on.
        token: That every request must bring; may be missing where only this machine comes.
        mlflow: Whether MLflow's page is served, too; on this machine alone.
        mlflow_port: Of that; 0 takes a free one.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    mlflow: bool = False
    mlflow_port: int = 0


def serve_study(path: Path, address: Address) -> None:
    """Serves the dashboard until interrupted.

    Raises:
        ValueError: When the study was never started, a port is taken or of no use, the token is
            missing or an extra is.
    """
    guard.check_token(address.host, address.token)
    if address.mlflow_port and not address.mlflow:
        raise ValueError(
            f"`--mlflow-port` must go with `--mlflow`, but got {address.mlflow_port} alone; add "
            f"`--mlflow`, or leave the port out."
        )
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise ValueError(
            "The dashboard must be installed, but is not: pip install 'plinio-sweep[dashboard]'."
        )
    settings = load_settings(path)
    record = read_study(path, settings, named=lambda: load_study(path).name)
    storage = open_storage(settings, create=False)
    with explained(settings), ExitStack() as stack:
        study = optuna.load_study(study_name=record.name, storage=storage)
        board = Board(record.name, lambda: record_of(study, settings.folder), look_into(settings))
        page = None
        if address.mlflow:
            page = stack.enter_context(mlflow_page(settings, address.mlflow_port))
        stack.enter_context(board.kept_fresh())
        dashboard.serve(
            settings.storage_url,
            settings.folder / "dashboard",
            host=address.host,
            port=address.port,
            token=address.token,
            board=board,
            mlflow=page,
            on_ready=lambda url: _tell(record.name, url, address.token, page),
        )


def _tell(name: str, url: str, token: str | None, mlflow: str | None) -> None:
    local = guard.is_loopback(urlsplit(url).hostname or "")
    if not local:
        click.echo(
            "warning: whoever reaches this machine and knows the token may delete the study, and "
            "the network sees what is sent",
            err=True,
        )
    # The token itself is not printed: terminals are logged.
    page = url if token is None else f"{url}/?token=..., with your token,"
    click.echo(f"study {name}: {page} (Ctrl-C ends it)")
    if mlflow is not None:
        where = "" if local and token is None else ", on this machine alone: it asks for no token"
        click.echo(f"MLflow: {mlflow}{where}")
