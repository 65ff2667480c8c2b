"""Runs of MLflow as a study needs them: found by a key, created once, told of points and tags."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from plinio_sweep.store.curves import Point
from plinio_sweep.store.mlflow_model import quiet

PARENT = "mlflow.parentRunId"  # by which the pages of MLflow nest runs
KEY, LEVEL, TOLD = "run_key", "level", "told_at"
ARTIFACT = "artifact"  # key of what a complete trial, or a model, is of
ENDED = "ended"  # trials of the study
LAST_STUDY = "run-last-study"  # stands for the run of the study that began last
_PREFIX = "run-"  # of keys of ours
_FINAL = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")

Lock = Callable[[], AbstractContextManager[object]]


class RefusedError(ValueError):
    """The tracking store was there and does not take it, now or later."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """The runs of one experiment.

    Args:
        client: Of MLflow.
        experiment: Identifier of the experiment.
        study: Name of the study, as a tag of every run: filters don't reach into nested ones.
        lock: Keeps other processes from creating the same run.
    """

    client: Any
    experiment: str
    study: str
    lock: Lock

    def found_or_made(self, run: str | None, name: str, tags: Mapping[str, str], now: int) -> Any:
        """The run that is meant, created where there is none.

        Args:
            run: Identifier or key; a new run without a key when left out.
            name: Of a run that is created.
            tags: Of a run that is created.
            now: When such a run began [ms].
        """
        if run is None:
            return self.create("", name, tags, now)
        if (found := self.find(run)) is not None:
            return found
        with self.lock():
            return self.find(run) or self.create(run, name, tags, now)

    def create(self, key: str, name: str, tags: Mapping[str, str], now: int) -> Any:
        """A new run, to be found by `key`; `now` is when it began [ms]."""
        # In one request: a run without its tags would never be found again.
        marks = {"study": self.study, **tags}
        if key not in ("", LAST_STUDY):
            marks[KEY] = key
        return self.client.create_run(self.experiment, run_name=name, tags=marks, start_time=now)

    def find(self, run: str) -> Any:
        """The run that is meant by an identifier or by a key; nothing where there is none."""
        from mlflow.exceptions import MlflowException

        if is_key(run):
            return self.by_key(run)
        try:
            return self.client.get_run(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def by_key(self, key: str) -> Any:
        """The run that was created for `key`; nothing where there is none."""
        if key == LAST_STUDY:
            query, order = f"tags.{LEVEL} = 'study'", ["attributes.start_time DESC"]
        else:
            query, order = f"tags.{KEY} = '{key}'", ["attributes.start_time ASC"]
        found = self.client.search_runs([self.experiment], query, order_by=order)
        if key == LAST_STUDY:
            return found[0] if found else None
        for double in found[1:]:  # created by a request that was answered too late, and repeated
            self.client.delete_run(double.info.run_id)
        return found[0] if found else None

    def known(self, run: str) -> Any:
        """The run that is meant.

        Raises:
            RefusedError: When there is none.
        """
        found = self.find(run)
        if found is None:
            raise RefusedError(f"A run must be there to be told of, but {run} is not.")
        return found

    def log(self, run: str, points: Iterable[Point]) -> None:
        """Adds points to the curves of `run`."""
        from mlflow.entities import Metric

        found = [Metric(printable(p.name), float(p.value), moment(p.when), p.step) for p in points]
        if found:
            self.client.log_batch(run, metrics=found)

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        """Sets tags of `run`."""
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(*item) for item in tags.items()])


def printable(name: str) -> str:
    """`name` in the characters that MLflow allows in keys; its values may hold anything."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def new_key() -> str:
    """A key for a run, by which it is known before MLflow has given it an identifier."""
    return f"{_PREFIX}{uuid.uuid4().hex}"


def is_key(run: str) -> bool:
    """Whether `run` is a key of ours, no identifier of MLflow."""
    return run.startswith(_PREFIX)


def moment(when: float | None) -> int:
    """A time as MLflow has it [ms]."""
    return round(1000 * (time.time() if when is None else when))


def last_told(run: Any) -> int:
    """When something was told of `run` that may have changed its state [ms]."""
    return int(run.data.tags.get(TOLD, 0))


@contextmanager
def told() -> Iterator[None]:
    """Around what is told: in silence, and what the store does not take is told from the rest.

    Raises:
        RefusedError: When it was there, and refused.
    """
    with quiet():
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code in _FINAL:
                raise RefusedError(" ".join(str(error).split())[:300]) from error
            raise
