"""The life of a worker, as others on its machine see it: a lock file that the system frees.

However a process dies, its lock comes free at once. What can't be seen so, because the worker is on
another machine or keeps its files elsewhere, is left to leases, which expire.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from plinio_sweep.sweep.connect import DATABASE_ERRORS
from plinio_sweep.sweep.failure import StoppedError, StoreError

DIED, ENDED = "its worker died", "its worker could not go on"


class Life:
    """One worker's name and its lock file.

    Args:
        folder: Of the study's files; the lock files are in `workers` below.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "workers"
        self._place = f"{socket.gethostname()}/{self._folder_id()}"
        self.name = f"{self._place}:{uuid.uuid4().hex[:12]}"

    @contextmanager
    def lived(self) -> Iterator[None]:
        """Holds the lock of this worker, whose file stays behind when the worker dies of a trial.

        A full disk, a lost database or a lost store is no fault of the trial in hand. The worker
        can't write that down any more, but it can remove a file.
        """
        with self._lock(self.name) as lock:
            try:
                yield
            except (StoppedError, StoreError, OSError, *DATABASE_ERRORS):
                Path(lock.lock_file).unlink(missing_ok=True)
                raise
            Path(lock.lock_file).unlink(missing_ok=True)

    def end_of(self, worker: str) -> str | None:
        """How a worker ended; nothing while it lives or can't be seen from here."""
        if worker.rpartition(":")[0] != self._place:
            return None
        lock = self._lock(worker)
        if not Path(lock.lock_file).exists():
            return ENDED
        try:
            lock.acquire()
        except filelock.Timeout:
            return None
        lock.release()
        return DIED

    def has_died(self, worker: str) -> bool:
        """Whether `worker` left its lock file behind."""
        return self.end_of(worker) == DIED

    def _folder_id(self) -> str:
        """Tells the folder apart from others: containers may well share a host's name and paths."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "id"
        with filelock.FileLock(self._folder / "id.lock"):
            if not path.is_file():
                path.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
            return path.read_text(encoding="utf-8")

    def _lock(self, name: str) -> filelock.FileLock:
        return filelock.FileLock(self._folder / f"{name.rpartition(':')[2]}.lock", timeout=0)
