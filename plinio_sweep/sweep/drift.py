"""Whether a study file still says the study that its database was started with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plinio_sweep.sweep.definition import differences
from plinio_sweep.sweep.study import Sweep

# What Optuna can't mix in one study, whatever the user accepts.
_FIXED = ("space.orders:", "space.choices.")


class DriftError(ValueError):
    """The study file says another study than the database."""


def check_drift(
    sweep: Sweep, stored: dict[str, Any] | None, directions: Sequence[str], *, accept: bool
) -> None:
    """Compares `sweep` with what is stored of it.

    Args:
        sweep: As the study file says.
        stored: Its definition at the start; nothing when it is new.
        directions: Sense of each stored objective: "minimize", "maximize".
        accept: Whether changes that Optuna can live with are welcome.

    Raises:
        DriftError: With the fields that differ.
    """
    changed = [] if stored is None else differences(stored, sweep.definition())
    if changed and not accept:
        raise DriftError(
            f"A study must stay as it was started, but {sweep.name!r} changed in "
            f"{'; '.join(changed)}; give the sweep another `name`, undo the change, or pass "
            f"--accept-drift."
        )
    fixed = [line for line in changed if line.startswith(_FIXED)]
    if list(directions) != [axis.direction for axis in sweep.axes]:
        fixed.append(f"objectives: {', '.join(directions)} -> {list(sweep.objectives)}")
    if fixed:
        raise DriftError(
            f"A study must keep its choices and the senses of its objectives, but {sweep.name!r} "
            f"changed in {'; '.join(fixed)}; give the sweep another `name` or undo the change."
        )
