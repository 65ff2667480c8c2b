"""What a worker takes of its machine while it works on a trial: a sample every few seconds.

Of the process, not of the machine: several workers share one. MLflow's own monitor measures the
machine, asks the server at every sample and gives up when it does not answer, so it is not used.
"""

from __future__ import annotations

import importlib.util
import threading
import time
from typing import Any

from plinio_sweep.store.curves import Point

PERIOD = 10.0  # [s]
MEGA = 1e6


def available() -> bool:
    """Whether psutil is installed."""
    return importlib.util.find_spec("psutil") is not None


class Usage:
    """Measures this process between `begin` and `end`, on a thread of its own.

    Args:
        device: What torch calls the device of the worker: of "cuda:0" the memory is measured, too.
        period: Time between two samples [s].
    """

    def __init__(self, device: str = "cpu", period: float = PERIOD) -> None:
        import psutil

        self._process, self._device, self._period = psutil.Process(), device, period
        self._points: list[Point] = []
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Starts to measure anew."""
        self.end()
        self._process.cpu_percent()  # counts from here
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._measure, args=(self._stop,), daemon=True)
        self._thread.start()

    def end(self) -> list[Point]:
        """Stops; the points of all curves, with one more sample at the end."""
        if self._stop is None or self._thread is None:
            return []
        self._stop.set()
        self._thread.join()
        self._sample()
        points, self._points = self._points, []
        self._stop = self._thread = None
        return points

    def _measure(self, stop: threading.Event) -> None:
        while not stop.wait(self._period):
            self._sample()

    def _sample(self) -> None:
        now = time.time()
        with self._process.oneshot():
            values: dict[str, float] = {
                "cpu_utilization_percentage": self._process.cpu_percent(),  # 100 for a core
                "memory_usage_megabytes": self._process.memory_info().rss / MEGA,
            }
        values |= _of_gpu(self._device)
        step = len(self._points) // len(values)
        # Names that begin so have a page of their own in MLflow.
        self._points += [Point(f"system/{name}", v, now, step) for name, v in values.items()]


def _of_gpu(device: str) -> dict[str, float]:
    if not device.startswith("cuda"):
        return {}
    import torch

    free, total = torch.cuda.mem_get_info(device)
    own: Any = torch.cuda.memory_allocated(device)
    return {
        "gpu_memory_allocated_megabytes": own / MEGA,
        "gpu_memory_usage_percentage": 100 * (1 - free / total),
    }
