"""The cost of any plain net, layer by layer, with no search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from costs import CostModel, LayerSpec, total
from plinio_sweep.graph.memory import Memory
from plinio_sweep.graph.table import Row, analyse_graph
from plinio_sweep.graph.trace import as_inputs, beside, is_stock, trace

Call = tuple[LayerSpec, Tensor]  # with the share of its bit-widths


@dataclass(frozen=True, kw_only=True)
class CostReport:
    """Costs of a net.

    Args:
        totals: By model.
        units: By model.
        layers: One row a call of a layer, in order: its name, kind and cost under each model; what
            is in memory while it runs under a model with a peak.
        uncovered: The layers that are free under a model only because it does not know them.
    """

    totals: Mapping[str, float]
    units: Mapping[str, str]
    layers: tuple[Mapping[str, Any], ...]
    uncovered: Mapping[str, tuple[str, ...]]


@torch.no_grad()
def cost_of(
    net: nn.Module, example: Tensor | tuple[Tensor, ...], models: Mapping[str, CostModel]
) -> CostReport:
    """Counts `net` as it is: float layers at 32 bit, unless `assume_bits` says otherwise.

    Args:
        net: Any module whose forward pass can be traced; it is not changed.
        example: Its input, or its inputs.
        models: Cost models by name.

    Raises:
        UntraceableError: When the forward pass depends on values.
        ValueError: When a model does not have the bit-widths of a layer.

    Example:
        >>> from costs import macs
        >>> cost_of(nn.Linear(4, 2), torch.zeros(2, 4), {"macs": macs}).totals
        {'macs': 8.0}
    """
    if is_stock(net) and not list(net.children()):
        net = nn.Sequential(net)  # a trace opens what it is given: a bare layer would be no layer
    inputs = beside(net, as_inputs(example))
    analysis = analyse_graph(trace(net, inputs), inputs)
    rows = analysis.table.rows
    layers = [row.plain() for row in rows]
    moments: list[Call] = []
    if any(model.peak for model in models.values()):
        memory = Memory(analysis)
        channels = torch.ones(analysis.table.size, dtype=torch.float64)
        moments = [(moment, channels[0]) for moment in memory.moments(memory.sizes(channels))]
    columns = {
        name: _by_moment(model, rows, moments) if model.peak else _by_layer(model, layers)
        for name, model in models.items()
    }
    return CostReport(
        totals={
            name: float(total(model, moments if model.peak else layers))
            for name, model in models.items()
        },
        units={name: model.unit for name, model in models.items()},
        layers=tuple(
            {"name": row.name, "op": row.spec.op} | {n: costs[i] for n, costs in columns.items()}
            for i, row in enumerate(rows)
        ),
        uncovered={
            name: names for name, model in models.items() if (names := _free(model, layers))
        },
    )


def _by_layer(model: CostModel, layers: list[Call]) -> list[float]:
    return [float(total(model, [layer])) for layer in layers]


def _by_moment(model: CostModel, rows: tuple[Row, ...], moments: list[Call]) -> list[float]:
    known = {moment.name: (moment, share) for moment, share in moments}
    return [float(total(model, [known[row.node]] if row.node in known else [])) for row in rows]


def _free(model: CostModel, layers: list[Call]) -> tuple[str, ...]:
    if model.peak:
        return ()
    return tuple(dict.fromkeys(spec.name for spec, _ in layers if not model.covers(spec)))
