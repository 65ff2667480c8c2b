"""How much of a study's time is not training: the first trials of the digits, with all that tells.

One worker in this process, as the program starts it: with MLflow and the notes of the dashboard.
Each second is counted once, for the innermost of what is measured; what is left over is the
worker's own. The first trial, with the seed net and all that is imported when it is first used,
comes once in a worker's life and is told apart; of the next ones below 5 % are to lie outside of
training, scores and costs.

    pytest tests/benchmarks -m benchmark -k share -s
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from plinio_sweep.engine.track import open_relay
from plinio_sweep.engine.worker import _annotator
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import Settings
from plinio_sweep.store.artifacts import FolderStore
from plinio_sweep.store.relay import Relay
from plinio_sweep.sweep import drive, node, trial
from plinio_sweep.sweep.claims import Claims
from plinio_sweep.train.checkpoints import Checkpoints
from tests.sweep.bench import CONTEXT, finish, make_worker, start

TRIALS = 3
GOAL = 0.05


class Stopwatch:
    """Seconds by name, of each call but for the calls within it that are measured, too."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within = [0.0]

    def measured(self, name: str, action: Callable[..., Any]) -> Callable[..., Any]:
        """`action`, whose time is counted for `name`."""

        def measuring(*arguments: Any, **named: Any) -> Any:
            self._within.append(0.0)
            begin = time.perf_counter()
            try:
                return action(*arguments, **named)
            finally:
                taken = time.perf_counter() - begin
                self.seconds[name] += taken - self._within.pop()
                self._within[-1] += taken

        return measuring


def test_share(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("mlflow")
    # In a process of its own: pytest keeps all that torch says of itself, and that takes seconds.
    answers = CONTEXT.Queue()
    process = start(measure, tmp_path, answers)
    while process.is_alive() and answers.empty():
        process.join(1)
    assert finish(process) == [0]
    assert answers.get(timeout=10) < GOAL


def measure(folder: Path, answers: Any) -> None:
    """Puts the share that was not training."""
    sweep = load_study(Path(__file__).parents[2] / "studies" / "digits.py")
    settings, watch = Settings(folder=folder), Stopwatch()
    annotator = _annotator(settings)
    for name, owner, method in (
        ("training", node, "_train"),
        ("scores and costs", trial, "_measure"),
        ("checkpoints", Checkpoints, "write"),
        ("looks at the lease", drive.Worker, "_step"),
        ("claims", Claims, "next"),
        ("attributes", drive.Worker, "_record"),
        ("values", optuna.Study, "tell"),
        ("MLflow, start", Relay, "start"),
        ("MLflow, end", Relay, "finish"),
        ("MLflow, progress", Relay, "progress"),
        ("dashboard", type(annotator), "annotate"),
        ("store", FolderStore, "write"),
    ):
        setattr(owner, method, watch.measured(name, getattr(owner, method)))
    for target in (1, 1 + TRIALS):
        # Only now: a worker keeps its methods from its start.
        worker = make_worker(settings, sweep, target=target, annotator=annotator)
        worker.tracker = open_relay(worker, print)
        watch.seconds.clear()
        begin = time.perf_counter()
        worker.work()
        total = time.perf_counter() - begin
        states = [trial.state for trial in worker.record().trials]
        assert states == ["complete"] * target
        share = told(watch.seconds, total, TRIALS if target > 1 else 1)
    answers.put(share)


def told(found: dict[str, float], total: float, trials: int) -> float:
    """Prints where the time went; the share that was not training."""
    found["all else"] = total - sum(found.values())
    print(f"\n{trials} trials of the digits in {total:.1f} s")
    for name, seconds in sorted(found.items(), key=lambda item: -item[1]):
        print(f"  {name:20} {1e3 * seconds / trials:9.1f} ms a trial {seconds / total:7.2%}")
    share = 1 - (found["training"] + found["scores and costs"]) / total
    print(f"  not training: {share:.2%}")
    return share
