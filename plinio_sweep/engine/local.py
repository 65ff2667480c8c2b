"""Starts N workers on this machine, listens to them, and starts anew those that die."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plinio_sweep.engine.worker import DONE, STOPPED, WRONG_USE
from plinio_sweep.settings import variable

RESTARTS = 3  # of a worker that dies without a word, in a row
GRACE = 30.0  # [s] for a worker to put its trial back
# Each step of training frees what the next needs again. By default glibc hands it back to the
# system, which has to clear every page anew: these have a worker keep it, in large pages where the
# system allows them. What a user has set goes before.
KEPT_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(2**32),  # [byte] that may lie free at the end of the heap
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # [byte] the most that glibc takes
    "THP_MEM_ALLOC_ENABLE": "1",  # of torch
}
# Has cuBLAS add up in one order: NVIDIA, "cuBLAS library", section "Results reproducibility". It is
# read once a process, before the first product.
REPEATABLE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

Heard = Callable[[int, Mapping[str, Any]], None]  # worker, event


@dataclass(slots=True)
class _Process:
    worker: int
    process: subprocess.Popen[str]
    deaths: int = 0
    errors: list[str] = field(default_factory=list)


class Workers:
    """A group of worker processes on one study.

    Args:
        study: Path of the study file, which each worker loads itself.
        workers: How many.
        arguments: Further arguments of each worker.
        logs: Folder for what they print.
        heard: Hears their events, on the calling thread.
        threads: Of each; all cores shared among them when left out.
        devices: Taken by the workers in turn.
        first: Number of the first worker.
    """

    def __init__(
        self,
        study: Path,
        workers: int,
        arguments: list[str],
        logs: Path,
        heard: Heard,
        *,
        threads: int | None = None,
        devices: Sequence[str] = (),
        first: int = 0,
    ) -> None:
        self._study, self._arguments, self._logs, self._heard = study, arguments, logs, heard
        self._workers = range(first, first + workers)
        self._threads = threads or max(1, (os.cpu_count() or 1) // workers)
        self._devices = devices
        self._events: queue.Queue[tuple[int, Mapping[str, Any] | None]] = queue.Queue()
        self._running: dict[int, _Process] = {}
        self._stopping = False
        self.stopped = False  # whether a worker was asked to stop, by us or by the system
        self.errors: list[str] = []

    def run(self) -> None:
        """Starts all workers and listens until they have ended."""
        for worker in self._workers:
            self._start(worker, 0)
        while self._running:
            worker, event = self._events.get()
            if event is not None:
                self._hear(worker, event)
            else:
                self._ended(self._running.pop(worker))

    def stop(self) -> None:
        """Asks all workers to put their trials back and end; kills those that don't."""
        self.terminate()
        end = time.monotonic() + GRACE
        for running in list(self._running.values()):
            try:
                running.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                running.process.kill()

    def terminate(self) -> None:
        """Asks the same, and waits for none: a signal handler or another thread may call it."""
        self._stopping = True
        for running in list(self._running.values()):
            running.process.terminate()

    def _start(self, worker: int, deaths: int) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "plinio_sweep.engine.worker", str(self._study)]
        with (self._logs / f"worker-{worker}.log").open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [*command, *self._arguments, "--threads", str(self._threads)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                env=self._environment(worker),
                # Ctrl-C is for us to hear; workers get a signal that they can act on.
                start_new_session=True,
            )
        self._running[worker] = _Process(worker, process, deaths)
        if self._stopping:  # said so while it was being started
            process.terminate()
        threading.Thread(target=self._listen, args=(worker, process), daemon=True).start()

    def _environment(self, worker: int) -> dict[str, str]:
        usual = {**KEPT_MEMORY, **REPEATABLE}
        environment = {**usual, **os.environ, "OMP_NUM_THREADS": str(self._threads)}
        if self._devices:
            environment[variable("device")] = self._devices[worker % len(self._devices)]
        return environment

    def _listen(self, worker: int, process: subprocess.Popen[str]) -> None:
        with process:
            for event in _events(process):
                self._events.put((worker, event))
        self._events.put((worker, None))

    def _hear(self, worker: int, event: Mapping[str, Any]) -> None:
        if event.get("event") == "error":
            self._running[worker].errors.append(str(event["text"]))
        if event.get("event") in ("complete", "failed", "replicate", "replicate failed"):
            self._running[worker].deaths = 0
        self._heard(worker, event)

    def _ended(self, ended: _Process) -> None:
        code = ended.process.returncode
        if code == STOPPED or self._stopping:
            self.stopped = True
            return
        if code == DONE:
            return
        if code == WRONG_USE:
            self.errors += [text for text in ended.errors if text not in self.errors]
        elif ended.deaths + 1 < RESTARTS:
            died = f"worker {ended.worker} ended {_how(code)} and is started again"
            self._heard(ended.worker, {"event": "warning", "text": died})
            self._start(ended.worker, ended.deaths + 1)
        else:
            log = self._logs / f"worker-{ended.worker}.log"
            last = ended.errors[-1] if ended.errors else f"it ended {_how(code)}"
            self.errors.append(
                f"A worker must not die {RESTARTS} times in a row, but worker {ended.worker} did: "
                f"{last}; its log is {log}."
            )


def _events(process: subprocess.Popen[str]) -> Iterator[Mapping[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # half a line: its writer was killed
        if isinstance(event, dict):
            yield event


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
