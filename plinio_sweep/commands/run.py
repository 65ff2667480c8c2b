"""`plinio-sweep run`: workers, bars, and the front at the end."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from plinio_sweep.engine.group import Engine, Group, Request, open_engine
from plinio_sweep.settings import Settings, load_settings, redacted
from plinio_sweep.sweep.result import SEED, StudyRecord, TrialRecord
from plinio_sweep.view import report

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
PLACES = ("storage", "artifacts")  # settings that say where a study is


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be run, and how.

    Args:
        trials: How many in all; as many as the study says when left out.
        workers: How many; on this machine, unless the engine has others.
        threads: Of each worker; as many as its engine gives it when left out.
        engine: What starts the workers.
        accept_drift: Whether a study file that changed is taken.
        given: Settings by name, as options said them.
    """

    trials: int | None = None
    workers: int = 1
    threads: int | None = None
    engine: str = "local"
    accept_drift: bool = False
    given: Mapping[str, str] = field(default_factory=dict)

    def places(self, names: tuple[str, ...] = PLACES) -> str:
        """The options by which another command finds the study again."""
        found = {name: self.given[name] for name in names if name in self.given}
        return "".join(f" --{name} {shlex.quote(redacted(url))}" for name, url in found.items())

    def again(self) -> str:
        """The options by which the same command goes on."""
        numbers = {"trials": self.trials, "workers": self.workers, "threads": self.threads}
        told = {name: str(number) for name, number in numbers.items() if number}
        if self.workers == 1:
            del told["workers"]
        if self.engine != "local":
            told["engine"] = self.engine
        told |= {name: value for name, value in self.given.items() if name not in PLACES}
        words = "".join(f" --{name} {shlex.quote(value)}" for name, value in told.items())
        return words + self.places()


def run_study(path: Path, order: Order) -> int:
    """Starts or continues the study at `path`; its exit code.

    Raises:
        ValueError: When the study, its database or its folder can't be used.
    """
    from plinio_sweep.sweep.storage import explained

    settings = load_settings(path)
    with explained(settings):
        return _run(path, settings, order)


def _run(path: Path, settings: Settings, order: Order) -> int:
    from plinio_sweep.plugin import load_study
    from plinio_sweep.store import tracking
    from plinio_sweep.store.opening import open_store
    from plinio_sweep.sweep.opening import open_study
    from plinio_sweep.sweep.reading import record_of

    sweep = load_study(path)
    engine = open_engine(order.engine, settings)
    open_store(settings).ready()
    study = open_study(sweep, settings, file=path.name, accept_drift=order.accept_drift)
    target = order.trials or sweep.trials
    study.set_user_attr("target", target)
    click.echo(f"study {sweep.name} in {redacted(settings.storage_url)}")
    click.echo(f"files in {settings.folder}")
    if settings.artifacts:
        click.echo(f"artefacts in {redacted(settings.artifacts)}")
    if settings.tracking_uri and not tracking.available():
        click.echo(
            "MLflow is not installed, so no run is tracked: pip install 'plinio-sweep[mlflow]'"
        )
    before = record_of(study, settings.folder)
    with _Bars(target, before) as bars:
        errors = _work(path, study, order, settings, engine, bars)
    if bars.trained or bars.reused:
        click.echo(f"epochs: {bars.trained} trained, {bars.reused} taken from the store")
    record = record_of(study, settings.folder)
    if errors is None:
        return _stopped(path, record, order)
    if errors:
        raise ValueError(" ".join(errors))
    if record != before:
        _save_figure(study, record, settings)
    print_front(record)
    _print_next(path, record, order)
    return FAILED if report.failures(record) else DONE


def _work(
    path: Path, study: Any, order: Order, settings: Settings, engine: Engine, bars: _Bars
) -> list[str] | None:
    """Runs workers until nothing is missing; what went wrong, or nothing at all after Ctrl-C."""
    from plinio_sweep.store.opening import open_store
    from plinio_sweep.sweep.reading import record_of

    arguments = ["--trials", str(study.user_attrs["target"])]
    arguments += ["--accept-drift"] if order.accept_drift else []

    def work(workers: int, *more: str) -> list[str] | None:
        request = Request(
            study=path,
            settings=settings,
            workers=workers,
            arguments=(*arguments, *more),
            threads=order.threads,
            heard=bars.hear,
            record=lambda: record_of(study, settings.folder),
        )
        return _run_workers(engine(request), bars)

    # Once more for the trials that died with their worker after the others had ended.
    for count in (order.workers, 1):
        if not _missing_results(record_of(study, settings.folder)):
            break
        errors = work(count)
        if errors is None or errors:
            return errors
    # The last worker measures the front; here it is one that did not live to do so.
    store = open_store(settings, warn=bars.say)
    if _missing_tests(study, record_of(study, settings.folder), store):
        return work(1, "--finish")
    return []


