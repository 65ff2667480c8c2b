"""What every engine has in common: a group of workers that is run and stopped, and who opens it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from plinio_sweep.engine.local import Heard, Workers
from plinio_sweep.settings import Settings, load_settings, redacted
from plinio_sweep.sweep.result import StudyRecord

ENGINES = ("local", "slurm", "ray")


class Group(Protocol):
    """Workers on one study, on this machine or on a cluster."""

    errors: list[str]  # sentences, once `run` has ended

    def run(self) -> None:
        """Starts all workers and waits until they have ended."""

    def stop(self) -> None:
        """Asks all workers to put their trials back and end, and waits for them."""


@dataclass(frozen=True, kw_only=True)
class Post:
    """One worker, as a cluster is told of it: is sent and stored, so it holds no password.

    Args:
        study: Path of the study file, the same on every machine.
        worker: Its number among the workers of its group.
        arguments: Of `plinio_sweep.engine.worker`.
        threads: Of torch.
        device: What torch calls it.
        logs: Folder for what it prints.
        place: Where the results go, as `place_of` says it.
    """

    study: Path
    worker: int
    arguments: tuple[str, ...]
    threads: int
    device: str
    logs: Path
    place: str

    def open(self, heard: Heard) -> Workers:
        """The worker as a process of the machine that this is called on.

        Raises:
            ValueError: When the settings of that machine lead to another study.
        """
        here = place_of(load_settings(self.study))
        if here != self.place:
            raise ValueError(
                f"Workers must find the study where `run` did, but that was {self.place} and here "
                f"it is {here}; give both the same settings, in a file or in the environment."
            )
        return Workers(
            self.study,
            1,
            list(self.arguments),
            self.logs,
            heard,
            threads=self.threads,
            devices=(self.device,),
            first=self.worker,
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an engine is asked for.

    Args:
        study: Path of the study file.
        settings: Of the study.
        workers: How many.
        arguments: Further arguments of each worker.
        threads: Of each worker; the engine's own choice when left out.
        heard: Hears what happens, on the calling thread.
        record: Reads the study as it stands.
    """

    study: Path
    settings: Settings
    workers: int
    arguments: tuple[str, ...]
    threads: int | None
    heard: Heard
    record: Callable[[], StudyRecord]

    def posts(self, threads: int) -> list[Post]:
        """One for each worker."""
        devices = self.settings.devices
        return [
            Post(
                study=self.study.absolute(),
                worker=worker,
                arguments=self.arguments,
                threads=threads,
                device=devices[worker % len(devices)],
                logs=self.settings.logs,
                place=place_of(self.settings),
            )
            for worker in range(self.workers)
        ]


Engine = Callable[[Request], Group]


def open_engine(name: str, settings: Settings) -> Engine:
    """The engine of that name, ready to start workers.

    Raises:
        ValueError: When it is not installed, not here, or can't do with these settings.
    """
    if name == "slurm":
        from plinio_sweep.engine.slurm import open_slurm

        return open_slurm(settings)
    if name == "ray":
        from plinio_sweep.engine.ray import open_ray

        return open_ray(settings)
    if name != "local":
        raise ValueError(f"`engine` must be among {ENGINES}, but got {name!r}; correct the name.")
    return _open_workers


def _open_workers(request: Request) -> Workers:
    return Workers(
        request.study,
        request.workers,
        list(request.arguments),
        request.settings.logs,
        request.heard,
        threads=request.threads,
        devices=request.settings.devices,
    )


def place_of(settings: Settings) -> str:
    """Where the results of a study go, without a password."""
    return f"{redacted(settings.storage_url)} with files in {redacted(settings.artifacts_url)}"


def run_group(group: Group, stopping: Callable[[], None]) -> list[str] | None:
    """Runs workers to their end; what went wrong, or nothing at all after Ctrl-C.

    Args:
        group: As an engine gave it.
        stopping: Called before they are stopped.
    """
    try:
        with _terminable():
            group.run()
    except KeyboardInterrupt:
        stopping()
        group.stop()
        return None
    return group.errors


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is taken as Ctrl-C: so a cluster ends what it started, the only program at that."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
