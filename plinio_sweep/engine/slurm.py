"""Workers as jobs of Slurm, through submitit: each job is one worker, anew whenever it is queued.

Slurm carries no events, so progress is read from the study's database. A job holds paths and
numbers only; Slurm hands it the environment of `run`, and in it the settings.

References:
    https://github.com/facebookincubator/submitit, docs/checkpointing.md; Slurm's `sbatch --signal`.
"""

from __future__ import annotations

import importlib.util
import signal
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plinio_sweep.engine.group import Engine, Post, Request
from plinio_sweep.engine.local import GRACE, RESTARTS, Workers
from plinio_sweep.engine.worker import STOPPED
from plinio_sweep.settings import Settings, redacted
from plinio_sweep.sweep.connect import DATABASE_ERRORS
from plinio_sweep.sweep.result import TrialRecord
from plinio_sweep.sweep.storage import sqlite_path

if TYPE_CHECKING:
    import submitit

PAUSE = 1.0  # [s] between two looks at jobs and database
MINUTES = 60  # of a job, unless the settings say otherwise; submitit's own 5 are soon over
TIMEOUTS = 1000  # after so many a job is not re-queued: each was an hour of training, no failure


class Job:
    """What a job does; submitit stores it and calls it on the machine that Slurm found."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._group: Workers | None = None

    def __call__(self) -> list[str]:
        """Runs the worker to its end; what went wrong."""
        try:
            self._group = group = self._post.open(lambda worker, event: None)
        except ValueError as error:
            return [str(error)]
        # Slurm tells every process of a job at once, others only this one: pass it on.
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: group.terminate())
        group.run()
        if group.stopped:
            # No result: whether it was cancelled or will come back is for Slurm to say.
            raise SystemExit(STOPPED)
        return group.errors

    def checkpoint(self) -> Any:
        """Puts the trial back; what is to be called when the job is started again."""
        from submitit.helpers import DelayedSubmission

        if self._group is not None:
            self._group.stop()
        return DelayedSubmission(Job(self._post))


class Jobs:
    """A group of workers, each a job.

    Args:
        executor: Of submitit.
        threads: Of each worker.
        request: What is to be run.
    """

    def __init__(self, executor: submitit.AutoExecutor, threads: int, request: Request) -> None:
        self._executor, self._request = executor, request
        self._posts = request.posts(threads)
        self._running: dict[Post, submitit.Job[list[str]]] = {}
        self._deaths: Counter[Post] = Counter()  # since a trial was last finished
        self._known = {trial.number for trial in _finished(request)}
        self.errors: list[str] = []

    def run(self) -> None:
        """Submits all jobs and waits until they have ended."""
        with self._executor.batch():  # one array of jobs
            self._running = {post: self._executor.submit(Job(post)) for post in self._posts}
        while self._running:
            time.sleep(PAUSE)
            self._tell()
            for post in [post for post, job in self._running.items() if job.done()]:
                self._ended(post, self._running.pop(post))

    def stop(self) -> None:
        """Cancels all jobs and waits until they have put their trials back."""
        for job in self._running.values():
            job.cancel(check=False)
        end = time.monotonic() + GRACE
        while time.monotonic() < end and not self._all_done():
            time.sleep(PAUSE)

    def _all_done(self) -> bool:
        return all(job.done(force_check=True) for job in self._running.values())

    def _tell(self) -> None:
        """Tells which trials have ended since the last time."""
        with suppress(*DATABASE_ERRORS):  # jobs go on without us: look again later
            for trial in _finished(self._request):
                if trial.number not in self._known:
                    self._known.add(trial.number)
                    self._deaths.clear()
                    event = {"event": trial.state, "trial": trial.number, "values": trial.values}
                    self._request.heard(0, {**event, "reason": trial.reason})

    def _ended(self, post: Post, job: submitit.Job[list[str]]) -> None:
        error = job.exception()
        if error is None:
            self.errors += [text for text in job.result() if text not in self.errors]
            return
        self._deaths[post] += 1
        lost = f"job {job.job_id} of worker {post.worker} ended as {job.state}"
        if "CANCELLED" in job.state:  # by somebody who means it
            self.errors.append(
                f"Jobs must be left to `run`, but {lost}; the same command goes on with the study."
            )
        elif self._deaths[post] < RESTARTS:
            self._request.heard(0, {"event": "warning", "text": f"{lost} and is submitted again"})
            self._running[post] = self._executor.submit(Job(post))
        else:
            last = " ".join(str(error).split())[-300:]
            self.errors.append(
                f"A job must not be lost {RESTARTS} times in a row, but {lost}: {last}; its log is "
                f"{job.paths.stderr}."
            )


def _finished(request: Request) -> list[TrialRecord]:
    return [t for t in request.record().trials if t.state in ("complete", "failed")]


def open_slurm(settings: Settings) -> Engine:
    """Submits jobs with what `[slurm]` of the settings says.

    Raises:
        ValueError: When submitit or Slurm is not there, or the settings don't suit it.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ValueError(
            "`--engine slurm` must have submitit, but it is not installed; pip install "
            "'plinio-sweep[slurm]'."
        )
    table = {"name": "plinio-sweep", "timeout_min": MINUTES, **settings.slurm}
    cluster = table.pop("cluster", "slurm")
    if cluster != "local" and sqlite_path(settings.storage_url) is not None:
        raise ValueError(
            f"`--engine slurm` must have a database that all machines reach, but `storage` is "
            f"{redacted(settings.storage_url)}; name postgresql+psycopg://user@host/database."
        )
    return partial(_open_jobs, _executor(settings.logs / "slurm", cluster, table))


def _executor(folder: Path, cluster: str, table: Mapping[str, Any]) -> submitit.AutoExecutor:
    from submitit import AutoExecutor

    try:
        executor = AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=TIMEOUTS)
        executor.update_parameters(**table)
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"`[slurm]` must hold what submitit's update_parameters takes here, but with "
            f"{sorted(table)} it says: {' '.join(str(error).split())}; correct that table."
        ) from error
    return executor


def _open_jobs(executor: submitit.AutoExecutor, request: Request) -> Jobs:
    cpus = request.settings.slurm.get("cpus_per_task")
    threads = request.threads or cpus or 1
    executor.update_parameters(cpus_per_task=cpus or threads)
    return Jobs(executor, threads, request)
