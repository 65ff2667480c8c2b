"""`plinio-sweep cost`: any net, counted layer by layer."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from costs import COUNTS
from plinio_sweep.commands.models import resolve_models
from plinio_sweep.commands.stored import stored_net
from plinio_sweep.graph.count import CostReport, cost_of
from plinio_sweep.graph.trace import Inputs, random_inputs
from plinio_sweep.plugin import load_study, resolve
from plinio_sweep.settings import load_settings
from plinio_sweep.store.opening import open_store
from plinio_sweep.sweep.ground import ground_of
from plinio_sweep.sweep.node import seed_net
from plinio_sweep.sweep.study import Sweep
from plinio_sweep.view.report import uncovered_lines


def print_costs(
    reference: str,
    *,
    models: tuple[str, ...],
    bits: str | None,
    trial: int | None,
    input_shape: str | None,
    as_json: bool,
) -> None:
    """Prints the costs of what `reference` names.

    Raises:
        ValueError: For an unknown net, trial or model, or no input shape where one is needed.
    """
    if reference.endswith(".py"):
        sweep = load_study(Path(reference))
        own = sweep.models
        net, example = _net_of_study(sweep, Path(reference), trial, input_shape)
    else:
        own = COUNTS
        net, example = _net(reference, trial, input_shape)
    report = cost_of(net, example, resolve_models(models, own, bits))
    if as_json:
        form = {"totals": report.totals, "units": report.units, "layers": report.layers}
        click.echo(json.dumps({**form, "uncovered": report.uncovered}, indent=2))
    else:
        Console().print(_table(report))
        for line in uncovered_lines(report.uncovered):
            click.echo(line)


def _net_of_study(
    sweep: Sweep, path: Path, trial: int | None, shape: str | None
) -> tuple[nn.Module, Inputs]:
    if trial is not None:
        net, example = stored_net(sweep, path, trial)
    elif shape is None:
        settings = load_settings(path)
        ground = ground_of(sweep, settings, open_store(settings))
        return seed_net(ground), ground.data.example()
    else:
        net, example = _made(str(path), sweep.task.net), ()
    return net, example if shape is None else _inputs(net, shape)


def _net(reference: str, trial: int | None, shape: str | None) -> tuple[nn.Module, Inputs]:
    if trial is not None:
        raise ValueError(
            f"`--trial` must go with a study, but `{reference}` is none; name a study file."
        )
    net = _made(reference, resolve(reference, "plinio_sweep.nets"))
    if shape is None:
        raise ValueError(
            f"`{reference}` needs its input's shape, but none was given; pass for instance "
            f"--input-shape 3,32,32."
        )
    return net, _inputs(net, shape)


def _inputs(net: nn.Module, shape: str) -> Inputs:
    inputs = random_inputs(net, _sizes(shape))
    _try(net, inputs, shape)
    return inputs


def _made(reference: str, found: Any) -> nn.Module:
    try:
        net = found if isinstance(found, nn.Module) else found()
    except Exception as error:
        raise ValueError(
            f"`{reference}` must be a net or make one without arguments, but raised "
            f"{type(error).__name__}: {' '.join(str(error).split())}; name a function that does."
        ) from error
    if not isinstance(net, nn.Module):
        raise ValueError(
            f"`{reference}` must be a net or make one, but made {type(net).__name__}; name another."
        )
    return net


@torch.no_grad()
def _try(net: nn.Module, inputs: Inputs, shape: str) -> None:
    try:
        copy.deepcopy(net).eval()(*inputs)
    except Exception as error:
        raise ValueError(
            f"The net must accept inputs of shape {shape}, but raised {type(error).__name__}: "
            f"{' '.join(str(error).split())}; correct --input-shape."
        ) from error


def _sizes(text: str) -> tuple[tuple[int, ...], ...]:
    try:
        return tuple(tuple(int(size) for size in one.split(",")) for one in text.split(";"))
    except ValueError:
        raise ValueError(
            f"`--input-shape` must be whole numbers with commas, but got {text!r}; write for "
            f"instance 3,32,32."
        ) from None


def _table(report: CostReport) -> Table:
    table = Table()
    for title in ("layer", "kind"):
        table.add_column(title)
    for name in report.totals:
        # `Text`: a plain "[byte]" would be read as markup.
        table.add_column(Text(f"{name}\n[{report.units[name]}]"), justify="right")
    for layer in report.layers:
        cells = [f"{layer[name]:,.6g}" for name in report.totals]
        table.add_row(Text(layer["name"]), layer["op"], *cells)
    table.add_section()
    totals = [f"{value:,.10g}" for value in report.totals.values()]
    table.add_row("total", "", *totals)
    return table
