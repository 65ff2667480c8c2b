"""`plinio-sweep show`: the front of a stored study, or what of it fits a purpose."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click

from plinio_sweep.commands.run import print_front
from plinio_sweep.settings import load_settings
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.result import StudyRecord, TrialRecord
from plinio_sweep.view import choose, report
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
        models: Cost models to score by.
        bits: Of float layers, for these.
    """

    limits: tuple[str, ...] = ()
    at_least: tuple[str, ...] = ()
    knee: bool = False
    diverse: int | None = None
    as_json: bool = False
    plot: Path | None = None
    models: tuple[str, ...] = ()
    bits: str | None = None


def show_study(path: Path, wish: Wish) -> None:
    """Prints what `wish` asks of the study at `path`, and draws it.

    Raises:
        ValueError: For options that don't go together, unknown names, or a study that is none.
    """
    if wish.bits is not None and not wish.models:
        raise ValueError("`--bits` must go with `--model`, but there is none; name a cost model.")
    if wish.knee and wish.diverse is not None:
        raise ValueError(
            "`--knee` is one point and `--diverse` several, but got both; leave one out."
        )
    limits, at_least = (
        dict(choose.parse_bound(text) for text in texts) for texts in (wish.limits, wish.at_least)
    )
    record = read_study(path, load_settings(path))
    if wish.models:
        from plinio_sweep.commands.stored import rescored

        record = rescored(path, record, wish.models, wish.bits)
    record = choose.bounded(record, limits, at_least)
    points = _points(record, wish)
    if wish.plot is not None:
        from plinio_sweep.view.figure import save_front

        save_front(record, wish.plot)
    if wish.as_json:
        click.echo(json.dumps(report.to_json(record, points), indent=2, allow_nan=False))
        return
    print_front(record, points)
    if not points and record.count("complete"):
        click.echo("nothing fits: ease a bound, or let the study run on")
    if wish.plot is not None:
        click.echo(f"front drawn in {wish.plot}")


def _points(record: StudyRecord, wish: Wish) -> tuple[TrialRecord, ...]:
    if wish.knee:
        return choose.knee(record)
    return front(record) if wish.diverse is None else choose.diverse(record, wish.diverse)
