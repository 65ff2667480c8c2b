"""optuna-dashboard with our notes, files and front; the only view that knows Optuna.

The dashboard has no login: whoever reaches its port can delete a study. It therefore listens on the
loopback address unless told otherwise, and asks for a token then.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinio_sweep.view.figure import front_figure
from plinio_sweep.view.guard import check_token, guarded
from plinio_sweep.view.report import cost_title, format_cost, format_metric, strengths

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer
    from wsgiref.types import WSGIApplication

    import optuna
    from optuna.artifacts import FileSystemArtifactStore
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

    from plinio_sweep.sweep.result import StudyRecord, TrialResult

Rows = Sequence[tuple[str, ...]]

# Of a trial's artefact, what a person reads; weights stay in the artefact itself.
FILES = ("architecture.json", "report.json")

# How long a page waits for a worker's write to SQLite to end [seconds].
SQLITE_TIMEOUT = 60


def _artifact_store(root: Path) -> FileSystemArtifactStore:
    from optuna.artifacts import FileSystemArtifactStore

    root.mkdir(parents=True, exist_ok=True)
    return FileSystemArtifactStore(root)


class DashboardAnnotator:
    """Writes the note and the files that the dashboard shows beside a trial.

    Raises:
        ImportError: optuna-dashboard is not installed.
    """

    def __init__(self, artifact_root: Path) -> None:
        from optuna_dashboard import save_note

        self._save_note: Callable[[optuna.Trial, str], None] = save_note
        self._store = _artifact_store(artifact_root)

    def annotate(self, trial: optuna.Trial, result: TrialResult, folder: Path) -> None:
        """Adds the note of `trial`, and those of the known files that `folder` has."""
        from optuna.artifacts import upload_artifact

        self._save_note(trial, note(trial.params, result, trial.user_attrs.get("retry_of", ())))
        for path in (folder / name for name in FILES):
            if path.is_file():
                upload_artifact(
                    artifact_store=self._store, file_path=str(path), study_or_trial=trial
                )


def _table(header: tuple[str, ...], rows: Rows) -> str:
    rule = tuple("---" for _ in header)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _cost_rows(result: TrialResult) -> Rows:
    rows = []
    for name, cost in result.costs.items():
        unit = result.units.get(name, "")
        searched = format_cost(result.estimates[name], unit) if name in result.estimates else ""
        rows.append((cost_title(name, unit), unit, format_cost(cost, unit), searched))
    return rows


def _layer_rows(result: TrialResult) -> Rows:
    layers: Mapping[str, Mapping[str, int]] = result.architecture.get("layers", {})
    return [
        (f"`{name}`", f"{kept['in']} of {kept['seed_in']}", f"{kept['out']} of {kept['seed_out']}")
        for name, kept in layers.items()
    ]


def _kernel_rows(result: TrialResult) -> Rows:
    layers: Mapping[str, Mapping[str, int]] = result.architecture.get("layers", {})
    return [
        (f"`{name}`", f"{kept['taps']} of {kept['seed_taps']}", str(kept["dilation"]))
        for name, kept in layers.items()
        if "taps" in kept
    ]


def _bit_rows(result: TrialResult) -> Rows:
    layers: Mapping[str, Mapping[str, Any]] = result.architecture.get("layers", {})
    return [
        (
            f"`{name}`",
            ", ".join(f"{count} at {bits} bit" for bits, count in kept["w_bits"].items()),
            "float" if kept["x_bits"] is None else f"{kept['x_bits']} bit",
        )
        for name, kept in layers.items()
        if "w_bits" in kept
    ]


def note(params: Mapping[str, Any], result: TrialResult, retry_of: Sequence[int] = ()) -> str:
    """A trial in Markdown: the order of its methods, what it came to, and its layers.

    A table without rows is left out.

    Args:
        params: Of the trial.
        result: What it came to.
        retry_of: Trials that were lost before it; why is said on their own pages.
    """
    stages = [(f"`{stage}`", f"{value:.3g}") for stage, value in strengths(params).items()]
    metrics = [(name.replace("_", " "), format_metric(v)) for name, v in result.metrics.items()]
    tables: tuple[tuple[tuple[str, ...], Rows], ...] = (
        (("method", "strength"), stages),
        (("metric", "value"), metrics),
        (("cost", "unit", "exported net", "as searched"), _cost_rows(result)),
        (("layer", "input channels", "output channels"), _layer_rows(result)),
        (("kernel", "taps", "dilation"), _kernel_rows(result)),
        (("rounded", "output channels", "input"), _bit_rows(result)),
    )
    order = f"**order** `{params['order']}`" if "order" in params else ""
    before = ", ".join(map(str, retry_of))
    again = f"**attempt** {len(retry_of) + 1}, lost before: {before}" if retry_of else ""
    written = [order, again, *(_table(header, rows) for header, rows in tables if rows)]
    return "\n\n".join(filter(None, written))


def save_front(study: optuna.Study, record: StudyRecord) -> None:
    """Puts the picture of the front on the study's page, in place of an earlier one.

    Raises:
        ValueError: The study has fewer than two objectives, or no complete trial.
    """
    from optuna_dashboard import save_plotly_graph_object

    save_plotly_graph_object(study, front_figure(record), graph_object_id="front")


def _with_constraints(trial: FrozenTrial) -> FrozenTrial:
    """`trial` with its constraints where optuna-dashboard 0.21 still looks for them."""
    values = list(trial.constraints.values())
    if values and "constraints" not in trial.system_attrs:
        trial.system_attrs = {**trial.system_attrs, "constraints": values}
    return trial


def _display_storage(url: str) -> RDBStorage:
    from optuna.storages import RDBStorage

    class DisplayStorage(RDBStorage):
        """The study's database, read as the dashboard expects it."""

        def get_trial(self, trial_id: int) -> FrozenTrial:
            return _with_constraints(super().get_trial(trial_id))

        def get_all_trials(
            self, study_id: int, deepcopy: bool = True, states: Any = None
        ) -> list[FrozenTrial]:
            trials = super().get_all_trials(study_id, deepcopy=deepcopy, states=states)
            return [_with_constraints(trial) for trial in trials]

    wait = {"connect_args": {"timeout": SQLITE_TIMEOUT}} if url.startswith("sqlite") else None
    return DisplayStorage(
        url, engine_kwargs=wait, skip_compatibility_check=True, skip_table_creation=True
    )


