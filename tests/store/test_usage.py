"""What a worker takes of its machine, as points of curves."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("psutil")

from plinio_sweep.store.usage import Usage


def test_a_short_trial_has_one_sample_and_the_next_begins_anew() -> None:
    usage = Usage()
    for _ in range(2):
        usage.begin()
        points = usage.end()
        assert {point.name: point.step for point in points} == {
            "system/cpu_utilization_percentage": 0,
            "system/memory_usage_megabytes": 0,
        }
        assert {p.name: p.value for p in points}["system/memory_usage_megabytes"] > 1
    assert usage.end() == []


def test_a_long_trial_has_a_sample_every_period() -> None:
    usage = Usage(period=0.01)
    usage.begin()
    threading.Event().wait(0.2)
    points = usage.end()
    steps = [point.step for point in points if "memory" in point.name]
    assert steps == list(range(len(steps)))
    assert len(steps) > 1
    times = [point.when for point in points]
    assert times == sorted(times)
