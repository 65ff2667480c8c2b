"""`plinio-sweep export`: one trial as a folder that other tools read."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import click

from plinio_sweep.commands.stored import complete_trial, folder_of
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import load_settings
from plinio_sweep.ship.bundle import write_bundle
from plinio_sweep.store.artifacts import FolderStore
from plinio_sweep.sweep.drive import ground_of
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.trial import load_net, rebuild


def export_trial(path: Path, number: int, directory: Path) -> None:
    """Writes the bundle of one trial and prints what its checks found.

    Raises:
        ValueError: When there is no such complete trial, or the folder can't be written.
    """
    settings = load_settings(path)
    record = read_study(path, settings)
    trial = complete_trial(record, number)
    folder = folder_of(trial.artifact, f"trial {number}", settings)
    sweep = load_study(path)
    ground = ground_of(sweep, settings, FolderStore(settings.artifacts))
    net = load_net(ground, folder)
    onnx = importlib.util.find_spec("onnxscript") is not None
    architecture = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    report["metrics"] = dict(trial.metrics)
    differences = write_bundle(
        directory,
        net.cpu(),
        tuple(value.cpu() for value in ground.data.example()),
        architecture,
        report,
        rebuild=lambda stored: rebuild(sweep.task.net, stored),
        onnx=onnx,
    )
    for name, difference in differences.items():
        click.echo(f"{name}: reloaded, largest difference {difference:.3g}")
    if not onnx:
        click.echo("onnx: left out, its extra is not installed: pip install plinio-sweep[onnx]")
    click.echo(f"trial {number} is in {directory}")