def application(url: str, artifact_root: Path) -> WSGIApplication:
    """The dashboard over an existing database, as a WSGI application.

    Args:
        url: SQLAlchemy URL of the database that holds the study.
        artifact_root: Folder that the `DashboardAnnotator` of the study was given.
    """
    from optuna_dashboard import wsgi

    store = _artifact_store(artifact_root)
    app: WSGIApplication = wsgi(_display_storage(url), artifact_store=store)
    return app


def _server(app: WSGIApplication, host: str, port: int) -> WSGIServer:
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    class Server(ThreadingMixIn, WSGIServer):
        """One thread a request: a page asks for many things at once."""

        daemon_threads = True

    class Handler(WSGIRequestHandler):
        """Serves without a line in the terminal for every request."""

        def log_message(self, format: str, *args: Any) -> None:
            pass

    try:
        return make_server(host, port, app, server_class=Server, handler_class=Handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"`port` must be free on {host}, but {port=} is in use; choose another one with "
                f"--port."
            ) from error
        raise ValueError(
            f"`host` and `port` must be open to this program, but {host}:{port} says "
            f"{error.strerror!r}; choose others with --host and --port."
        ) from error


def serve(
    url: str,
    artifact_root: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    token: str | None = None,
    on_ready: Callable[[str], None],
) -> None:
    """Serves the dashboard until it is interrupted.

    Args:
        url: SQLAlchemy URL of the database that holds the study.
        artifact_root: Folder that the `DashboardAnnotator` of the study was given.
        host: Address to listen on. Any other than the loopback one opens the study to all who can
            reach it, for reading and for deleting.
        port: Port to listen on; 0 takes a free one.
        token: That every request must bring; needed for other hosts than the loopback one.
        on_ready: Is told the address of the page once the port is open.

    Raises:
        ValueError: The address is in use, or not one of this machine, or the token is missing.
    """
    check_token(host, token)
    app = application(url, artifact_root)
    if token is not None:
        app = guarded(app, token)
    with _server(app, host, port) as server:
        try:
            on_ready(f"http://{host}:{server.server_port}")
            server.serve_forever()
        except KeyboardInterrupt:
            return