def _missing_results(record: StudyRecord) -> bool:
    done = sum(record.count(state) for state in ("complete", "pruned", "failed"))
    open_ = any(not baseline.values and not baseline.reason for baseline in record.baselines)
    return done < record.target_trials or record.count("running") > 0 or open_


def _missing_tests(study: Any, record: StudyRecord, store: Any) -> bool:
    """Whether the front is to be measured, or some of it is not in the store as it should be."""
    from plinio_sweep.view.front import shown

    wanted = shown(record)
    # All are looked at, so that all that is damaged is told at once.
    lost = [key for key, artifact in wanted.items() if store.find(artifact) is None]
    return bool(lost) or any(f"test:{key}" not in study.user_attrs for key in wanted)


def _run_workers(group: Group, bars: _Bars) -> list[str] | None:
    """Runs workers to their end; what went wrong, or nothing at all after Ctrl-C."""
    try:
        with _terminable():
            group.run()
    except KeyboardInterrupt:
        bars.say("stopping: each worker puts its trial back into the queue")
        group.stop()
        return None
    return group.errors


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is taken as Ctrl-C: so a cluster ends what it started, the only program at that."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stopped(path: Path, record: StudyRecord, order: Order) -> int:
    click.echo(f"stopped: {report.summary_line(record)}")
    click.echo(f"continue with: plinio-sweep run {shlex.quote(str(path))}{order.again()}")
    return INTERRUPTED


def print_front(record: StudyRecord, points: Sequence[TrialRecord] | None = None) -> None:
    """The front as a table, what was tried again or failed, and the sum of it.

    Args:
        record: The study.
        points: What to show of the front; all of it when left out.
    """
    console = Console()
    if record.count("complete"):
        console.print(report.front_table(record, points))
    for line in (*report.drifts(record), *report.retries(record), *report.failures(record)):
        click.echo(line)
    click.echo(report.summary_line(record))


def _print_next(path: Path, record: StudyRecord, order: Order) -> None:
    from plinio_sweep.view.front import front

    study, places = shlex.quote(str(path)), order.places()
    click.echo("next:")
    click.echo(f"  plinio-sweep show {study} --plot front.png{places}")
    if points := front(record):
        click.echo(f"  plinio-sweep export {study} {points[0].number} model{places}")
    click.echo(f"  plinio-sweep serve {study}{order.places(('storage',))}")


def _save_figure(study: Any, record: StudyRecord, settings: Settings) -> None:
    from plinio_sweep.commands.panels import look_into
    from plinio_sweep.view.dashboard import save_panels

    try:
        save_panels(study, record, look_into(settings))
    except ImportError:
        return  # the dashboard is an extra


class _Bars:
    """A bar for the trials, and one for the epochs of each worker."""

    def __init__(self, target: int, record: StudyRecord) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            transient=True,
        )
        self._target = target
        done = sum(record.count(state) for state in ("complete", "pruned", "failed"))
        self._trials = self._progress.add_task("trials", total=target, completed=min(done, target))
        self._workers: dict[int, TaskID] = {}
        self._baselines: dict[int, str] = {}  # what each worker trained last of them
        self.trained, self.reused = 0, 0  # epochs

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(redacted(text), markup=False, highlight=False, soft_wrap=True)

    def hear(self, worker: int, event: Mapping[str, Any]) -> None:
        """Shows one event of one worker."""
        kind = event.get("event")
        self.reused += event.get("reused_epochs", 0)
        if kind == "epoch":
            self.trained += 1
            self._epoch(worker, event)
        elif kind in ("complete", "failed") or (kind == "lost" and event.get("given_up")):
            self._progress.advance(self._trials)
        if kind == "failed":
            self.say(f"trial {event['trial']} failed: {event['reason']}")
        elif kind == "lost":
            self.say(f"trial {event['trial']} is taken up again: {event['reason']}")
        elif kind == "taken":
            self.say(f"trial {event['trial']} was given to another worker meanwhile")
        elif kind == "baseline start":
            self._baselines[worker] = event["name"]
        elif kind == "baseline failed":
            self.say(f"baseline {event['name']} failed: {event['reason']}")
        elif kind == "warning":
            self.say(str(event["text"]))
        elif kind == "complete" and not self._progress.console.is_terminal:
            self.say(f"trial {event['trial']} complete: {event['values']}")

    def _epoch(self, worker: int, event: Mapping[str, Any]) -> None:
        number = event["trial"]
        what = self._baselines.get(worker, SEED) if number is None else f"trial {number}"
        text = f"worker {worker}: {what}, {event['phase']}"
        if worker not in self._workers:
            self._workers[worker] = self._progress.add_task(text)
        task = self._workers[worker]
        self._progress.update(
            task, description=text, completed=event["epoch"], total=event["epochs"]
        )
