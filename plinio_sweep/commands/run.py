"""`plinio-sweep run`: workers, what is seen of them, and the front at the end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from plinio_sweep.engine.group import Engine, Request, open_engine, run_group
from plinio_sweep.engine.track import left_over
from plinio_sweep.settings import Settings, load_settings, redacted
from plinio_sweep.sweep.result import StudyRecord, TrialRecord
from plinio_sweep.view import report
from plinio_sweep.view.live import LiveView

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
    read = partial(record_of, study, settings.folder)
    with LiveView(before, workers=order.workers, read=read) as bars:
        errors = _work(path, study, order, settings, engine, bars)
    if bars.trained or bars.reused:
        click.echo(f"epochs: {bars.trained} trained, {bars.reused} taken from the store")
    if waits := left_over(settings):
        click.echo(waits)
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
    path: Path, study: Any, order: Order, settings: Settings, engine: Engine, bars: LiveView
) -> list[str] | None:
    """Runs workers until nothing is missing; what went wrong, or nothing at all after Ctrl-C."""
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
        stopping = "stopping: each worker puts its trial back into the queue"
        return run_group(engine(request), lambda: bars.say(stopping))

    # Of a run before, when MLflow was away: any worker tells it, so one more only where none is.
    unheard = bool(left_over(settings))
    # Once more for the trials that died with their worker after the others had ended.
    for count in (order.workers, 1):
        if not _missing_results(record_of(study, settings.folder)):
            break
        errors, unheard = work(count), False
        if errors is None or errors:
            return errors
    # The last worker sees to the front; here it is one that did not live to do so.
    if _is_unkept(study, record_of(study, settings.folder), settings, bars) or unheard:
        return work(1, "--finish")
    return []


def _missing_results(record: StudyRecord) -> bool:
    done = sum(record.count(state) for state in ("complete", "pruned", "failed"))
    open_ = any(not baseline.values and not baseline.reason for baseline in record.baselines)
    return done < record.target_trials or record.count("running") > 0 or open_


def _is_unkept(study: Any, record: StudyRecord, settings: Settings, bars: LiveView) -> bool:
    """Whether some net of the front is not in a store as it should be."""
    from plinio_sweep.store import tracking
    from plinio_sweep.store.opening import open_store
    from plinio_sweep.sweep.tracker import unkept
    from plinio_sweep.view.front import shown

    wanted, store = shown(record), open_store(settings, warn=bars.say)
    # All are looked at, so that all that is damaged is told at once.
    lost = [key for key, artifact in wanted.items() if store.find(artifact) is None]
    tracked = settings.tracking_uri and tracking.available()
    return bool(lost or (tracked and unkept(study, wanted)))


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
    if record.touched or record.tested:
        click.echo(report.seen_line(record))


def _print_next(path: Path, record: StudyRecord, order: Order) -> None:
    from plinio_sweep.view.front import front

    study, places = shlex.quote(str(path)), order.places()
    click.echo("next:")
    click.echo(f"  plinio-sweep show {study} --plot front.png{places}")
    click.echo(f"  plinio-sweep show {study} --test{places}")
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
