"""MLflow as a leaf: one run a trial, with its curves, its costs and its exported net.

The only file that imports mlflow, and only inside functions: the import takes seconds. Everything
goes through a client with explicit run identifiers, so neither the global tracking URI nor the
active run of the process is read or written.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
)
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from plinio_sweep.sweep.result import TrialResult

FILES = ("architecture.json", "report.json", "history.json")
"""Files of an artefact folder that are copied into the run, where present."""


def available() -> bool:
    """Whether mlflow is installed, found out without importing it."""
    return importlib.util.find_spec("mlflow") is not None


@contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what mlflow, alembic and torch.export say on their own account.

    They warn of deprecations inside themselves and log every migration, which no user of ours can
    act on. What goes wrong still raises.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # in here, for it warns; before the levels below, for it sets them

        loggers = [logging.getLogger(name) for name in (mlflow.__name__, "alembic", "torch")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


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


def _signed(tensors: Sequence[Tensor], name: str) -> np.ndarray | dict[str, np.ndarray]:
    """One array, or several under numbered names: the two forms that a signature has."""
    arrays = [tensor.detach().cpu().numpy() for tensor in tensors]
    if len(arrays) == 1:
        return arrays[0]
    return {f"{name}_{index}": array for index, array in enumerate(arrays)}


def _tensors(output: object) -> tuple[Tensor, ...]:
    """The output of a net as a flat tuple of tensors."""
    from torch import Tensor

    outputs = tuple(output) if isinstance(output, tuple | list) else (output,)
    tensors = tuple(item for item in outputs if isinstance(item, Tensor))
    if len(tensors) != len(outputs):
        kinds = ", ".join(sorted({type(item).__name__ for item in outputs}))
        raise TypeError(
            "the output of a net must be a tensor or a flat sequence of tensors to be signed, "
            f"but got {kinds}; return tensors to have the model logged."
        )
    return tensors


def _save_model(card: Any, net: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Writes `net` as an MLflow model folder without pickles, for any batch size."""
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    frozen = copy.deepcopy(net).cpu().eval()
    # torch.export takes a batch of one for a constant, so the example must hold two.
    inputs = tuple(
        torch.cat((item, item)) if item.ndim and len(item) == 1 else item
        for item in (item.detach().cpu() for item in example)
    )
    with torch.no_grad():
        outputs = _tensors(frozen(*inputs))
    arrays = [item.numpy() for item in inputs]
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # a failed export prints graphs
        mlflow.pytorch.save_model(
            frozen,
            path,
            mlflow_model=card,
            signature=infer_signature(_signed(inputs, "input"), _signed(outputs, "output")),
            input_example=arrays[0] if len(arrays) == 1 else tuple(arrays),
            # Given, because guessing them runs the net in a second process for several seconds.
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
            serialization_format="pt2",
        )


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
        with _creation_lock(uri), _quiet():
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=uri)
            self._experiment = experiment
            self._experiment_id = self._open_experiment(uri, artifact_root)

    def _open_experiment(self, uri: str, artifact_root: Path) -> str:
        """Identifier of the experiment, created where missing."""
        from mlflow.exceptions import MlflowException

        # Fixed for good at creation: relative, it would hang on the folder of the first worker.
        location = None if uri.startswith("http") else artifact_root.resolve().as_uri()
        try:  # rather than looking first: another worker may create it in between
            return str(self._client.create_experiment(self._experiment, location))
        except MlflowException as error:
            found = self._client.get_experiment_by_name(self._experiment)
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

        with _quiet():
            if run is None:
                tags = {"study": self._experiment, "trial": str(number)}
                name = f"trial {number}"
                opened = self._client.create_run(self._experiment_id, run_name=name, tags=tags)
            else:
                opened = self._client.get_run(run)
                self._client.update_run(run, status="RUNNING")
                if "reason" in opened.data.tags:  # of a failure that is now being mended
                    self._client.delete_tag(run, "reason")
            new = {_key(name): str(value) for name, value in params.items()}
            missing = [Param(*item) for item in new.items() if item[0] not in opened.data.params]
            identifier: str = opened.info.run_id
            self._client.log_batch(identifier, params=missing)
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

        with _quiet():
            tags = [RunTag(f"unit.{_key(name)}", unit) for name, unit in result.units.items()]
            self._client.log_batch(run, metrics=_measurements(result), tags=tags)
            for file in FILES:
                if (folder / file).is_file():
                    self._client.log_artifact(run, str(folder / file))
            self._client.set_terminated(run, status="FINISHED")

    def keep(
        self,
        run: str,
        net: nn.Module,
        example: tuple[Tensor, ...],
        metrics: Mapping[str, float],
    ) -> None:
        """Adds the model of a trial that is on the front to its run, and its test metrics.

        Not of every trial: writing a net as a graph takes seconds, some as long as it was trained.
        A net that can't be written so does not fail the run: the tag "model.skipped" then says why
        there is no model.

        Args:
            run: Identifier that `start` returned; it may have ended.
            net: The exported net; left as it is.
            example: Inputs of `net`, batch first.
            metrics: Of the test split.
        """
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000  # [ms]
        points = [Metric(_key(name), float(value), now, 0) for name, value in metrics.items()]
        with _quiet():
            self._client.log_batch(run, metrics=points)
            self._log_model(run, net, example)

    def _log_model(self, run: str, net: nn.Module, example: tuple[Tensor, ...]) -> None:
        """Logs `net` as the model of `run`, or the reason why that cannot be done.

        `mlflow.pytorch.log_model` would need the global tracking URI, and would leave a model
        marked FAILED behind; its steps through the client need and leave neither.
        """
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        card = Model(run_id=run)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "model")
            try:
                _save_model(card, net, example, path)
            except Exception as error:  # any code of the net may run here, and fail in any way
                reason = str(error).strip().partition("\n")[0]
                self._client.set_tag(run, "model.skipped", f"{type(error).__name__}: {reason}")
                return
            model = self._client.create_logged_model(
                self._experiment_id,
                name="model",
                source_run_id=run,
                params=self._client.get_run(run).data.params,
            )
            card.artifact_path = model.artifact_location
            card.model_uuid = card.model_id = model.model_id
            card.save(str(path / "MLmodel"))
            self._client.log_model_artifacts(model.model_id, str(path))
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])

    def fail(self, run: str, reason: str, *, lost: bool = False) -> None:
        """Ends `run` as FAILED, or as KILLED where the trial was `lost` with its worker."""
        with _quiet():
            self._client.set_tag(run, "reason", reason)
            self._client.set_terminated(run, status="KILLED" if lost else "FAILED")


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
