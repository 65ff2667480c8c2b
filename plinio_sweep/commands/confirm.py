"""What `plinio-sweep show` has workers do for the points that it lists: replicates, test data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from plinio_sweep.engine.group import Request, open_engine, run_group
from plinio_sweep.settings import Settings, redacted
from plinio_sweep.sweep.result import SEED, replicate_name

INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What is to be done for some trials of a study, for the seed net and for baselines.

    Args:
        points: Numbers of the trials.
        baselines: Names of those that are trained again, too.
        replicates: How often each is trained again.
        test: Whether they, and what they are compared with, are measured on test data.
        workers: How many.
    """

    points: tuple[int, ...]
    baselines: tuple[str, ...] = ()
    replicates: int = 0
    test: bool = False
    workers: int = 1

    def names(self) -> list[str]:
        """Those of all replicates."""
        numbers = range(1, self.replicates + 1)
        keys = (SEED, *self.baselines, *map(str, self.points))
        return [replicate_name(key, number) for key in keys for number in numbers]


def see_to(path: Path, settings: Settings, effort: Effort) -> None:
    """Does what is asked for the study at `path`, as far as it was not done before.

    Raises:
        ValueError: When the study has changed, or workers can't go on.
        SystemExit: After Ctrl-C.
    """
    from plinio_sweep.plugin import load_study
    from plinio_sweep.store.opening import open_store
    from plinio_sweep.sweep.opening import open_study
    from plinio_sweep.sweep.storage import explained

    sweep = load_study(path)
    with explained(settings):
        open_store(settings).ready()
        # Refused where the study has changed: it would be another net that is trained.
        study = open_study(sweep, settings, file=path.name)
        # Once more for what died with its worker after the others had ended.
        for workers in (effort.workers, 1):
            if not _missing(study, settings, effort):
                return
            _work(path, settings, study, effort, workers)


def _missing(study: Any, settings: Settings, effort: Effort) -> list[str]:
    """Replicates without a result, and nets that test data say nothing of."""
    from plinio_sweep.sweep.reading import is_tested, record_of
    from plinio_sweep.view.front import shown

    record = record_of(study, settings.folder)
    known = {replicate.name for replicate in record.replicates}
    missing = [name for name in effort.names() if name not in known]
    if effort.test:
        wanted = shown(record, effort.points, effort.replicates, effort.baselines)
        attrs = study.user_attrs
        missing += [k for k, artifact in wanted.items() if not is_tested(attrs, k, artifact)]
    return missing


def _work(path: Path, settings: Settings, study: Any, effort: Effort, workers: int) -> None:
    from plinio_sweep.sweep.reading import record_of

    arguments = ["--trials", str(study.user_attrs.get("target", 0))]
    arguments += ["--points", ",".join(map(str, effort.points))]
    arguments += ["--confirm", str(effort.replicates)] if effort.replicates else []
    arguments += [word for name in effort.baselines for word in ("--baseline", name)]
    arguments += ["--test"] if effort.test else []
    known = {r.name for r in record_of(study, settings.folder).replicates}
    names = effort.names()
    with _Bars(len(names), len(known.intersection(names))) as bars:
        request = Request(
            study=path,
            settings=settings,
            workers=workers,
            arguments=tuple(arguments),
            threads=None,
            heard=bars.hear,
            record=lambda: record_of(study, settings.folder),
        )
        group = open_engine("local", settings)(request)
        errors = run_group(group, lambda: bars.say("stopping: the same command goes on"))
    if bars.trained or bars.reused:
        bars.say(f"epochs: {bars.trained} trained, {bars.reused} taken from the store")
    if errors is None:
        raise SystemExit(INTERRUPTED)
    if errors:
        raise ValueError(" ".join(errors))


class _Bars:
    """A bar for the replicates and one for the epochs of each worker, beside the results."""

    def __init__(self, total: int, done: int) -> None:
        # Standard output is the table's, or of a program that reads JSON.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            transient=True,
            console=Console(stderr=True),
        )
        self._all = self._progress.add_task(
            "replicates", total=total, completed=done, visible=total > 0
        )
        self._workers: dict[int, TaskID] = {}
        self._names: dict[int, str] = {}  # what each worker has in hand
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
        elif kind == "replicate start":
            self._names[worker] = event["name"]
        elif kind in ("replicate", "replicate failed"):
            self._progress.advance(self._all)
        elif kind == "warning":
            self.say(str(event["text"]))

    def _epoch(self, worker: int, event: Mapping[str, Any]) -> None:
        text = f"worker {worker}: {self._names.get(worker, 'a lost net')}, {event['phase']}"
        if worker not in self._workers:
            self._workers[worker] = self._progress.add_task(text)
        self._progress.update(
            self._workers[worker],
            description=text,
            completed=event["epoch"],
            total=event["epochs"],
        )
