"""Attributes and constraints of a trial in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.attributes import set_attributes
from plinio_sweep.sweep.opening import open_study
from tests.studies.tiny import sweep
from tests.sweep.bench import make_worker

ON_BOTH = pytest.mark.parametrize("settings", ["sqlite", "postgresql"], indirect=True)
ATTRS = {"costs": {"size_bytes": 12.5}, "artifact": 'a "b"', "seconds": 1e-3, "nodes": ["é", None]}
LIMITS = {"size_bytes": -0.5, "-accuracy": 0.25}


@contextmanager
def counted() -> Iterator[list[Any]]:
    """Every transaction that is begun meanwhile, on any database."""
    begun: list[Any] = []

    def note(connection: Any) -> None:
        begun.append(connection)

    sqlalchemy.event.listen(sqlalchemy.Engine, "begin", note)
    try:
        yield begun
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "begin", note)


def stored(trial: optuna.Trial) -> tuple[Any, ...]:
    found = trial.storage.get_trial(trial._trial_id)
    return found.user_attrs, found.system_attrs, found.constraints


@ON_BOTH
def test_what_is_written_is_what_optuna_would_write(settings: Settings) -> None:
    study = open_study(sweep, settings)
    slow, fast = study.ask(), study.ask()
    for name, value in ATTRS.items():
        slow.set_user_attr(name, value)
    for name, excess in LIMITS.items():
        slow.set_constraint(name, excess)
    with counted() as begun:
        set_attributes(fast, ATTRS, LIMITS)
    assert len(begun) == 1
    assert stored(fast) == stored(slow)
    assert fast.user_attrs == slow.user_attrs == ATTRS
    assert fast.constraints == slow.constraints == LIMITS


@ON_BOTH
def test_what_was_written_before_is_replaced(settings: Settings) -> None:
    trial = open_study(sweep, settings).ask()
    set_attributes(trial, {"a": 1, "b": 2}, {"x": 1.0})
    set_attributes(trial, {"b": 3, "c": 4}, {"x": -1.0})
    assert stored(trial)[::2] == ({"a": 1, "b": 3, "c": 4}, {"x": -1.0})


@ON_BOTH
def test_a_transaction_that_breaks_leaves_nothing(settings: Settings) -> None:
    trial = open_study(sweep, settings).ask()
    engine = trial.storage._backend.engine  # type: ignore[attr-defined]

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute")
    def _broken(*told: Any) -> None:
        if "INSERT INTO trial_system_attributes" in told[2]:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        set_attributes(trial, ATTRS, LIMITS)
    assert stored(trial) == ({}, {}, {})
    assert trial.user_attrs == {}


def test_a_trial_that_has_ended_is_left_alone(settings: Settings) -> None:
    study = open_study(sweep, settings)
    trial = study.ask()
    study.tell(trial, state=TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        set_attributes(trial, ATTRS, LIMITS)
    assert stored(trial) == ({}, {}, {})


@ON_BOTH
def test_a_claim_costs_few_transactions_whatever_was_done_before(settings: Settings) -> None:
    worker = make_worker(settings, target=100)
    numbers = []
    for _ in range(4):
        with counted() as begun:
            claim = worker._claims.next()
        assert claim is not None and claim.lease is not None
        worker.study.tell(claim.trial, state=TrialState.FAIL)
        claim.lease.release()
        numbers.append(len(begun))
    # Three looks at the trials (ours, that of Optuna's queue, the sampler's), two for the new one,
    # its lease, what was accepted, three choices and our attributes; on PostgreSQL the lock, too.
    # The first claim also looks for leases that are left over.
    most = 12 if settings.storage else 11
    assert numbers == [most + 1, *3 * [most]]
