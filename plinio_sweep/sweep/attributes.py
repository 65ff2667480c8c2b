"""Several attributes of a trial at once: Optuna alone takes a transaction for each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import TrialState, create_trial
from sqlalchemy.dialects import postgresql, sqlite


def set_attributes(
    trial: optuna.Trial, attrs: Mapping[str, Any], limits: Mapping[str, float] | None = None
) -> None:
    """Writes attributes and constraints of a running trial: all of them, or on an error none.

    Args:
        trial: Of a study in a database.
        attrs: JSON by name, at least one.
        limits: Constraints by name, kept where 0 or less.

    Raises:
        UpdateFinishedTrialError: When the trial has ended meanwhile.
    """
    storage = trial.storage
    assert isinstance(storage, _CachedStorage)  # what Optuna wraps every database in
    database, number, cached = storage._backend, trial._trial_id, trial._cached_frozen_trial
    insert = _INSERT[database.engine.dialect.name]
    # How constraints are stored is Optuna's own affair: it says so for a trial that nobody keeps.
    drawn = create_trial(state=TrialState.RUNNING, constraints=dict(limits or {})).system_attrs
    with _create_scoped_session(database.scoped_session) as session:
        state: Any = models.TrialModel.find_or_raise_by_id(number, session).state
        database.check_trial_is_updatable(number, state)
        for kind, values in (
            (models.TrialUserAttributeModel, attrs),
            (models.TrialSystemAttributeModel, drawn),
        ):
            new = insert(kind)
            # In place of what was written before a connection broke.
            new = new.on_conflict_do_update(
                index_elements=["trial_id", "key"], set_={"value_json": new.excluded.value_json}
            )
            rows = [
                {"trial_id": number, "key": name, "value_json": json.dumps(value)}
                for name, value in values.items()
            ]
            if rows:
                session.connection().execute(new, rows)
    cached.user_attrs.update(attrs)
    cached.system_attrs.update(drawn)


_INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
