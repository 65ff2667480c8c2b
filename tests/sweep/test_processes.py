"""Several workers in processes of their own, as the engine starts them."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.drift import identity
from plinio_sweep.sweep.drive import Worker
from plinio_sweep.sweep.opening import open_study
from tests.studies.tiny import sweep
from tests.sweep.bench import (
    CONTEXT,
    die_in_training,
    finish,
    freeze_in_training,
    make_worker,
    open_when_told,
    pop_when_told,
    start,
    train_and_tell,
    work,
    work_and_tell,
)

pytestmark = pytest.mark.slow

ON_BOTH = pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)


@ON_BOTH
def test_two_workers_come_to_exactly_the_target(settings: Settings) -> None:
    assert finish(*(start(work, settings, 5) for _ in range(2))) == [0, 0]
    record = make_worker(settings).record()
    assert record.count("complete") == len(record.trials) == 5
    assert len({trial.params["pit.strength"] for trial in record.trials}) == 5
    assert record.baseline is not None


def test_the_trial_of_a_killed_worker_is_finished_by_another_once(settings: Settings) -> None:
    assert finish(start(die_in_training, settings, 2)) == [-signal.SIGKILL]
    worker = make_worker(settings)
    (left,) = worker.study.get_trials()
    assert left.state == optuna.trial.TrialState.RUNNING
    assert finish(*(start(work, settings, 2) for _ in range(2))) == [0, 0]
    record = worker.record()
    assert [trial.state for trial in record.trials] == ["complete", "complete"]
    (again,) = [trial for trial in record.trials if trial.losses]
    assert again.params == left.params
    assert list(again.losses) == [0]
    stored = worker.study.get_trials()
    assert [trial.user_attrs["uid"] for trial in stored].count(left.user_attrs["uid"]) == 2


def events(told: Any) -> list[Mapping[str, Any]]:
    return [told.get() for _ in range(told.qsize())]


def trained(found: list[Mapping[str, Any]]) -> Counter[str]:
    return Counter(event["phase"] for event in found if event["event"] == "epoch")


@ON_BOTH
def test_two_workers_train_no_stage_twice(settings: Settings) -> None:
    open_study(sweep, settings)
    for _ in range(4):  # the same point for both
        params = {"order": "pit", "pit.strength": 1.0, "pit.gate": "norm"}
        open_study(sweep, settings).enqueue_trial(params)
    told = CONTEXT.Manager().Queue()
    assert finish(*(start(work_and_tell, settings, 4, told) for _ in range(2))) == [0, 0]
    wanted = {"seed": 3, "seed.finetune": 1, "pit.search": 3, "pit.finetune": 1}
    assert trained(events(told)) == {"warmup": 1, **wanted}
    record = make_worker(settings).record()
    assert record.count("complete") == 4
    assert len({trial.values for trial in record.trials}) == 1
    assert sum(trial.reused_epochs for trial in record.trials) == 4 * 5 - 4


def test_the_locks_of_a_store_keep_two_apart_where_there_is_no_database(tmp_path: Path) -> None:
    told = CONTEXT.Queue()
    assert finish(*(start(train_and_tell, tmp_path, told) for _ in range(2))) == [0, 0]
    assert sorted(events(told)) == ["pit.finetune", *(3 * ["pit.search"]), "warmup"]


@ON_BOTH
def test_a_frozen_worker_loses_its_trial_and_goes_on_with_another(settings: Settings) -> None:
    told = CONTEXT.Manager().Queue()
    sleeper = start(freeze_in_training, settings, 3, 2.0, told)
    while (event := told.get(timeout=60))["event"] != "frozen":
        pass
    waker = make_worker(settings, target=2, say=told.put)
    end = time.monotonic() + 60
    while (left := remaining(waker, event["trial"])) is None or left >= 0:
        assert time.monotonic() < end
        time.sleep(0.1)
    waker.work()
    assert [t.state for t in waker.record().trials] == ["complete", "complete"]
    os.kill(sleeper.pid or 0, signal.SIGCONT)
    assert finish(sleeper) == [0]
    heard = events(told)
    assert [e["reason"] for e in heard if e["event"] == "lost"] == ["its worker fell silent"]
    assert [e["trial"] for e in heard if e["event"] == "taken"] == [event["trial"]]
    record = waker.record()
    assert [t.state for t in record.trials] == 3 * ["complete"]
    assert trained(heard)["pit.search"] <= 3 * 3 + 3  # what the sleeper was at was dropped, at most


def remaining(worker: Worker, number: int) -> float | None:
    assert worker.leases is not None
    trial = worker.study.get_trials()[number]
    return worker.leases.remaining(f"trial {trial._trial_id}")


@ON_BOTH
def test_four_processes_may_create_one_study_at_once(settings: Settings) -> None:
    gate = CONTEXT.Barrier(4)
    assert finish(*(start(open_when_told, settings, gate) for _ in range(4))) == [0, 0, 0, 0]
    study = open_study(sweep, settings)
    assert study.user_attrs["definition"] == identity(sweep)
    assert len(optuna.get_all_study_summaries(study._storage)) == 1


def test_four_processes_take_every_waiting_trial_once(settings: Settings) -> None:
    study = open_study(sweep, settings)
    for number in range(12):
        study.enqueue_trial({}, user_attrs={"queued": number})
    gate, popped = CONTEXT.Barrier(4), CONTEXT.Manager().Queue()
    assert finish(*(start(pop_when_told, settings, gate, popped) for _ in range(4))) == 4 * [0]
    assert sorted(popped.get() for _ in range(popped.qsize())) == list(range(12))
