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
from torch import Tensor, nn

from costs import MODELS, CostModel
from plinio_sweep.graph.count import CostReport, cost_of
from plinio_sweep.graph.trace import random_inputs
from plinio_sweep.plugin import load_study, resolve
from plinio_sweep.settings import load_settings
from plinio_sweep.store.artifacts import FolderStore
from plinio_sweep.sweep.drive import ground_of
from plinio_sweep.sweep.trial import seed_net


def print_costs(
    reference: str, models: tuple[str, ...], input_shape: str | None, as_json: bool
) -> None:
    """Prints the costs of what `reference` names.

    Raises:
        ValueError: For an unknown net or model, or no input shape where one is needed.
    """
    net, example, own = _net(reference, input_shape)
    known = {**MODELS, **own}
    chosen = {_model(name, known).name: _model(name, known) for name in models or known}
    report = cost_of(net, example, chosen)
    if as_json:
        form = {"totals": report.totals, "units": report.units, "layers": report.layers}
        click.echo(json.dumps({**form, "uncovered": report.uncovered}, indent=2))
    else:
        Console().print(_table(report))
        if report.uncovered:
            click.echo(f"counted as storage only: {', '.join(report.uncovered)}")


def _net(
    reference: str, shape: str | None
) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, CostModel]]:
    own: dict[str, CostModel] = {}
    if reference.endswith(".py"):
        sweep, settings = load_study(Path(reference)), load_settings(Path(reference))
        found, own = sweep.task.net, dict(sweep.models)
        if shape is None:
            ground = ground_of(sweep, settings, FolderStore(settings.artifacts))
            return seed_net(ground), ground.data.example(), own
    else:
        found = resolve(reference, "plinio_sweep.nets")
    net = _made(reference, found)
    if shape is None:
        raise ValueError(
            f"`{reference}` needs its input's shape, but none was given; pass for instance "
            f"--input-shape 3,32,32."
        )
    inputs = random_inputs(net, _sizes(shape))
    _try(net, inputs, shape)
    return net, inputs, own


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
def _try(net: nn.Module, inputs: tuple[Tensor, ...], shape: str) -> None:
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


def _model(name: str, known: dict[str, CostModel]) -> CostModel:
    model: Any = resolve(name, "plinio_sweep.costs", dict(known))
    if not isinstance(model, CostModel):
        raise ValueError(
            f"`{name}` must be a cost model, but is {type(model).__name__}; put @cost(unit=...) "
            f"over its function."
        )
    return model


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
