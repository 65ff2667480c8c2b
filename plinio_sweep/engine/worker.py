"""One worker as a process: `python -m plinio_sweep.engine.worker STUDY`. Start any number.

Its standard output carries events, one JSON object a line; what a study prints goes to standard
error. Exit codes: 0 done, 1 stopped by an error of its own, 2 wrong use, 3 asked to stop.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import click

DONE, BROKEN, WRONG_USE, STOPPED = 0, 1, 2, 3
# That ask to stop. Clusters warn of the end of a job by one of the last two, all its processes.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Events:
    """Writes events to a pipe; when nobody reads it any more, the worker is to stop."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stop = threading.Event()
        self._reader = select.poll()
        self._reader.register(stream, 0)

    def say(self, event: Mapping[str, Any]) -> None:
        """Writes one event."""
        try:
            self._stream.write(json.dumps(event, default=str) + "\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            # Whoever started us is gone: stop rather than train for nobody.
            self._stop.set()

    def stop(self, *_: Any) -> None:
        """Asks the worker to stop, as a signal handler does."""
        self._stop.set()

    def stopping(self) -> bool:
        """Whether the worker is to stop."""
        # Asked at every step: a pipe says so before anything is written to it, and the next event
        # may be an epoch away.
        if self._reader.poll(0):
            self._stop.set()
        return self._stop.is_set()


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--trials", type=int, required=True)
@click.option("--threads", type=int, default=1)
@click.option("--finish", is_flag=True, help="Only see to the nets of the front.")
@click.option("--points", help="No trial, but what follows for these: 3,5.")
@click.option("--baseline", "baselines", multiple=True, help="Of --confirm, beside the points.")
@click.option("--confirm", type=int, default=0, help="Replicates of each of them.")
@click.option("--test", is_flag=True, help="Measure the points on test data.")
@click.option("--accept-drift", is_flag=True)
def main(study: Path, **options: Any) -> None:
    """Works on STUDY until it has its trials, or on those that are done."""
    events = Events(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    raise SystemExit(_guarded(events, lambda: _work(events, study, **options)))


def _guarded(events: Events, action: Callable[[], None]) -> int:
    from plinio_sweep.sweep.failure import StoppedError

    try:
        action()
    except StoppedError:
        return STOPPED
    except (ValueError, TypeError, OSError) as error:
        traceback.print_exc()
        events.say({"event": "error", "text": " ".join(str(error).split())})
        return WRONG_USE
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        events.say({"event": "error", "text": text})
        return BROKEN
    return DONE


def _work(
    events: Events,
    path: Path,
    *,
    trials: int,
    threads: int,
    finish: bool,
    points: str | None,
    baselines: tuple[str, ...],
    confirm: int,
    test: bool,
    accept_drift: bool,
) -> None:
    import torch

    from plinio_sweep.engine.track import open_relay
    from plinio_sweep.plugin import load_study
    from plinio_sweep.settings import load_settings
    from plinio_sweep.store.leases import open_leases
    from plinio_sweep.store.opening import open_store
    from plinio_sweep.sweep.drive import Worker
    from plinio_sweep.sweep.life import Life
    from plinio_sweep.sweep.opening import open_study

    # One thread a worker: K processes on K cores beat one process on all of them.
    torch.set_num_threads(threads)
    sweep, settings = load_study(path), load_settings(path)
    if settings.devices[0].startswith("cuda"):
        # Training that was cut goes on bit by bit, wherever the GPU knows a way; where it doesn't,
        # the log says so.
        torch.use_deterministic_algorithms(True, warn_only=True)
    opened = open_study(sweep, settings, file=path.name, known=True)
    # Not before: so far there is nothing to put back, and a signal ends the program at once.
    for name in SIGNALS:
        signal.signal(name, events.stop)
    life = Life(settings.folder)
    worker = Worker(
        sweep=sweep,
        settings=settings,
        store=open_store(settings, warn=_warner(events), known=True),
        study=opened,
        leases=open_leases(settings, life),
        life=life,
        target=trials,
        annotator=_annotator(settings),
        accept_drift=accept_drift,
        say=events.say,
        stopping=events.stopping,
    )
    worker.tracker = relay = open_relay(worker, _warner(events))
    if points:
        _see_to(worker, [int(point) for point in points.split(",")], baselines, confirm, test)
    else:
        _run_trials(worker, finish)
    if relay is not None:
        relay.close()


def _run_trials(worker: Any, finish: bool) -> None:
    if not finish:
        worker.work()
    # The last worker knows net and data already: no need of a new process for the front.
    if finish or not worker.record().count("running"):
        _keep_front(worker)


def _warner(events: Events) -> Callable[[str], None]:
    return lambda text: events.say({"event": "warning", "text": text})


def _keep_front(worker: Any) -> None:
    from plinio_sweep.view.front import shown

    worker.keep(shown(worker.record()))


def _see_to(
    worker: Any, points: list[int], baselines: Sequence[str], confirm: int, test: bool
) -> None:
    from plinio_sweep.view.front import shown

    if confirm:
        worker.confirm([*baselines, *map(str, points)], confirm)
    if test:
        worker.test(shown(worker.record(), points, confirm, baselines))


def _annotator(settings: Any) -> Any:
    from plinio_sweep.view.dashboard import DashboardAnnotator

    try:
        return DashboardAnnotator(settings.folder / "dashboard", settings.tracking_uri)
    except ImportError:
        return None


if __name__ == "__main__":
    main()
