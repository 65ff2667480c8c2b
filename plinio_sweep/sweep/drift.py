"""Whether a study is still what its database was started with: file, packages and data.

What is accepted under another form is written down: `ACCEPTED` among the attributes of the study
holds every change, and each trial from then on bears them.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import optuna

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.definition import differences
from plinio_sweep.sweep.result import SEED
from plinio_sweep.sweep.stage import Ground
from plinio_sweep.sweep.storage import exclusive
from plinio_sweep.sweep.study import Sweep

ACCEPTED = "accepted_drift"  # attribute of a study
# What equal settings may lead elsewhere under another version of.
_PACKAGES = ("plinio-sweep", "numpy", "torch")
# What Optuna can't mix in one study, whatever the user accepts.
_FIXED = ("space.orders:", "space.choices.")


class DriftError(ValueError):
    """The study file says another study than the database."""


def identity(sweep: Sweep) -> dict[str, Any]:
    """All that makes `sweep` what it is on this machine, but for its data: JSON."""
    # Without the build: a worker with an accelerator works beside one without.
    versions = {name: metadata.version(name).partition("+")[0] for name in _PACKAGES}
    versions["python"] = ".".join(platform.python_version_tuple()[:2])
    return {**sweep.definition(), "packages": versions}


def check_drift(
    sweep: Sweep, stored: dict[str, Any] | None, directions: Sequence[str], *, accept: bool
) -> list[str]:
    """Compares `sweep` with what is stored of it.

    Args:
        sweep: As the study file says.
        stored: Its identity at the start; nothing when it is new.
        directions: Sense of each stored objective: "minimize", "maximize".
        accept: Whether changes that Optuna can live with are welcome.

    Returns:
        The changes that were accepted.

    Raises:
        DriftError: With the fields that differ.
    """
    changed = [] if stored is None else differences(stored, identity(sweep))
    if changed and not accept:
        raise _drift(sweep.name, changed)
    fixed = [line for line in changed if line.startswith(_FIXED)]
    if list(directions) != [axis.direction for axis in sweep.axes]:
        fixed.append(f"objectives: {', '.join(directions)} -> {list(sweep.objectives)}")
    if fixed:
        raise DriftError(
            f"A study must keep its choices and the senses of its objectives, but {sweep.name!r} "
            f"changed in {'; '.join(fixed)}; give the sweep another `name` or undo the change."
        )
    return changed


def check_data(study: optuna.Study, settings: Settings, ground: Ground, *, accept: bool) -> None:
    """Compares the data that were loaded with those that the study was begun with.

    Args:
        study: As it is stored.
        settings: Where.
        ground: With the data.
        accept: Whether other data are welcome.

    Raises:
        DriftError: When they are others.
    """
    train, validation = ground.data_identity
    found = {"data": {"train": train, "validation": validation}}
    with exclusive(settings):
        begun = f"baseline:{SEED}" in study.user_attrs or study.get_trials(deepcopy=False)
        stored = study.user_attrs.get("data")
        if stored == found:
            return
        changed = differences(stored, found) if stored is not None and begun else []
        if changed and not accept:
            raise _drift(study.study_name, changed)
        note_accepted(study, changed)
        study.set_user_attr("data", found)


def note_accepted(study: optuna.Study, changed: list[str]) -> None:
    """Writes down changes that were accepted."""
    if changed:
        study.set_user_attr(ACCEPTED, [*study.user_attrs.get(ACCEPTED, []), *changed])


def _drift(name: str, changed: list[str]) -> DriftError:
    return DriftError(
        f"A study must stay as it was started, but {name!r} changed in {'; '.join(changed)}; give "
        f"the sweep another `name`, undo the change, or pass --accept-drift."
    )
