"""optuna-dashboard with our notes, files and front; the only view that knows Optuna.

The dashboard has no login: whoever reaches its port can delete a study. It therefore listens on the
loopback address unless told otherwise, and asks for a token then.
"""

from __future__ import annotations

import errno
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from plinio_sweep.view.guard import check_token, guarded
from plinio_sweep.view.mended import LATE_FILES, Attributes, mend
from plinio_sweep.view.note import Beside, note

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    import optuna
    from optuna.artifacts import FileSystemArtifactStore
    from optuna.storages import RDBStorage
    from optuna.study._frozen import FrozenStudy
    from optuna.trial import FrozenTrial

    from plinio_sweep.sweep.result import StudyRecord, TrialResult
    from plinio_sweep.view.board import Board, Look

# Of a trial's artefact, what a person reads; weights stay in the artefact itself.
FILES = ("architecture.json", "report.json")

PLOTS = "dashboard:plot_data:"  # of the names of attributes that hold plots
RUNS = "/mlflow/runs/"  # of the addresses that lead to a run in MLflow

# How long a page waits for a worker's write to SQLite to end [seconds].
SQLITE_TIMEOUT = 60


def _artifact_store(root: Path) -> FileSystemArtifactStore:
    from optuna.artifacts import FileSystemArtifactStore

    root.mkdir(parents=True, exist_ok=True)
    return FileSystemArtifactStore(root)


def without_user(url: str) -> str:
    """A URL without the name and the password in it, for links.

    >>> without_user("https://me:secret@tracking.example:5000/there")
    'https://tracking.example:5000/there'
    """
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class DashboardAnnotator:
    """Writes the note and the files that the dashboard shows beside a trial.

    Args:
        artifact_root: Folder of the files.
        tracking: URI of MLflow; a link to a run leads there if it is a server, else to `serve`.

    Raises:
        ImportError: optuna-dashboard is not installed.
    """

    def __init__(self, artifact_root: Path, tracking: str = "") -> None:
        from optuna_dashboard import save_note

        self._save_note: Callable[[optuna.Trial, str], None] = save_note
        self._store = _artifact_store(artifact_root)
        server = tracking.startswith(("http://", "https://"))
        self._runs = f"{without_user(tracking).rstrip('/')}/#/runs/" if server else RUNS

    def annotate(self, trial: optuna.Trial, result: TrialResult, folder: Path) -> None:
        """Adds the note of `trial`, and those of the known files that `folder` has."""
        from optuna.artifacts import upload_artifact
        from optuna_dashboard.artifact import get_artifact_path

        files = {}
        for path in (folder / name for name in FILES):
            if path.is_file():
                file = upload_artifact(
                    artifact_store=self._store, file_path=str(path), study_or_trial=trial
                )
                files[path.name] = get_artifact_path(trial, file)
        run = trial.user_attrs.get("run", "")
        beside = Beside(
            number=trial.number,
            losses=_losses(trial),
            run=run,
            run_link=f"{self._runs}{run}",
            files=files,
        )
        self._save_note(trial, note(trial.params, result, beside))

    def keep(self, study: optuna.Study, number: int, path: Path) -> None:
        """Adds a file to a trial that is done already; one of that name stays as it is."""
        trial = study.get_trials(deepcopy=False)[number]
        prefix = f"{LATE_FILES}{trial._trial_id}:"
        attrs = study._storage.get_study_system_attrs(study._study_id)
        late = [json.loads(text) for key, text in attrs.items() if key.startswith(prefix)]
        if any(file and file["filename"] == path.name for file in late):
            return
        # The name follows from what it is of: workers that are at it twice write the same.
        file = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{study.study_name}/{number}/{path.name}"))
        with path.open("rb") as content:
            self._store.write(file, content)
        meta = {
            "artifact_id": file,
            "filename": path.name,
            "mimetype": "application/octet-stream",
            "encoding": None,
        }
        # Where the dashboard looks, too: nothing can be added to what a finished trial has itself.
        study._storage.set_study_system_attr(study._study_id, prefix + file, json.dumps(meta))


def _losses(trial: optuna.Trial) -> dict[int, str]:
    """Attempts before this one, and how each ended."""
    numbers = trial.user_attrs.get("retry_of", ())
    if not numbers:
        return {}
    every = trial.study.get_trials(deepcopy=False)
    return {number: every[number].user_attrs.get("lost", "") for number in numbers}


