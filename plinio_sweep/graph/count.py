"""The cost of any plain net, layer by layer, with no search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from costs import CostModel, total
from plinio_sweep.graph.table import analyze
from plinio_sweep.graph.trace import is_stock


@dataclass(frozen=True, kw_only=True)
class CostReport:
    """Costs of a net.

    Args:
        totals: By model.
        units: By model.
        layers: One row a call of a layer, in order: its name, kind and cost under each model.
        uncovered: Layers that hold parameters but whose work no formula covers.
    """

    totals: Mapping[str, float]
    units: Mapping[str, str]
    layers: tuple[Mapping[str, Any], ...]
    uncovered: tuple[str, ...]


@torch.no_grad()
def cost_of(
    net: nn.Module, example: Tensor | tuple[Tensor, ...], models: Mapping[str, CostModel]
) -> CostReport:
    """Counts `net` as it is, at 32 bit.

    Args:
        net: Any module whose forward pass can be traced; it is not changed.
        example: Its input, or its inputs.
        models: Cost models by name.

    Raises:
        UntraceableError: When the forward pass depends on values.

    Example:
        >>> from costs import macs
        >>> cost_of(nn.Linear(4, 2), torch.zeros(2, 4), {"macs": macs}).totals
        {'macs': 8.0}
    """
    if is_stock(net) and not list(net.children()):
        net = nn.Sequential(net)  # a trace opens what it is given: a bare layer would be no layer
    rows = [row.plain() for row in analyze(net, example)[1].rows]
    layers = tuple(
        {
            "name": spec.name,
            "op": spec.op,
            **{name: float(total(model, [(spec, share)])) for name, model in models.items()},
        }
        for spec, share in rows
    )
    return CostReport(
        totals={name: float(total(model, rows)) for name, model in models.items()},
        units={name: model.unit for name, model in models.items()},
        layers=layers,
        uncovered=tuple(spec.name for spec, _ in rows if spec.op == "other"),
    )
