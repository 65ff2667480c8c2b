"""MLflow as a leaf: one run a trial, with its curves, its costs and its exported net.

Only this file and its neighbours `mlflow_model` and `registry` import mlflow, and only inside
functions: the import takes seconds. Everything goes through a client with explicit run identifiers,
so neither the global tracking URI nor the active run of the process is read or written.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinio_sweep.store.mlflow_model import UnwritableError, quiet, upload, written

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plinio_sweep.settings import Settings
    from plinio_sweep.sweep.result import TrialResult

FILES = ("architecture.json", "report.json", "history.json")
"""Files of an artefact folder that are copied into the run, where present."""


def available() -> bool:
    """Whether mlflow is installed, found out without importing it."""
    return importlib.util.find_spec("mlflow") is not None


def _creation_lock(uri: str) -> AbstractContextManager[object]:
    """Keeps two processes from creating one SQLite schema; servers see to that themselves."""
    if not uri.startswith("sqlite"):
        return nullcontext()
    from filelock import FileLock
    from sqlalchemy.engine import make_url

    database = make_url(uri).database
    if database is None:
        return nullcontext()
    file = Path(database).resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{file}.lock")


def _key(name: str) -> str:
    """`name` in the characters that MLflow allows in keys; its values may hold anything."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def open_tracker(settings: Settings, experiment: str) -> MlflowTracker:
    """The tracking store of a study."""
    return MlflowTracker(settings.tracking_uri, experiment, settings.folder / "mlflow")


class MlflowTracker:
    """One MLflow run a trial; implements `plinio_sweep.sweep.tracker.Tracker`.

    Args:
        uri: Where MLflow keeps its records: "sqlite:////absolute/mlflow.db" (a file of its own,
            never the study's), another database, or the address of a server.
        experiment: Name of the experiment, created where missing.
        artifact_root: Folder below which the experiment keeps its artefacts. A server keeps
            them itself, so this is not used with one.
    """

    def __init__(self, uri: str, experiment: str, artifact_root: Path) -> None:
        # Telemetry is on in mlflow unless told otherwise before its import.
        for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
            os.environ[name] = "true"
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        with _creation_lock(uri), quiet():
            from mlflow import MlflowClient

            self.client = MlflowClient(tracking_uri=uri)
            self._experiment = experiment
            self.experiment_id = self._open_experiment(uri, artifact_root)

    def _open_experiment(self, uri: str, artifact_root: Path) -> str:
        """Identifier of the experiment, created where missing."""
        from mlflow.exceptions import MlflowException

        # Fixed for good at creation: relative, it would hang on the folder of the first worker.
        location = None if uri.startswith("http") else artifact_root.resolve().as_uri()
        try:  # rather than looking first: another worker may create it in between
            return str(self.client.create_experiment(self._experiment, location))
        except MlflowException as error:
            found = self.client.get_experiment_by_name(self._experiment)
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
            return str(found.experiment_id)

    def start(self, number: int, params: Mapping[str, str | float], run: str | None) -> str:
        """Opens the run "trial `number`", or opens `run` again and adds what it lacks.

        Parameters of a run never change in MLflow, so those that `run` has are left alone.

        Returns:
            The identifier of the run.
        """
        from mlflow.entities import Param

        with quiet():
            if run is None:
                tags = {"study": self._experiment, "trial": str(number)}
                name = f"trial {number}"
                opened = self.client.create_run(self.experiment_id, run_name=name, tags=tags)
            else:
                opened = self.client.get_run(run)
                self.client.update_run(run, status="RUNNING")
                if "reason" in opened.data.tags:  # of a failure that is now being mended
                    self.client.delete_tag(run, "reason")
            new = {_key(name): str(value) for name, value in params.items()}
            missing = [Param(*item) for item in new.items() if item[0] not in opened.data.params]
            identifier: str = opened.info.run_id
            self.client.log_batch(identifier, params=missing)
            return identifier

    def finish(self, run: str, result: TrialResult, folder: Path) -> None:
        """Records a complete trial and ends its run.

        Args:
            run: Identifier that `start` returned.
            result: What the trial came to. Its final values follow the last epoch by one step,
                so that they are the latest of curves of the same name.
            folder: Artefact of the trial; of its files, those named in `FILES` are copied.
        """
        from mlflow.entities import RunTag

        with quiet():
            tags = [RunTag(f"unit.{_key(name)}", unit) for name, unit in result.units.items()]
            self.client.log_batch(run, metrics=_measurements(result), tags=tags)
            for file in FILES:
                if (folder / file).is_file():
                    self.client.log_artifact(run, str(folder / file))
            self.client.set_terminated(run, status="FINISHED")

    def keep(self, run: str, net: nn.Module, example: tuple[Tensor, ...]) -> None:
        """Adds the model of a trial that is on the front to its run.

        Not of every trial: writing a net as a graph takes seconds, some as long as it was trained.
        A net that can't be written so does not fail the run: the tag "model.skipped" then says why
        there is no model.

        Args:
            run: Identifier that `start` returned; it may have ended.
            net: The exported net; left as it is.
            example: Inputs of `net`, batch first.
        """
        with quiet():
            try:
                with written(run, net, example) as model:
                    upload(self.client, self.experiment_id, model)
            except UnwritableError as error:
                self.client.set_tag(run, "model.skipped", str(error))

    def test(self, run: str, metrics: Mapping[str, float]) -> None:
        """Adds the `metrics` of the test split to `run`, which may have ended."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000  # [ms]
        points = [Metric(_key(name), float(value), now, 0) for name, value in metrics.items()]
        with quiet():
            self.client.log_batch(run, metrics=points)

    def run_of(self, number: int) -> str | None:
        """The last run of trial `number`; nothing where the tracking store was away."""
        query = f"tags.study = '{self._experiment}' and tags.trial = '{number}'"
        with quiet():
            found = self.client.search_runs(
                [self.experiment_id], query, max_results=1, order_by=["attributes.start_time DESC"]
            )
        return str(found[0].info.run_id) if found else None

    def fail(self, run: str, reason: str, *, lost: bool = False) -> None:
        """Ends `run` as FAILED, or as KILLED where the trial was `lost` with its worker."""
        with quiet():
            self.client.set_tag(run, "reason", reason)
            self.client.set_terminated(run, status="KILLED" if lost else "FAILED")


def _measurements(result: TrialResult) -> list[Any]:
    """Every curve of `result`, and one step later its final values, as MLflow metrics."""
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000  # [ms]
    points: list[tuple[str, float, int]] = []
    for epoch in result.history:
        curves = {
            "train_loss": epoch.train_loss,
            "validation_loss": epoch.validation_loss,
            "strength": epoch.strength,
            **{f"validation_{name}": value for name, value in epoch.metrics.items()},
            **{f"cost.{name}": value for name, value in epoch.costs.items()},
        }
        points += [(name, value, epoch.step) for name, value in curves.items()]
    last = 1 + max((epoch.step for epoch in result.history), default=-1)
    final = {
        **result.metrics,
        **result.costs,
        **{f"estimate.{name}": value for name, value in result.estimates.items()},
    }
    points += [(name, value, last) for name, value in final.items()]
    return [Metric(_key(name), float(value), now, step) for name, value, step in points]
