"""Hard decisions of MPS in words of the net: stored, read back, and told of each layer.

Shapes: `O` rows of a layer, 0 bit where one is pruned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from plinio_sweep.methods.candidates import check_stored
from plinio_sweep.methods.layout import Layout
from plinio_sweep.methods.search import Architecture, LayerChoice, Theta


def row_bits(layout: Layout, theta: Theta) -> dict[str, Tensor]:
    """By layer, `(O,)` bit-width of each row, 0 where it is pruned."""
    widths = torch.tensor(layout.widths)[theta["weights"].cpu().argmax(0)]
    live = theta["live"].cpu() > 0.5
    rows = widths[layout.decision.cpu()] * live[layout.label.cpu()]
    parts = torch.split(rows, layout.rows.sizes)
    return {layer.name: part for layer, part in zip(layout.rows.layers, parts, strict=True)}


def activation_bits(layout: Layout, theta: Theta) -> dict[str, int]:
    """By quantiser, its bit-width."""
    chosen = theta["activations"].argmax(0).tolist()
    return {plan.name: layout.x_bits[chosen[plan.decision]] for plan in layout.sites.quantizers}


def encode(layout: Layout, theta: Theta) -> dict[str, Any]:
    """Bit-widths of each row of each layer and of each activation, and which have a sign: JSON."""
    pairs = zip(layout.sites.quantizers, (theta["signed"] > 0).tolist(), strict=True)
    return {
        "weights": {name: rows.tolist() for name, rows in row_bits(layout, theta).items()},
        "activations": activation_bits(layout, theta),
        "signed": [plan.name for plan, signed in pairs if signed],
    }


def decode(layout: Layout, decisions: Mapping[str, Any], like: Theta) -> Theta:
    """The hard decisions that `encode` wrote.

    Args:
        layout: What the search decides on.
        decisions: As stored.
        like: Any decisions of the search, for shapes, precision and device.

    Raises:
        ValueError: When they belong to another net.
    """
    sizes = {layer.name: layer.rows for layer in layout.rows.layers}
    known = (*layout.widths, 0) if layout.prunes else layout.widths
    names = {plan.name for plan in layout.sites.quantizers}
    check_stored(decisions, sizes, names, known, layout.x_bits)
    found = {name: torch.zeros_like(value) for name, value in like.items()}
    bits = [b for layer in layout.rows.layers for b in decisions["weights"][layer.name]]
    alive = torch.tensor([b > 0 for b in bits], dtype=torch.bool)
    chosen = torch.tensor([layout.widths.index(b) if b else 0 for b in bits], dtype=torch.long)
    found["weights"][chosen, layout.decision.cpu()] = 1
    found["live"][:] = 1
    found["live"][layout.label.cpu()[~alive]] = 0
    for number, plan in enumerate(layout.sites.quantizers):
        candidate = layout.x_bits.index(decisions["activations"][plan.name])
        found["activations"][candidate, plan.decision] = 1
        found["signed"][number] = float(plan.name in decisions["signed"])
    return found


def with_bits(layout: Layout, theta: Theta, layers: Architecture) -> Architecture:
    """`layers` with the bit-widths of those that are rounded."""
    found: dict[str, LayerChoice] = dict(layers)
    rows, activations = row_bits(layout, theta), activation_bits(layout, theta)
    for row in layout.table.rows:
        if row.name in found and row.name in rows:
            counted = Counter(bits for bits in rows[row.name].tolist() if bits)
            read = layout.sites.reads.get(row.node)
            source = None if read is None else layout.sites.quantizers[read].name
            found[row.name] = replace(
                found[row.name],
                w_bits=dict(sorted(counted.items())),
                x_bits=None if source is None else activations[source],
            )
    return found
