"""Which stored results somebody needs, as far as the studies of one database say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from plinio_sweep.sweep.result import SEED

# Of trials in another state nobody reads anything, and those that are tried again have a successor.
_NEEDING = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the studies of a database need.

    Args:
        keys: Of all results on the paths of their trials, of what these are compared with, and of
            their replicates.
        silent: Studies that need more than they say: an older version began them, or a trial
            waits that nobody has looked at.
    """

    keys: frozenset[str]
    silent: tuple[str, ...]


def needs_of(storage: optuna.storages.BaseStorage) -> Needs:
    """What every study in `storage` needs now."""
    keys: set[str] = set()
    silent = []
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        for found in _paths(study):
            if found is not None:
                keys.update(found)
            elif name not in silent:
                silent.append(name)
    return Needs(keys=frozenset(keys), silent=tuple(silent))


def _paths(study: optuna.Study) -> Iterator[list[str] | None]:
    """Keys of what stands behind each result, or nothing where that is not noted."""
    attrs = study.user_attrs
    yield attrs.get(f"nodes:{SEED}")
    for name, value in attrs.items():
        if name.startswith("nodes:"):
            yield value
        elif name.startswith(("baseline:", "replicate:")):
            yield [value["artifact"]]
    for trial in study.get_trials(deepcopy=False, states=_NEEDING):
        yield trial.user_attrs.get("nodes")
        if "result" in trial.user_attrs:
            yield [trial.user_attrs["result"]["artifact"]]
