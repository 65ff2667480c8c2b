"""`plinio-sweep export`: one trial as a folder that other tools read, and as a registered model."""

from __future__ import annotations

import importlib.util
import json
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from torch import nn

from plinio_sweep.commands.stored import complete_trial, folder_of
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import Settings, load_settings
from plinio_sweep.ship.bundle import WEIGHTS_TOLERANCE, Format, write_bundle
from plinio_sweep.store.opening import open_store
from plinio_sweep.store.registry import Registration, check_names, register
from plinio_sweep.sweep.definition import digest
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.result import TrialRecord
from plinio_sweep.sweep.shipped import Shipped, sample, shipped
from plinio_sweep.sweep.stage import Ground
from plinio_sweep.sweep.trial import load_net, rebuild

LEFT_OUT = "left out, its extra is not installed: pip install plinio-sweep[onnx]"
ALIAS = "champion"
EXAMPLES = 16  # inputs that are kept in a registered model, as text


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What becomes of a trial.

    Args:
        directory: To be written; may be left out when it is registered.
        form: A format, or "all" that are possible.
        force: Whether a bundle that is there is replaced.
        name: Of the registered model; nothing to have it not registered.
        alias: For the new version.

    Raises:
        ValueError: For options that don't go together.
    """

    directory: Path | None
    form: str
    force: bool
    name: str | None
    alias: str | None

    def __post_init__(self) -> None:
        if self.directory is None and self.name is None:
            raise ValueError(
                "`export` must have a DIRECTORY to write, or a name to `--register` under, but got "
                "neither; add one."
            )
        if self.alias is not None and self.name is None:
            raise ValueError(
                f"`--alias` must go with `--register`, but got {self.alias!r} alone; add the name."
            )
        if self.name is not None:
            check_names(self.name, self.version_alias)

    @property
    def version_alias(self) -> str:
        """What the new version is to be called; empty for nothing."""
        return ALIAS if self.alias is None else self.alias


@dataclass(frozen=True, kw_only=True, eq=False)
class _Point:
    study: str
    study_run: str
    settings: Settings
    trial: TrialRecord
    folder: Path  # its artefact
    ground: Ground
    net: nn.Module
    leaves: Shipped


def export_trial(path: Path, number: int, wish: Wish) -> None:
    """Writes the bundle of one trial, registers it, and prints what its checks found.

    Args:
        path: Of the study.
        number: Of the trial.
        wish: What becomes of it.

    Raises:
        ValueError: When there is no such complete trial, it has no such form, the folder can't be
            written, or the model not be registered.
    """
    point = _read(path, number)
    with _place(wish) as directory:
        _write(point, wish, directory)
        if wish.directory is not None:
            click.echo(f"trial {number} is in {directory}")
        if wish.name is not None:
            _register(point, wish, wish.name, directory)


def _read(path: Path, number: int) -> _Point:
    settings = load_settings(path)
    sweep = load_study(path)
    record = read_study(path, settings, sweep.name)
    trial = complete_trial(record, number)
    store = open_store(settings)
    folder = folder_of(trial.artifact, f"trial {number}", settings, store)
    ground = ground_of(sweep, settings, store)
    net = load_net(ground, folder)
    return _Point(
        study=record.name,
        study_run=record.run,
        settings=settings,
        trial=trial,
        folder=folder,
        ground=ground,
        net=net,
        leaves=shipped(ground, net),
    )


@contextmanager
def _place(wish: Wish) -> Iterator[Path]:
    """Where the bundle is written; it goes again where only the registry is to have it."""
    if wish.directory is not None:
        yield wish.directory
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch, "bundle")


def _write(point: _Point, wish: Wish, directory: Path) -> None:
    leaves, task = point.leaves, point.ground.task
    formats, left_out = _formats(wish.form, leaves)
    architecture = json.loads((point.folder / "architecture.json").read_text(encoding="utf-8"))
    report = json.loads((point.folder / "report.json").read_text(encoding="utf-8"))
    report |= {"metrics": dict(point.trial.metrics), "integers": leaves.notes}
    differences = write_bundle(
        directory,
        point.net.cpu(),
        tuple(value.cpu() for value in sample(point.ground)),
        architecture,
        report,
        rebuild=lambda stored: rebuild(task.net, stored),
        integers=None if leaves.integers is None else leaves.integers.cpu(),
        formats=formats,
        force=wish.force,
    )
    for name, difference in differences.items():
        click.echo(f"{name}: reloaded, largest difference {difference:.3g}")
    if "c" in formats:
        click.echo(_code_of(json.loads((directory / "report.json").read_text(encoding="utf-8"))))
    for name, reason in left_out.items():
        click.echo(f"{name}: {reason}")


def _register(point: _Point, wish: Wish, name: str, directory: Path) -> None:
    alias = wish.version_alias
    wanted = Registration(
        name=name,
        alias=alias,
        trial=point.trial.number,
        params=point.trial.params,
        net=point.leaves.net,
        example=tuple(value[:EXAMPLES] for value in sample(point.ground)),
        bundle=directory,
        tags=_tags(point),
        # Whole numbers are the same numbers everywhere.
        tolerance=WEIGHTS_TOLERANCE if point.leaves.integers is None else 0.0,
        run=point.trial.run,
        study_run=point.study_run,
    )
    number, difference = register(point.settings, point.study, wanted)
    click.echo(f"mlflow: reloaded, largest difference {difference:.3g}")
    click.echo(f"trial {wanted.trial} is models:/{name}/{number}" + f", {alias}" * bool(alias))


def _tags(point: _Point) -> dict[str, str]:
    """By which a registered model can be traced to its training."""
    trial = point.trial
    return {
        "study": point.study,
        "trial": str(trial.number),
        "stages": " ".join(trial.nodes),
        "data": digest(point.ground.data_identity),
        **{f"cost.{name}": f"{value:.10g}" for name, value in trial.costs.items()},
        **{f"metric.{name}": f"{value:.10g}" for name, value in trial.metrics.items()},
        **{f"version.{name}": version(name) for name in ("plinio-sweep", "torch")},
        "version.python": platform.python_version(),
    }


def _code_of(report: Mapping[str, Any]) -> str:
    """What the C code takes, in one line."""
    code = report["c"]
    size = code.get("object", {}).get("text")
    takes = code["compiler"] if size is None else f"{size:,} bytes by {code['compiler']}"
    return f"c: code and constants {takes}, arena {code['arena_bytes']:,} bytes"


def _formats(form: str, leaves: Shipped) -> tuple[tuple[Format, ...], Mapping[str, str]]:
    """What is written, and why the rest is not."""
    if form == "torch":
        return ("torch",), {}
    reason = leaves.notes.get("reason", "")
    if form == "onnx":
        return ("torch", "onnx"), {}
    if form == "c":
        if reason:
            raise ValueError(reason)
        return ("torch", "c"), {}
    formats: list[Format] = ["torch"]
    left_out: dict[str, str] = {}
    if importlib.util.find_spec("onnxscript") is not None:
        formats.append("onnx")
    else:
        left_out["onnx"] = LEFT_OUT
    if leaves.integers is not None:
        formats.append("c")
    elif reason:
        left_out["c"] = f"left out: {reason}"
    return tuple(formats), left_out
