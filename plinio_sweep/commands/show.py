"""`plinio-sweep show`: the front of a stored study, or what of it fits a purpose."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from plinio_sweep.commands.run import print_front
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.result import StudyRecord, TrialRecord
from plinio_sweep.view import choose, confirm, report
from plinio_sweep.view.front import front


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of a front.

    Args:
        limits: Upper bounds, as "size_bytes=24kB".
        at_least: Lower bounds, as "accuracy=0.85".
        knee: Whether the knee alone.
        diverse: How many points that are far from each other.
        as_json: Whether for machines.
        plot: Where to draw it, if anywhere.
        report: Where to write the study as a page, if anywhere.
        models: Cost models to score by.
        bits: Of float layers, for these.
        confirm: How often each point is trained again, from other seeds.
        baselines: Names of those that are trained again, too.
        margin: That a loss against the seed net may have, in the metric's own unit.
        test: Whether the points are measured on test data.
        workers: How many do so.
    """

    limits: tuple[str, ...] = ()
    at_least: tuple[str, ...] = ()
    knee: bool = False
    diverse: int | None = None
    as_json: bool = False
    plot: Path | None = None
    report: Path | None = None
    models: tuple[str, ...] = ()
    bits: str | None = None
    confirm: int | None = None
    baselines: tuple[str, ...] = ()
    margin: float | None = None
    test: bool = False
    workers: int | None = None

    def check(self) -> None:
        """Refuses options that don't go together.

        Raises:
            ValueError: With the ones to leave out or to add.
        """
        if self.bits is not None and not self.models and self.report is None:
            raise ValueError(
                "`--bits` must go with `--model`, but there is none; name a cost model."
            )
        if self.knee and self.diverse is not None:
            raise ValueError(
                "`--knee` is one point and `--diverse` several, but got both; leave one out."
            )
        if self.confirm is not None and self.confirm < 2:
            raise ValueError(
                f"`--confirm` must be 2 or more, for one replicate has no spread, but got "
                f"{self.confirm}; 5 is a start."
            )
        if self.margin is not None and (self.confirm is None or not 0 <= self.margin < math.inf):
            raise ValueError(
                f"`--margin` must be 0 or more and go with `--confirm`, but got {self.margin} and "
                f"{self.confirm or 'no replicates'}; write for instance --confirm 5 --margin 0.01."
            )
        if self.baselines and self.confirm is None:
            raise ValueError(
                f"`--baseline` must go with `--confirm`, but got {', '.join(self.baselines)} "
                f"alone; add for instance --confirm 3, or leave it out."
            )
        if self.workers is not None and self.confirm is None and not self.test:
            raise ValueError(
                "`--workers` must go with `--confirm` or `--test`, but there is neither; leave it "
                "out, as nothing else is work."
            )


def show_study(path: Path, wish: Wish) -> None:
    """Prints what `wish` asks of the study at `path`, and draws it.

    Raises:
        ValueError: For options that don't go together, unknown names, or a study that is none.
    """
    wish.check()
    limits, at_least = (
        dict(choose.parse_bound(text) for text in texts) for texts in (wish.limits, wish.at_least)
    )
    settings = load_settings(path)

    def read() -> StudyRecord:
        record = read_study(path, settings, named=lambda: load_study(path).name)
        if wish.models:
            from plinio_sweep.commands.stored import rescored

            record = rescored(path, record, wish.models, wish.bits)
        return choose.bounded(record, limits, at_least)

    record = read()
    points = _points(record, wish)
    _check_baselines(record, wish.baselines)
    if points and (wish.confirm or wish.test):
        from plinio_sweep.commands.confirm import Effort, see_to

        numbers = tuple(point.number for point in points)
        count, workers = wish.confirm or 0, wish.workers or 1
        effort = Effort(
            points=numbers,
            baselines=wish.baselines,
            replicates=count,
            test=wish.test,
            workers=workers,
        )
        see_to(path, settings, effort)
        record = read()
        points = tuple(trial for n in numbers for trial in record.trials if trial.number == n)
    if wish.plot is not None:
        from plinio_sweep.view.figure import save_front

        save_front(record, wish.plot)
    if wish.report is not None:
        from plinio_sweep.commands.page import save_page

        margin = None if wish.confirm is None else _margin(wish)
        every = confirm.stored(record, wish.confirm, margin)
        save_page(path, record, wish.report, wish.bits, every)
    found = _confirmation(record, points, wish)
    if wish.as_json:
        confirmed = None if found is None else confirm.confirmation_json(found)
        shown = report.to_json(record, points, confirmed)
        click.echo(json.dumps(shown, indent=2, allow_nan=False))
        return
    print_front(record, points)
    if found is not None:
        Console().print(*confirm.confirmation_tables(record, found))
        click.echo("\n".join(confirm.confirmation_lines(found)))
    if not points and record.count("complete"):
        click.echo("nothing fits: ease a bound, or let the study run on")
    if wish.plot is not None:
        click.echo(f"front drawn in {wish.plot}")
    if wish.report is not None:
        click.echo(f"report written to {wish.report}")


def _points(record: StudyRecord, wish: Wish) -> tuple[TrialRecord, ...]:
    if wish.knee:
        return choose.knee(record)
    return front(record) if wish.diverse is None else choose.diverse(record, wish.diverse)


def _confirmation(
    record: StudyRecord, points: tuple[TrialRecord, ...], wish: Wish
) -> confirm.Confirmation | None:
    if wish.confirm is None or not points:
        return None
    keys = [*wish.baselines, *(str(point.number) for point in points)]
    return confirm.confirmation(record, keys, wish.confirm, _margin(wish))


def _check_baselines(record: StudyRecord, names: tuple[str, ...]) -> None:
    known = [baseline.name for baseline in record.baselines if baseline.values]
    for name in names:
        if name not in known or names.count(name) > 1:
            raise ValueError(
                f"`--baseline` must name each one once, among those with a result, {known}, but "
                f"got {name!r}; the seed net is always trained again."
            )


def _margin(wish: Wish) -> float:
    return confirm.MARGIN if wish.margin is None else wish.margin
