"""`plinio-sweep export`: one trial as a folder that other tools read."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from plinio_sweep.commands.stored import complete_trial, folder_of
from plinio_sweep.plugin import load_study
from plinio_sweep.settings import load_settings
from plinio_sweep.ship.bundle import Format, write_bundle
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.reading import read_study
from plinio_sweep.sweep.shipped import Shipped, sample, shipped
from plinio_sweep.sweep.trial import load_net, rebuild

LEFT_OUT = "left out, its extra is not installed: pip install plinio-sweep[onnx]"


def export_trial(path: Path, number: int, directory: Path, *, form: str, force: bool) -> None:
    """Writes the bundle of one trial and prints what its checks found.

    Args:
        path: Of the study.
        number: Of the trial.
        directory: To be written.
        form: A format, or "all" that are possible.
        force: Whether a bundle that is there is replaced.

    Raises:
        ValueError: When there is no such complete trial, it has no such form, or the folder can't
            be written.
    """
    settings = load_settings(path)
    record = read_study(path, settings)
    trial = complete_trial(record, number)
    store = open_store(settings)
    folder = folder_of(trial.artifact, f"trial {number}", settings, store)
    sweep = load_study(path)
    ground = ground_of(sweep, settings, store)
    net = load_net(ground, folder)
    leaves = shipped(ground, net)
    formats, left_out = _formats(form, leaves)
    architecture = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    report |= {"metrics": dict(trial.metrics), "integers": leaves.notes}
    differences = write_bundle(
        directory,
        net.cpu(),
        tuple(value.cpu() for value in sample(ground)),
        architecture,
        report,
        rebuild=lambda stored: rebuild(sweep.task.net, stored),
        integers=None if leaves.integers is None else leaves.integers.cpu(),
        formats=formats,
        force=force,
    )
    for name, difference in differences.items():
        click.echo(f"{name}: reloaded, largest difference {difference:.3g}")
    if "c" in formats:
        click.echo(_code_of(json.loads((directory / "report.json").read_text(encoding="utf-8"))))
    for name, reason in left_out.items():
        click.echo(f"{name}: {reason}")
    click.echo(f"trial {number} is in {directory}")


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
