"""Ratios of times taken in turns: what slows the machine slows all, and a median forgets it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Step = Callable[[], object]


def ratios(
    steps: Mapping[str, Step], baseline: str, *, rounds: int = 15, repeats: int = 4
) -> tuple[float, dict[str, tuple[float, float, float]]]:
    """How long each step takes, as a multiple of the baseline in the same round.

    Args:
        steps: By name.
        baseline: One of the names.
        rounds: Passes over all steps, one after another.
        repeats: Calls of a step in each round.

    Returns:
        The time of the baseline [s of the process], and by name the median ratio and its quartiles.
    """
    for step in steps.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            for _ in range(repeats):
                step()
            times[name].append((time.process_time() - start) / repeats)
    found = {}
    for name, taken in times.items():
        values = [own / base for own, base in zip(taken, times[baseline], strict=True)]
        low, middle, high = statistics.quantiles(values, n=4)
        found[name] = (middle, low, high)
    return statistics.median(times[baseline]), found
