"""Studies by hand: small enough to check on paper, and one that looks like a real sweep."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from plinio_sweep.sweep.result import BaselineRecord, Objective, StudyRecord, TrialRecord

ACCURACY = Objective(name="accuracy", maximize=True, kind="metric")
SIZE = Objective(name="size_bytes", maximize=False, kind="cost", unit="byte")
MACS = Objective(name="macs", maximize=False, kind="cost", unit="MAC")


@pytest.fixture
def paper_study() -> StudyRecord:
    """Four comparable trials, three of them on the front, and one of every other state."""
    trials = [
        TrialRecord(
            number=number,
            state="complete",
            values=(accuracy, size),
            metrics={"validation_accuracy": accuracy, "test_accuracy": accuracy - 0.01},
            costs={"size_bytes": size, "macs": 10 * size},
            params={"order": "pit>mps", "mps.strength": 2.0, "pit.strength": 0.123456},
            artifact=f"trial/{number}",
        )
        for number, accuracy, size in [
            (0, 0.80, 50_000.0),
            (1, 0.40, 12_500.0),
            (2, 0.60, 60_000.0),  # dominated by trial 0
            (3, 0.88, 72_500.0),
        ]
    ]
    trials += [
        TrialRecord(number=4, state="failed", reason="CUDA out of memory\n  at layer 3"),
        TrialRecord(number=5, state="pruned"),
        TrialRecord(number=6, state="running"),
        TrialRecord(number=7, state="waiting"),
        replace(trials[3], number=8, values=(0.99, 1_000.0), feasible=False),
    ]
    return StudyRecord(
        name="digits-size",
        objectives=(ACCURACY, SIZE),
        limits={"macs": 1e6},
        units={"size_bytes": "byte", "macs": "MAC"},
        target_trials=24,
        trials=tuple(trials),
        baseline=BaselineRecord(
            values=(0.8, 100_000.0),
            metrics={"validation_accuracy": 0.8, "test_accuracy": 0.79},
            costs={"size_bytes": 100_000.0, "macs": 1_234_567.0},
            artifact="baseline",
        ),
    )


@pytest.fixture
def large_study() -> StudyRecord:
    """Sixty trials over two decades of size, with collapsed, infeasible and tested ones."""
    random = np.random.default_rng(7)
    trials = []
    for number in range(60):
        size = float(np.round(10 ** random.uniform(3.1, 5.2)))
        quality = 0.975 - 0.55 * (size / 1000) ** -0.62
        accuracy = float(np.round(quality - abs(random.normal(0, 0.03)), 4))
        macs = float(np.round(size * random.uniform(8, 14)))
        strength = 10 ** random.uniform(-2, 1)
        trials.append(
            TrialRecord(
                number=number,
                state="complete",
                values=(accuracy, size),
                metrics={
                    "validation_accuracy": accuracy,
                    "test_accuracy": accuracy - abs(float(random.normal(0.006, 0.004))),
                },
                costs={"size_bytes": size, "macs": macs},
                params={"order": "pit>mps", "pit.strength": strength, "mps.strength": strength},
                feasible=macs < 1.2e6,
                begin=1_000.0 + 60 * number,
                end=1_055.0 + 60 * number,
            )
        )
    return StudyRecord(
        name="icl-resnet8-size",
        objectives=(ACCURACY, SIZE),
        limits={"macs": 1.2e6},
        units={"size_bytes": "byte", "macs": "MAC"},
        target_trials=60,
        trials=tuple(trials),
        baseline=BaselineRecord(
            values=(0.968, 311_000.0),
            metrics={"validation_accuracy": 0.968, "test_accuracy": 0.961},
            costs={"size_bytes": 311_000.0, "macs": 3.2e6},
        ),
    )
