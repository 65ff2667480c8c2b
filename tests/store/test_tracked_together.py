"""Many workers and one MLflow database: every run, point and parameter is there once."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from plinio_sweep.store import tracking
from plinio_sweep.store.mlflow_runs import new_key
from plinio_sweep.store.tracking import MlflowTracker
from plinio_sweep.sweep.result import Epoch, PhaseRecord, TrialResult
from tests.postgres import started_server, url_of
from tests.sweep.bench import finish, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not tracking.available(), reason="needs mlflow"),
]

WORKERS, TRIALS, EPOCHS = 4, 2, 4
STAGES = ("warmup", "pit.search", "pit.finetune")
RESULT = TrialResult(
    metrics={"validation_accuracy": 0.5},
    costs={"size_bytes": 800.0},
    estimates={"size_bytes": 810.0},
    units={"size_bytes": "byte"},
    architecture={},
    layers=(),
    history=tuple(
        Epoch(
            phase=name,
            index=index,
            step=EPOCHS * turn + index,
            train_loss=float(index),
            validation_loss=float(turn),
            metrics={"accuracy": 0.1 * index},
        )
        for turn, name in enumerate(STAGES)
        for index in range(EPOCHS)
    ),
    artifact="ab",
    seconds=1.0,
    phases=tuple(
        PhaseRecord(
            name=name,
            key=f"key {turn}",
            begin=1000.0 + 10 * turn,
            seconds=8.0,
            epochs=EPOCHS,
            reused=name == "warmup",
        )
        for turn, name in enumerate(STAGES)
    ),
)


class Listener(logging.Handler):
    """Passes on what MLflow warns of."""

    def __init__(self, said: Any) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.put(record.getMessage())


def track(uri: str, folder: Path, worker: int, gate: Any, said: Any) -> None:
    """Tells MLflow of some trials, of each twice, as somebody does who was cut in between."""
    warnings.simplefilter("error")
    logging.getLogger("mlflow").addHandler(Listener(said))
    gate.wait(60)
    tracker = MlflowTracker(uri, "many", folder, study="run-of-the-study")
    for number in range(worker * TRIALS, (worker + 1) * TRIALS):
        key, when = new_key(), 2000.0 + number
        for _ in range(2):
            tracker.start(number, {"order": "pit", "pit.strength": 0.5}, key, when=when)
        for _ in range(2):
            tracker.finish(key, RESULT, folder, when=when + 50)
        tracker.summarize({}, {"complete": number + 1.0, "failed": 0.0}, done=False, when=when + 60)


def check(uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "many")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    levels = Counter(run.data.tags["level"] for run in runs)
    trials = WORKERS * TRIALS
    assert levels == {"study": 1, "trial": trials, "stage": 3 * trials}
    (study,) = (run for run in runs if run.data.tags["level"] == "study")
    assert study.data.metrics["complete"] == trials
    steps = [point.step for point in client.get_metric_history(study.info.run_id, "complete")]
    assert len(steps) == len(set(steps))
    numbers = []
    for run in runs:
        identifier, tags = run.info.run_id, run.data.tags

        def curve(name: str, identifier: str = identifier) -> list[tuple[int, int]]:
            points = client.get_metric_history(identifier, name)
            return sorted((point.step, point.timestamp) for point in points)

        if tags["level"] == "trial":
            numbers.append(int(tags["trial"]))
            begin = 1000 * (2000 + numbers[-1])
            assert tags["mlflow.parentRunId"] == study.info.run_id
            assert (run.info.status, run.info.start_time) == ("FINISHED", begin)
            assert run.info.end_time == begin + 50_000
            assert run.data.params == {"order": "pit", "pit.strength": "0.5"}
            assert curve("train_loss") == [(step, begin + 50_000) for step in range(12)]
            assert curve("size_bytes") == [(12, begin + 50_000)]
        elif tags["level"] == "stage":
            turn = STAGES.index(tags["stage"])
            begin = 1000 * (1000 + 10 * turn)
            assert tags["key"] == f"key {turn}"
            assert tags["reused"] == ("true" if turn == 0 else "false")
            assert (run.info.start_time, run.info.end_time) == (begin, begin + 8000)
            assert curve("train_loss") == [(i, begin + 2000 * (i + 1)) for i in range(EPOCHS)]
            assert run.data.metrics["validation_loss"] == turn
    assert sorted(numbers) == list(range(trials))
    parents = Counter(r.data.tags["mlflow.parentRunId"] for r in runs if "stage" in r.data.tags)
    assert set(parents.values()) == {3}


def work_at_once(uri: str, folder: Path) -> None:
    from tests.sweep.bench import CONTEXT

    gate, said = CONTEXT.Barrier(WORKERS), CONTEXT.SimpleQueue()
    workers = [start(track, uri, folder, worker, gate, said) for worker in range(WORKERS)]
    assert finish(*workers, patience=300) == [0] * WORKERS
    heard = [] if said.empty() else [said.get()]
    assert heard == []


def test_four_workers_share_a_new_sqlite_file(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    work_at_once(uri, tmp_path / "artifacts")
    check(uri)


@pytest.mark.long
def test_four_workers_share_a_new_postgresql_database(tmp_path: Path) -> None:
    with started_server() as server:
        uri = url_of(server)
        work_at_once(uri, tmp_path / "artifacts")
        check(uri)
