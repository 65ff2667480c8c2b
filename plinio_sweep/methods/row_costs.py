"""What there is to cost in a search of MPS: layers at each bit-width, and what is in memory.

Shapes: `P` bit-widths of weights, `X` of activations, `B` buffers of activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from costs import LayerSpec
from plinio_sweep.graph.memory import Memory
from plinio_sweep.graph.table import Row
from plinio_sweep.methods.layout import Layout
from plinio_sweep.methods.search import Theta, exact


def calls_at(layout: Layout, theta: Theta) -> Iterator[tuple[LayerSpec, Tensor]]:
    """Every call of every layer: its channels at each bit-width, and the share of each pair.

    Args:
        layout: What the search decides on.
        theta: Its decisions.

    Yields:
        A layer whose bit-widths are `(1, P)` and `(X, 1)` where they are searched, and the `(X, P)`
        share of each pair.
    """
    live = exact(theta["live"])
    counts = (layout.counts.to(live.dtype) @ live).unbind()
    wide = layout.channels_at_widths(theta["weights"].to(live.dtype), live)
    activations = theta["activations"].to(live.dtype)
    x_bits = live.new_tensor(layout.x_bits)
    expected = (x_bits @ activations).unbind()
    sites = layout.sites
    for row, cin, cout in zip(layout.table.rows, counts[::2], counts[1::2], strict=True):
        if row.spec.op == "other":
            yield row.spec, live.new_ones(())
            continue
        written = sites.writes.get(row.node)
        plan = None if written is None else sites.quantizers[written]
        y_bits = row.spec.y_bits if plan is None else expected[plan.decision]
        spec = replace(row.spec, cin=cin, cout=cout, y_bits=y_bits)
        share = live.new_ones(1, 1)
        rounded = row.name in wide
        if rounded:
            spec, share = _at_widths(layout, row, spec, wide[row.name], theta["weights"])
        elif row.w_bits is not None:
            spec = row.at_widths(spec, live[row.cout])
            share = share.expand(1, torch.as_tensor(spec.cout).shape[-1])
        if spec.depthwise:
            spec = replace(spec, cin=spec.cout, groups=spec.cout)
        elif row.separate:
            spec = replace(spec, groups=cin)
        # A layer that is not rounded itself computes in floats, whatever it reads.
        read = sites.reads.get(row.node) if rounded else None
        if read is not None:
            spec = replace(spec, x_bits=x_bits[:, None])
            share = share * activations[:, sites.quantizers[read].decision, None]
        yield spec, share


def buffer_widths(layout: Layout, memory: Memory, theta: Theta) -> Tensor:
    """`(B,)` expected bit-width of what lies in each buffer.

    Args:
        layout: What the search decides on.
        memory: Which activations are in memory when.
        theta: The decisions.
    """
    activations = theta["activations"].to(exact(theta["live"]).dtype)
    expected = activations.new_tensor(layout.x_bits) @ activations
    widths = memory.widths.to(activations.dtype)
    if not any(memory.quantizers):
        return widths
    decisions = {plan.name: plan.decision for plan in layout.sites.quantizers}
    own = [decisions.get(name or "", -1) for name in memory.quantizers]
    index = torch.tensor(own, device=widths.device)
    return torch.where(index >= 0, expected[index.clamp(min=0)], widths)


def _at_widths(
    layout: Layout, row: Row, spec: LayerSpec, wide: Tensor, weights: Tensor
) -> tuple[LayerSpec, Tensor]:
    """A layer at all its bit-widths, and the share of each.

    Rows with bit-widths of their own make a layer of each width, all of them there; one decision
    for the whole layer makes candidates, one of them there.
    """
    w_bits = wide.new_tensor(layout.widths)[None]
    if layout.per == "channel":
        return replace(spec, cout=wide[None], w_bits=w_bits), torch.ones_like(wide[None])
    first = layout.decision[layout.rows.start[row.name]]
    return replace(spec, w_bits=w_bits), weights[:, first].to(wide.dtype)[None]
