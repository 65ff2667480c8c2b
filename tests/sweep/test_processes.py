"""Several workers in processes of their own, as the engine starts them."""

from __future__ import annotations

import signal

import optuna
import pytest

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.drive import open_study
from tests.studies.tiny import sweep
from tests.sweep.bench import (
    CONTEXT,
    die_in_training,
    finish,
    make_worker,
    open_when_told,
    pop_when_told,
    start,
    work,
)

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
    (again,) = [trial for trial in record.trials if trial.retry_of]
    assert again.params == left.params
    assert again.retry_of == (0,)
    stored = worker.study.get_trials()
    assert [trial.user_attrs["uid"] for trial in stored].count(left.user_attrs["uid"]) == 2


@ON_BOTH
def test_four_processes_may_create_one_study_at_once(settings: Settings) -> None:
    gate = CONTEXT.Barrier(4)
    assert finish(*(start(open_when_told, settings, gate) for _ in range(4))) == [0, 0, 0, 0]
    study = open_study(sweep, settings)
    assert study.user_attrs["definition"] == sweep.definition()
    assert len(optuna.get_all_study_summaries(study._storage)) == 1


def test_four_processes_take_every_waiting_trial_once(settings: Settings) -> None:
    study = open_study(sweep, settings)
    for number in range(12):
        study.enqueue_trial({}, user_attrs={"queued": number})
    gate, popped = CONTEXT.Barrier(4), CONTEXT.Manager().Queue()
    assert finish(*(start(pop_when_told, settings, gate, popped) for _ in range(4))) == 4 * [0]
    assert sorted(popped.get() for _ in range(popped.qsize())) == list(range(12))
