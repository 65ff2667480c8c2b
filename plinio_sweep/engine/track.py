"""How a worker tells MLflow of its study: through an outbox, for the server may be away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from plinio_sweep.settings import Settings
from plinio_sweep.sweep.result import StudyRecord

if TYPE_CHECKING:
    from plinio_sweep.store.relay import Relay
    from plinio_sweep.store.usage import Usage
    from plinio_sweep.sweep.drive import Worker


def open_relay(worker: Worker, warn: Callable[[str], None]) -> Relay | None:
    """What `worker` is to tell of its trials; nothing where nothing is tracked.

    Args:
        worker: With its study; it is not contacted yet.
        warn: Hears what goes wrong.
    """
    from plinio_sweep.store import tracking
    from plinio_sweep.store.mlflow_runs import new_key
    from plinio_sweep.store.outbox import Outbox
    from plinio_sweep.store.relay import Relay

    settings = worker.settings
    if not settings.tracking_uri or not tracking.available():
        return None
    study = worker.study_run(new_key)
    return Relay(
        Outbox(settings.outbox),
        partial(tracking.open_tracker, settings, worker.sweep.name, study),
        find=worker.store.find,
        remake=worker.measured,
        summary=summary,
        usage=_usage(settings, warn),
        warn=warn,
    )


def summary(record: StudyRecord) -> Mapping[str, float]:
    """How far a study is, in numbers."""
    from plinio_sweep.view.front import front, hypervolume

    volume = hypervolume(record)
    counts = {state: float(record.count(state)) for state in ("complete", "failed")}
    found = {**counts, "front_size": float(len(front(record)))}
    return found if volume is None else found | {"hypervolume": volume}


def _usage(settings: Settings, warn: Callable[[str], None]) -> Usage | None:
    from plinio_sweep.store import usage

    if not settings.system_metrics:
        return None
    if not usage.available():
        warn("`system_metrics` needs psutil, which is not installed: pip install psutil")
        return None
    return usage.Usage(settings.devices[0])


def left_over(settings: Settings) -> str:
    """A sentence where something still waits to be told; else nothing."""
    from plinio_sweep.store.outbox import Outbox

    waiting: list[Any] = Outbox(settings.outbox).waiting()
    if not waiting or not settings.tracking_uri:
        return ""
    return (
        f"MLflow was not told everything: {len(waiting)} notes for it wait in {settings.outbox}, "
        f"and the next run hands them on"
    )