def save_panels(study: optuna.Study, record: StudyRecord, look: Look) -> None:
    """Puts the panels on the study's page, in place of earlier ones.

    Args:
        study: That gets them.
        record: The same, as it was read.
        look: Finds the layers of a trial.
    """
    from optuna_dashboard import save_plotly_graph_object

    from plinio_sweep.view.board import details_of
    from plinio_sweep.view.panels.every import panels

    for name, figure in panels(record, details_of(record, look)).items():
        save_plotly_graph_object(study, figure, graph_object_id=name)


def _displayed(trial: FrozenTrial) -> FrozenTrial:
    """`trial` with its constraints where optuna-dashboard 0.21 still looks for them."""
    values = list(trial.constraints.values())
    if values and "constraints" not in trial.system_attrs:
        trial.system_attrs = {**trial.system_attrs, "constraints": values}
    # Half of what a page of thousands of trials would load, and in the timeline and the lineage.
    if "result" in trial.user_attrs:
        result = {k: v for k, v in trial.user_attrs["result"].items() if k != "phases"}
        rest = {k: v for k, v in trial.user_attrs.items() if k != "nodes"}
        trial.user_attrs = {**rest, "result": result}
    return trial


def _with_panels(attrs: Mapping[str, Any], figures: Mapping[str, str]) -> dict[str, Any]:
    """Attributes of a study with `figures` in place of those that are stored."""
    stored = tuple(f"{PLOTS}{name}:" for name in figures)
    kept = {name: value for name, value in attrs.items() if not name.startswith(stored)}
    return kept | {f"{PLOTS}{name}:0": figure for name, figure in figures.items()}


def _display_storage(url: str, board: Board | None) -> RDBStorage:
    from optuna.storages import RDBStorage

    class DisplayStorage(RDBStorage):
        """The study's database, read as the dashboard expects it."""

        def get_all_studies(self) -> list[FrozenStudy]:
            studies = super().get_all_studies()
            for study in studies:
                if board is not None and study.study_name == board.name:
                    study.system_attrs = _with_panels(study.system_attrs, board.figures)
                study.system_attrs = Attributes(study.system_attrs)
            return studies

        def get_trial(self, trial_id: int) -> FrozenTrial:
            return _displayed(super().get_trial(trial_id))

        def get_all_trials(
            self, study_id: int, deepcopy: bool = True, states: Any = None
        ) -> list[FrozenTrial]:
            trials = super().get_all_trials(study_id, deepcopy=deepcopy, states=states)
            return [_displayed(trial) for trial in trials]

    wait = {"connect_args": {"timeout": SQLITE_TIMEOUT}} if url.startswith("sqlite") else None
    return DisplayStorage(
        url, engine_kwargs=wait, skip_compatibility_check=True, skip_table_creation=True
    )


def application(
    url: str, artifact_root: Path, board: Board | None = None, mlflow: str | None = None
) -> WSGIApplication:
    """The dashboard over an existing database, as a WSGI application.

    Args:
        url: SQLAlchemy URL of the database that holds the study.
        artifact_root: Folder that the `DashboardAnnotator` of the study was given.
        board: Panels of one study, in place of those that are stored.
        mlflow: Address of MLflow's page.
    """
    from optuna_dashboard import wsgi

    store = _artifact_store(artifact_root)
    mend()
    app: WSGIApplication = wsgi(_display_storage(url, board), artifact_store=store)
    return with_runs(app, mlflow)


def with_runs(app: WSGIApplication, mlflow: str | None) -> WSGIApplication:
    """`app` with the links to runs that notes have: where MLflow's page is, only `serve` knows."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        run = path.removeprefix(RUNS)
        if run == path or not run.isalnum():
            return app(environ, start_response)
        if mlflow is None:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            text = f"MLflow's page is not served: plinio-sweep serve --mlflow. The run is {run}.\n"
            return [text.encode()]
        start_response("303 See Other", [("Location", f"{mlflow.rstrip('/')}/#/runs/{run}")])
        return []

    return answer


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
    board: Board | None = None,
    mlflow: str | None = None,
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
        board: Panels of one study, in place of those that are stored.
        mlflow: Address of MLflow's page.
        on_ready: Is told the address of the page once the port is open.

    Raises:
        ValueError: The address is in use, or not one of this machine, or the token is missing.
    """
    check_token(host, token)
    app = application(url, artifact_root, board, mlflow)
    if token is not None:
        app = guarded(app, token)
    with _server(app, host, port) as server:
        try:
            on_ready(f"http://{host}:{server.server_port}")
            server.serve_forever()
        except KeyboardInterrupt:
            return
