"""MLflow's own page beside the dashboard, as a process that ends with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plinio_sweep.settings import Settings
from plinio_sweep.store import tracking
from plinio_sweep.view.dashboard import without_user

HOST = "127.0.0.1"  # alone: MLflow asks nobody who he is
PATIENCE = 300.0  # until it answers [s]; half a minute on a machine with nothing else to do


@contextmanager
def mlflow_page(settings: Settings, port: int) -> Iterator[str]:
    """MLflow's page over the tracking store of `settings`; its address.

    Args:
        settings: Of the study.
        port: 0 takes a free one.

    Raises:
        ValueError: When there is no tracking store, MLflow is not installed, the port is taken, or
            MLflow does not come up.
    """
    if not settings.tracking_uri:
        raise ValueError(
            "MLflow's page must have a tracking store to show, but tracking is off; leave "
            "`--mlflow` out, or set `PLINIO_SWEEP_TRACKING`."
        )
    if settings.tracking_uri.startswith(("http://", "https://")):
        # It is a server already, with a page of its own.
        yield without_user(settings.tracking_uri)
        return
    if not tracking.available():
        raise ValueError(
            "MLflow must be installed for `--mlflow`, but is not: pip install "
            "'plinio-sweep[mlflow]'."
        )
    port = _free(port)
    settings.logs.mkdir(parents=True, exist_ok=True)
    log = settings.logs / "mlflow.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server"),
                *("--host", HOST, "--port", str(port), "--workers", "1"),
            ],
            env=_environment(settings),
            stdout=output,
            stderr=output,
            # Not in our group: a Ctrl-C is ours, and we end it.
            start_new_session=True,
        )
    try:
        _wait(process, f"http://{HOST}:{port}", log)
        yield f"http://{HOST}:{port}"
    finally:
        _end(process)


def _free(port: int) -> int:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((HOST, port))
        except OSError as error:
            raise ValueError(
                f"`mlflow-port` must be free on {HOST}, but {port} says {error.strerror!r}; choose "
                f"another one with --mlflow-port."
            ) from error
        return int(taken.getsockname()[1])


def _environment(settings: Settings) -> dict[str, str]:
    # MLflow starts its server by its bare name, which need not be on the path of who started us.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {
        **os.environ,
        "PATH": path,
        # Not as an argument: every user of the machine would see its password.
        "MLFLOW_BACKEND_STORE_URI": settings.tracking_uri,
        # A page to look at: no queues of jobs beside it, which are six more processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise ValueError(
        f"MLflow's page must come up, but did not within {PATIENCE:.0f} seconds or ended; read "
        f"{log}."
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and what it started: they are a session of their own."""
    for sign, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
