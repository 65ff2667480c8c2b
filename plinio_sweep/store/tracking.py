"""MLflow as a leaf: a run for the study, in it one a trial, in that one a stage.

Only this file and its neighbours `mlflow_model` and `registry` import mlflow, and only inside
functions: the import takes seconds. Everything goes through a client with explicit run identifiers,
so neither the global tracking URI nor the active run of the process is read or written.

Whatever is told may be told again, in part or whole: it is then there once all the same. For that
a run is found by a key of ours among its tags, points bear the time at which they were told first,
and what is told late never undoes what was told later.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinio_sweep.store.curves import Point, stages, trial_points
from plinio_sweep.store.mlflow_model import UnwritableError, quiet, upload, written
from plinio_sweep.store.mlflow_runs import (
    ARTIFACT,
    ENDED,
    LAST_STUDY,
    LEVEL,
    PARENT,
    TOLD,
    Lock,
    Runs,
    last_told,
    moment,
    printable,
    told,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plinio_sweep.settings import Settings
    from plinio_sweep.sweep.result import TrialResult

FILES = ("architecture.json", "report.json", "history.json")
"""Files of an artefact folder that are copied into the run, where present."""

# How long a server may keep a worker waiting, unless the user said so. Nothing is sent twice here:
# what was not told is kept and told later.
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
_CONNECT = 10  # [s] for a database server to take a connection


def available() -> bool:
    """Whether mlflow is installed, found out without importing it."""
    return importlib.util.find_spec("mlflow") is not None


def creation_lock(uri: str) -> AbstractContextManager[object]:
    """Keeps two processes from creating one schema or one run of a study in a database.

    A server sees to its schema itself.
    """
    if uri.startswith("postgresql"):
        return _advisory_lock(uri)
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


@contextmanager
def _advisory_lock(uri: str) -> Iterator[None]:
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:  # whose end sets it free, too
        connection.execute(sqlalchemy.text("select pg_advisory_lock(hashtext('plinio_sweep'))"))
        yield


def _hasty(uri: str) -> str:
    """`uri`, of a database server that is not waited for longer than for others."""
    if not uri.startswith("postgresql"):
        return uri
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    if "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(_CONNECT)})
    return url.render_as_string(hide_password=False)


def open_tracker(settings: Settings, experiment: str, study: str = "") -> MlflowTracker:
    """The tracking store of a study.

    Args:
        settings: Where it is.
        experiment: Name of the study.
        study: Key of the study's run; its last one when left out.
    """
    from plinio_sweep.sweep.storage import exclusive

    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    uri = _hasty(settings.tracking_uri)
    # Behind a server there is no lock: all workers share that of the study.
    lock = partial(exclusive, settings) if uri.startswith("http") else partial(creation_lock, uri)
    return MlflowTracker(uri, experiment, settings.folder / "mlflow", study=study, lock=lock)


class MlflowTracker:
    """One MLflow run a trial; implements `plinio_sweep.sweep.tracker.Tracker`.

    Args:
        uri: Where MLflow keeps its records: "sqlite:////absolute/mlflow.db" (a file of its own,
            never the study's), another database, or the address of a server.
        experiment: Name of the experiment, created where missing.
        artifact_root: Folder below which the experiment keeps its artefacts. A server keeps
            them itself, so this is not used with one.
        study: Key of the run that holds those of the trials; the last one when left out.
        lock: Keeps other processes from creating the same run; that of a database when left out.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        artifact_root: Path,
        *,
        study: str = "",
        lock: Lock | None = None,
    ) -> None:
        # Telemetry is on in mlflow unless told otherwise before its import.
        for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
            os.environ[name] = "true"
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._study_key, self._study_run = study or LAST_STUDY, ""
        # Before the import: a server that is away is found out at once.
        with creation_lock(uri), quiet():
            from mlflow import MlflowClient

            self.client = MlflowClient(tracking_uri=uri)
            self._experiment = experiment
            self.experiment_id = self._open_experiment(uri, artifact_root)
        self._runs = Runs(
            client=self.client,
            experiment=self.experiment_id,
            study=experiment,
            lock=lock or partial(creation_lock, uri),
        )

    def _open_experiment(self, uri: str, artifact_root: Path) -> str:
        """Identifier of the experiment, created where missing."""
        from mlflow.exceptions import MlflowException

        # Fixed for good at creation: relative, it would hang on the folder of the first worker.
        location = None if uri.startswith("http") else artifact_root.resolve().as_uri()
        try:  # rather than looking first: another worker may create it in between
            return str(self.client.create_experiment(self._experiment, location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise  # and a server that does not answer is not asked again
            found = self.client.get_experiment_by_name(self._experiment)
            if found is None:
                raise
            return str(found.experiment_id)

    # -- trials ---------------------------------------------------------------------------------

    def start(
        self,
        number: int,
        params: Mapping[str, str | float],
        run: str | None,
        *,
        when: float | None = None,
    ) -> str:
        """Opens the run "trial `number`", or opens `run` again and adds what it lacks.

        Parameters of a run never change in MLflow, so those that `run` has are left alone.

        Args:
            number: Of the trial.
            params: What was chosen.
            run: Identifier of a run, or a key of ours, whose run is created where missing.
            when: It began [s]; now when left out, as in all that follows.

        Returns:
            The identifier of the run.
        """
        from mlflow.entities import Param

        now = moment(when)
        with told():
            tags = {"trial": str(number), LEVEL: "trial", TOLD: str(now)}
            tags[PARENT] = self._study(now)
            opened = self._runs.found_or_made(run, f"trial {number}", tags, now)
            identifier: str = opened.info.run_id
            if last_told(opened) < now:
                self.client.update_run(identifier, status="RUNNING")
                self.client.set_tag(identifier, TOLD, str(now))
                if "reason" in opened.data.tags:  # of a failure that is now being mended
                    self.client.delete_tag(identifier, "reason")
            new = {printable(name): str(value) for name, value in params.items()}
            missing = [Param(*item) for item in new.items() if item[0] not in opened.data.params]
            if missing:
                self.client.log_batch(identifier, params=missing)
            return identifier

    def finish(
        self, run: str, result: TrialResult, folder: Path, *, when: float | None = None
    ) -> None:
        """Records a complete trial with its stages and ends its run.

        Args:
            run: What `start` returned or was given.
            result: What the trial came to. Its final values follow the last epoch by one step,
                so that they are the latest of curves of the same name.
            folder: Artefact of the trial; of its files, those named in `FILES` are copied.
            when: It ended [s].
        """
        now = moment(when)
        with told():
            opened = self._runs.known(run)
            identifier = opened.info.run_id
            if ARTIFACT not in opened.data.tags:  # else another worker came to it, too
                self._log_stages(opened, result)
                self._runs.log(identifier, trial_points(result, now / 1000))
                for file in FILES:
                    if (folder / file).is_file():
                        self.client.log_artifact(identifier, str(folder / file))
            tags = {f"unit.{printable(name)}": unit for name, unit in result.units.items()}
            self._runs.tag(identifier, {**tags, ARTIFACT: result.artifact, TOLD: str(now)})
            self.client.set_terminated(identifier, status="FINISHED", end_time=now)

    def keep(
        self,
        run: str,
        folder: Path,
        net: nn.Module,
        example: tuple[Tensor, ...],
    ) -> None:
        """Adds the model of a trial that is on the front to its run.

        Not of every trial: writing a net as a graph takes seconds, some as long as it was trained.
        A net that can't be written so does not fail the run: the tag "model.skipped" then says why
        there is no model.

        Args:
            run: What `start` returned or was given; it may have ended.
            folder: Artefact of the trial, whose name marks the model.
            net: The exported net; left as it is.
            example: Inputs of `net`, batch first.
        """
        with told():
            run = self._runs.known(run).info.run_id
            if self._has_model(run, folder.name):
                return
            try:
                with written(run, net, example) as model:
                    upload(self.client, self.experiment_id, model, mark=folder.name)
            except UnwritableError as error:
                self.client.set_tag(run, "model.skipped", str(error))

    def test(self, run: str, metrics: Mapping[str, float], *, when: float | None = None) -> None:
        """Adds the `metrics` of the test split to `run`, which may have ended.

        Args:
            run: What `start` returned or was given.
            metrics: With the split in their names.
            when: They were measured [s].
        """
        now = moment(when) / 1000
        with told():
            run = self._runs.known(run).info.run_id
            self._runs.log(run, [Point(name, value, now, 0) for name, value in metrics.items()])

    def _has_model(self, run: str, mark: str) -> bool:
        """Whether the model is there; what was left of it half written is removed."""
        query = f"source_run_id = '{run}' and tags.{ARTIFACT} = '{mark}'"
        found = self.client.search_logged_models([self.experiment_id], filter_string=query)
        outputs: Any = self.client.get_run(run).outputs
        linked = {output.model_id for output in outputs.model_outputs} if outputs else set()
        for model in found:
            if model.model_id not in linked:
                self.client.delete_logged_model(model.model_id)
        return any(model.model_id in linked for model in found)

    def run_of(self, number: int, run: str = "") -> str | None:
        """The run of trial `number`; nothing where the tracking store was away.

        Args:
            number: Of the trial.
            run: Key of the run; the last one that bears the number when empty.
        """
        if run:
            with told():
                opened = self._runs.find(run)
            return None if opened is None else str(opened.info.run_id)
        query = f"tags.study = '{self._experiment}' and tags.trial = '{number}'"
        with quiet():
            found = self.client.search_runs(
                [self.experiment_id], query, max_results=1, order_by=["attributes.start_time DESC"]
            )
        return str(found[0].info.run_id) if found else None

    def fail(self, run: str, reason: str, *, lost: bool = False, when: float | None = None) -> None:
        """Ends `run` as FAILED, or as KILLED where the trial was `lost` with its worker."""
        now = moment(when)
        with told():
            opened = self._runs.known(run)
            if last_told(opened) <= now:
                self._runs.tag(opened.info.run_id, {"reason": reason, TOLD: str(now)})
                status = "KILLED" if lost else "FAILED"
                self.client.set_terminated(opened.info.run_id, status=status, end_time=now)

    def measure(self, run: str, points: Iterable[Point]) -> None:
        """Adds points of curves to `run`."""
        with told():
            self._runs.log(self._runs.known(run).info.run_id, points)

    # -- the study ------------------------------------------------------------------------------

    def summarize(
        self,
        tags: Mapping[str, str],
        metrics: Mapping[str, float],
        *,
        done: bool,
        when: float | None = None,
    ) -> None:
        """Brings the run of the study up to date.

        Args:
            tags: What is searched, and how long.
            metrics: How far it is: how many trials are "complete" and "failed" is their step.
            done: Whether nothing is missing.
            when: It was so [s].
        """
        now = moment(when)
        step = int(metrics["complete"] + metrics["failed"])
        with told():
            run = self._study(now)
            opened = self.client.get_run(run)
            known = int(opened.data.tags.get(ENDED, -1))
            if step < known or last_told(opened) > now:
                return  # somebody saw more of it
            if step > known:
                self._runs.log(run, [Point(*item, now / 1000, step) for item in metrics.items()])
            self._runs.tag(run, {**tags, ENDED: str(step), TOLD: str(now)})
            if done and opened.info.status == "RUNNING":
                self.client.set_terminated(run, status="FINISHED", end_time=now)
            elif not done and opened.info.status != "RUNNING":
                self.client.update_run(run, status="RUNNING")

    def _study(self, now: int) -> str:
        """Identifier of the run of the study, which the first who asks creates."""
        if not self._study_run:
            name = f"study {self._experiment}"
            found = self._runs.found_or_made(self._study_key, name, {LEVEL: "study"}, now)
            self._study_run = found.info.run_id
        return self._study_run

    def _log_stages(self, trial: Any, result: TrialResult) -> None:
        parent = trial.info.run_id
        query = f"tags.`{PARENT}` = '{parent}'"
        found = self.client.search_runs([self.experiment_id], query)
        known = {run.data.tags.get("stage"): run for run in found}
        for phase, points in stages(result):
            tags = {PARENT: parent, LEVEL: "stage", "stage": phase.name, "key": phase.key}
            tags["reused"] = str(phase.reused).lower()
            name = f"{trial.info.run_name}: {phase.name}"
            run = known.get(phase.name) or self._runs.create("", name, tags, moment(phase.begin))
            if run.info.status == "RUNNING":
                self._runs.log(run.info.run_id, points)
                end = moment(phase.begin + phase.seconds)
                self.client.set_terminated(run.info.run_id, status="FINISHED", end_time=end)
