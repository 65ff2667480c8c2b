"""Workers as actors of Ray: an actor runs one worker as a process of the machine that Ray found.

Ray only finds room and starts an actor again whose machine was lost; trials are shared out by the
study's database, as ever. Machines of a cluster don't have the environment of `run`: an actor is
given the settings in it as an argument, which Ray keeps in memory and shows nowhere.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from plinio_sweep.engine.group import Engine, Post, Request
from plinio_sweep.engine.local import GRACE, RESTARTS, Workers
from plinio_sweep.settings import PREFIX, Settings, redacted
from plinio_sweep.sweep.storage import sqlite_path

if TYPE_CHECKING:
    import ray

PAUSE = 0.5  # [s] for which an actor waits for something to tell
WORKER = "worker"  # the table of `[ray]` that is for actors
CALLS = 3  # at once in an actor: work, told, stop
# Of a Ray that is started here; it reads them when it is loaded, and its processes inherit them.
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # in other words: ports on the loopback only
    "RAY_USAGE_STATS_ENABLED": "0",
    # A worker that loses its actor puts its trial back by itself, if it is not killed at once.
    "RAY_kill_child_processes_on_worker_exit": "0",
}

Told = list[tuple[int, Mapping[str, Any]]]


class Actor:
    """What Ray starts on some machine."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._events: queue.SimpleQueue[tuple[int, Mapping[str, Any]]] = queue.SimpleQueue()
        self._group: Workers | None = None

    def work(self, folder: str, variables: Mapping[str, str]) -> list[str]:
        """Runs the worker to its end, in `folder`; what went wrong."""
        os.chdir(folder)  # to which paths in settings may be relative
        os.environ.update(variables)
        try:
            self._group = self._post.open(lambda *event: self._events.put(event))
        except ValueError as error:
            return [str(error)]
        self._group.run()
        return self._group.errors

    def told(self) -> Told:
        """What the worker said since the last call, as soon as it has said something."""
        try:
            found = [self._events.get(timeout=PAUSE)]
        except queue.Empty:
            return []
        while not self._events.empty():
            found.append(self._events.get())
        return found

    def stop(self) -> None:
        """Has the worker put its trial back and end, and waits for it."""
        if self._group is not None:
            self._group.stop()


class Actors:
    """A group of workers, each an actor."""

    def __init__(self, options: Mapping[str, Any], request: Request) -> None:
        import ray

        threads = request.threads or max(1, int(options.get("num_cpus", 1)))
        kind = ray.remote(Actor).options(
            **{"num_cpus": threads, "max_restarts": RESTARTS, **options}, max_concurrency=CALLS
        )
        self._request = request
        self._actors = {post.worker: kind.remote(post) for post in request.posts(threads)}
        self._awake: set[int] = set()  # those that have found room and answered
        self.errors: list[str] = []

    def run(self) -> None:
        """Listens to all workers until they have ended."""
        import ray

        mine = {k: v for k, v in os.environ.items() if k.startswith(PREFIX)}
        working = {self._work(a, mine): w for w, a in self._actors.items()}
        telling = {a.told.remote(): w for w, a in self._actors.items()}
        while working or telling:
            for done in ray.wait([*working, *telling])[0]:
                if done in working:
                    self._ended(working.pop(done), done)
                    continue
                worker = telling.pop(done)
                # Once more after its end: what it said last may have come meanwhile.
                if self._hear(done) or worker in working.values():
                    self._awake.add(worker)
                    telling[self._actors[worker].told.remote()] = worker

    def stop(self) -> None:
        """Has all workers put their trials back, then ends all actors."""
        import ray

        stops = [self._actors[worker].stop.remote() for worker in self._awake]
        if stops:
            ray.wait(stops, num_returns=len(stops), timeout=GRACE)
        for actor in self._actors.values():
            ray.kill(actor)

    def _work(self, actor: Any, variables: Mapping[str, str]) -> ray.ObjectRef[list[str]]:
        # Called again as often as its actor comes back: workers may be started any number of times.
        again = actor.work.options(max_task_retries=-1)
        return again.remote(os.getcwd(), variables)

    def _hear(self, done: ray.ObjectRef[Told]) -> bool:
        import ray

        try:
            found = ray.get(done)
        except ray.exceptions.RayError:
            time.sleep(PAUSE)  # its actor is lost: `work` tells whether it comes back
            return False
        for worker, event in found:
            self._request.heard(worker, event)
        return bool(found)

    def _ended(self, worker: int, done: ray.ObjectRef[list[str]]) -> None:
        import ray

        try:
            self.errors += [text for text in ray.get(done) if text not in self.errors]
        except ray.exceptions.RayError as error:
            last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            self.errors.append(
                f"An actor of Ray must last as long as its worker, but that of worker {worker} "
                f"was lost: {last.strip()}; its log is in {self._request.settings.logs}."
            )


def open_ray(settings: Settings) -> Engine:
    """Connects to Ray, or starts it on this machine, as `[ray]` of the settings says.

    Raises:
        ValueError: When Ray is not there, or the settings don't suit it.
    """
    if importlib.util.find_spec("ray") is None:
        raise ValueError(
            "`--engine ray` must have Ray, but it is not installed; pip install "
            "'plinio-sweep[ray]'."
        )
    _connect({k: v for k, v in settings.ray.items() if k != WORKER})
    import ray

    check_reach(settings, sum(node["Alive"] for node in ray.nodes()))
    return partial(Actors, settings.ray.get(WORKER, {}))


def _connect(table: Mapping[str, Any]) -> None:
    known = "auto" if "RAY_ADDRESS" in os.environ else "local"
    table = {"address": known, "log_to_driver": False, "logging_level": "ERROR", **table}
    if table["address"] == "local":
        for name, value in LOCAL.items():
            os.environ.setdefault(name, value)
    import ray

    try:
        ray.init(**table)
    except (ConnectionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"`[ray]` must hold what ray.init takes here, but with {sorted(table)} it says: "
            f"{' '.join(str(error).split())}; correct that table."
        ) from error


def check_reach(settings: Settings, machines: int) -> None:
    """Makes sure that the study's database is there for all machines of a cluster.

    Raises:
        ValueError: When it is a file and there are several.
    """
    if machines > 1 and sqlite_path(settings.storage_url) is not None:
        raise ValueError(
            f"`--engine ray` must have a database that all {machines} machines reach, but "
            f"`storage` is {redacted(settings.storage_url)}; name "
            f"postgresql+psycopg://user@host/database."
        )
