"""A study under a killer: workers that are killed, frozen, starved of disk and cut off at random.

Workers of one host see each other's locks; those of another see only leases expire. All share one
database and one store.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import optuna

from plinio_sweep import Phase, Recipe
from plinio_sweep.settings import Settings
from plinio_sweep.store.artifacts import Fill, FolderStore, Seal
from plinio_sweep.sweep.result import StudyRecord
from plinio_sweep.sweep.storage import StorageError
from tests.studies.tiny import tiny
from tests.sweep.bench import make_worker, start

TIME_TO_LIVE = 4.0  # [s] of a lease; a busy machine may let a living worker wait for a second
SMALL = 6_000  # [byte] a file on the disk that is full
LATE = 0.3  # [s] at most from an artefact to a deed, so that it hits anything
_PHASE = Phase(epochs=1, lr=1e-2)

# Drawn without a look at other trials, so that the order of their ends changes nothing.
study = tiny(
    name="chaos",
    recipe=Recipe(
        warmup=_PHASE, search=Phase(epochs=2, lr=1e-2, arch_lr=0.3), finetune=_PHASE, batch_size=48
    ),
    sampler=lambda seed: optuna.samplers.RandomSampler(seed=seed),
)


class NotingStore(FolderStore):
    """Notes every key whose making came to its end."""

    def __init__(self, root: Path, notes: Path) -> None:
        super().__init__(root)
        self._notes = notes

    def write(self, key: str, fill: Fill, sealed: Seal = nullcontext) -> Path:
        folder = super().write(key, fill, sealed)
        with self._notes.open("a") as notes:
            notes.write(f"{key}\n")
        return folder


def toil(settings: Settings, target: int, log: Path, full: bool) -> None:
    """Works until the study has its trials; exit code 2 says that the disk was full."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, sys.stderr.fileno())
    store = NotingStore(Path(settings.artifacts_url), log.with_name("made.txt"))
    worker = make_worker(
        settings, study, target=target, time_to_live=TIME_TO_LIVE, store=store, known=True
    )
    if full:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))
    try:
        worker.work()
    except (OSError, StorageError):
        if not full:
            raise
        raise SystemExit(2) from None


@dataclass(eq=False, kw_only=True)
class Killer:
    """Keeps workers at work and keeps killing them.

    Args:
        folder: Of the hosts, the store and the logs.
        storage: URL of the database.
        target: Trials of the study.
        restart: Takes the database's server down and up again.
        every: Artefacts that are made between two deeds, on the mean: a busy machine, on which work
            takes longer, loses no more of it.
        restarts: After how many deeds the server is restarted.
        seed: Of what is done when.
    """

    folder: Path
    storage: str
    target: int
    restart: Callable[[], None]
    every: int = 8
    restarts: tuple[int, ...] = (4, 11)
    seed: int = 0
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._workers: list[ForkServerProcess]
        self._asleep: dict[int, float] = {}  # when to wake whom

    @property
    def kills(self) -> int:
        """How many workers were killed."""
        return sum(self.done[deed] for deed in ("kill", "tear", "full"))

    def run(self, workers: int = 4) -> None:
        """Until a worker finds that there are enough trials, and all others have ended."""
        self._workers = [self._start(number) for number in range(workers)]
        due = self._made() + 2 * self.every
        while not any(worker.exitcode == 0 for worker in self._workers):
            self._keep_up()
            if self._made() >= due:
                time.sleep(self._random.uniform(0.0, LATE))
                self._do()
                due = self._made() + self._random.uniform(0.5, 1.5) * self.every
            time.sleep(0.02)
        for identity in self._asleep:
            with suppress(ProcessLookupError):
                os.kill(identity, signal.SIGCONT)
        self._asleep.clear()
        self._join()
        # As the next `run` does: a worker of the other host may have died in a trial after the
        # others had ended.
        if self.record().count("running"):
            time.sleep(2 * TIME_TO_LIVE)
            self._workers = [self._start(0)]
            self._join()
            self.done["next run"] += 1

    def record(self) -> StudyRecord:
        """The study as it stands."""
        settings = Settings(folder=self.folder / "reader", storage=self.storage, tracking="none")
        return make_worker(settings, study).record()

    def _join(self) -> None:
        for worker in self._workers:
            worker.join(60)
            assert worker.exitcode is not None, "a worker hangs"

    def _made(self) -> int:
        """How many artefacts there are."""
        notes = self.folder / "made.txt"
        return notes.read_bytes().count(b"\n") if notes.exists() else 0

    def _start(self, number: int, full: bool = False) -> ForkServerProcess:
        settings = Settings(
            folder=self.folder / f"host{number % 2}",
            storage=self.storage,
            artifacts=str(self.folder / "store"),
            tracking="none",
            checkpoint=0.0,
            retries=10_000,
        )
        return start(toil, settings, self.target, self.folder / f"worker{number}.log", full)

    def _keep_up(self) -> None:
        """Starts anew who died, and wakes who has slept for long enough."""
        for number, worker in enumerate(self._workers):
            if worker.exitcode not in (None, 0):
                known = worker.exitcode in (-signal.SIGKILL, 2)
                assert known, f"worker {number} ended with {worker.exitcode}"
                self._workers[number] = self._start(number)
        for identity, moment in list(self._asleep.items()):
            if time.monotonic() > moment:
                del self._asleep[identity]
                with suppress(ProcessLookupError):
                    os.kill(identity, signal.SIGCONT)

    def _do(self) -> None:
        count = self.done.total()
        if count in self.restarts:
            deed = "restart"
        elif count % 8 == 6:
            deed = "full"
        else:
            deed = self._random.choices(("kill", "freeze", "tear"), (6, 2, 2))[0]
        getattr(self, f"_{deed}")()
        self.done[deed] += 1

    def _victim(self) -> int:
        return self._random.randrange(len(self._workers))

    def _kill(self) -> None:
        self._workers[self._victim()].kill()

    def _freeze(self) -> None:
        identity = self._workers[self._victim()].pid
        assert identity is not None
        with suppress(ProcessLookupError):
            os.kill(identity, signal.SIGSTOP)
            self._asleep.setdefault(identity, time.monotonic() + 1.5 * TIME_TO_LIVE)

    def _full(self) -> None:
        number = self._victim()
        self._workers[number].kill()
        self._workers[number].join()
        self._workers[number] = self._start(number, full=True)

    def _tear(self) -> None:
        """Cuts a checkpoint in two, and kills who wrote it: the next one is to see it."""
        found = sorted((self.folder / "store" / ".unfinished").glob("*/*.checkpoint"))
        if found:
            with suppress(FileNotFoundError):
                path = self._random.choice(found)
                os.truncate(path, path.stat().st_size // 2)
        self._kill()

    def _restart(self) -> None:
        self.restart()
