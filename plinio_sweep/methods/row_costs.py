"""What there is to cost in a search of MPS: layers at each bit-width, and what is in memory.

Shapes: `P` bit-widths of weights, `X` of activations, `B` buffers of activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from costs import LayerSpec
from plinio_sweep.graph.memory import Memory
from plinio_sweep.graph.quantize import filled
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
    # One tensor for all layers: what is the same in all of them is looked at once.
    x_bits, w_bits = filled(live, layout.x_bits)[:, None], filled(live, layout.widths)[None]
    expected = (x_bits[:, 0] @ activations).unbind()
    shares = activations[:, :, None].unbind(1)
    one, each, sites = live.new_ones(1, 1), torch.ones_like(w_bits), layout.sites
    for row, cin, cout in zip(layout.table.rows, counts[::2], counts[1::2], strict=True):
        if row.spec.op == "other":
            yield row.spec, live.new_ones(())
            continue
        given: dict[str, Any] = {"cin": cin, "cout": cout}
        share = one
        if (written := sites.writes.get(row.node)) is not None:
            given["y_bits"] = expected[sites.quantizers[written].decision]
        if row.name in wide:
            given["w_bits"] = w_bits
            if layout.per == "channel":
                # Rows with bit-widths of their own make a layer of each width, all of them there.
                given["cout"], share = wide[row.name][None], each
            else:
                # One decision for the whole layer makes candidates, one of them there.
                first = layout.decision[layout.rows.start[row.name]]
                share = theta["weights"][:, first].to(live.dtype)[None]
            # A layer that is not rounded itself computes in floats, whatever it reads.
            if (read := sites.reads.get(row.node)) is not None:
                given["x_bits"] = x_bits
                share = share * shares[sites.quantizers[read].decision]
        if row.spec.depthwise:
            given |= {"cin": given["cout"], "groups": given["cout"]}
        elif row.separate:
            given["groups"] = cin
        spec = replace(row.spec, **given)
        if row.w_bits is not None:
            spec = row.at_widths(spec, live[row.cout])
            share = share.expand(1, torch.as_tensor(spec.cout).shape[-1])
        yield spec, share


def buffer_widths(layout: Layout, memory: Memory, theta: Theta) -> Tensor:
    """`(B,)` expected bit-width of what lies in each buffer.

    Args:
        layout: What the search decides on.
        memory: Which activations are in memory when.
        theta: The decisions.
    """
    activations = theta["activations"].to(exact(theta["live"]).dtype)
    expected = filled(activations, layout.x_bits) @ activations
    widths = memory.widths.to(activations.dtype)
    if not any(memory.quantizers):
        return widths
    decisions = {plan.name: plan.decision for plan in layout.sites.quantizers}
    own = [decisions.get(name or "", -1) for name in memory.quantizers]
    index = torch.tensor(own, device=widths.device)
    return torch.where(index >= 0, expected[index.clamp(min=0)], widths)
