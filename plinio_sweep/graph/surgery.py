"""Cuts channels out of a traced net: layers, the norms behind them, and the graph between."""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx

from plinio_sweep.graph import operations as ops
from plinio_sweep.graph.layers import keep_channels, keep_rows
from plinio_sweep.graph.nodes import is_metadata, is_shape, tensors
from plinio_sweep.graph.shapes import Gather, Reshape, plan
from plinio_sweep.graph.table import Analysis

_ARITHMETIC = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.truediv,
    operator.mod,
)


def cut(analysis: Analysis, live: Tensor) -> fx.GraphModule:
    """Removes from the net of `analysis`, in place, every channel whose label is not `live`.

    Args:
        analysis: A net of one's own and its labels; both are used up.
        live: `(size,)` which labels of the table stay; one at least of every set in `keep`.

    Returns:
        The net: stock modules with fewer channels, and gathers where the code of the model asks for
        channels by number.

    Raises:
        ValueError: When an operation can't follow this cut.
    """
    net = analysis.net
    steps = plan(net, analysis.found, analysis.labels, live)
    if steps.failed:
        names = ", ".join(node.name for node in steps.failed)
        raise ValueError(
            f"Every operation must be able to follow the cut, but {names} can't; name the layers "
            f"before it in `exclude_names`."
        )
    _cut_modules(net, analysis, live)
    _count_features(net, analysis, live)
    replaced: dict[fx.Node, fx.Node] = {}
    for number, step in enumerate(steps.rewrites):
        # A source may be the place of an operation that was itself replaced before.
        if isinstance(step, Reshape):
            source = replaced.get(step.source, step.source)
            new = _reshape(net.graph, step, source)
        else:
            sources = [replaced.get(source, source) for source in step.sources]
            new = _gather(net, step, sources, f"gather_{number}")
        new.meta, new.stack_trace = dict(step.node.meta), step.node.stack_trace
        step.node.replace_all_uses_with(new)
        replaced[step.node] = new
    _drop_unused(net, analysis)
    net.graph.lint()
    net.recompile()
    return net


def _cut_modules(net: fx.GraphModule, analysis: Analysis, live: Tensor) -> None:
    done = set()
    for row in analysis.table.rows:
        if row.spec.op == "other" or row.name in done:
            continue
        done.add(row.name)
        module = cast(Any, net.get_submodule(row.name))
        if bool(live[row.cout].all()) and bool(live[row.cin].all()):
            continue  # as it is, a parameter shared with another layer included
        rows = live[row.cout].nonzero()[:, 0]
        if row.spec.op == "affine":
            keep_channels(module, rows)
            continue
        if row.norm is not None:
            keep_channels(net.get_submodule(row.norm), rows)
        keep_rows(module, rows, None if row.separate else live[row.columns].nonzero()[:, 0])


def _count_features(net: fx.GraphModule, analysis: Analysis, live: Tensor) -> None:
    """Norms without parameters are in no row of the table; they know their width nevertheless."""
    for node in net.graph.nodes:
        module = net.get_submodule(str(node.target)) if node.op == "call_module" else None
        if ops.instance_of(module, ops.INSTANCE_NORMS) and not tensors(vars(module)):
            alive = live[analysis.labels[node]]
            cast(Any, module).num_features = int(alive.movedim(1, 0).flatten(1)[:, 0].sum())


def _reshape(graph: fx.Graph, step: Reshape, source: fx.Node) -> fx.Node:
    with graph.inserting_before(step.node):
        return graph.call_method("reshape", (source, (-1, *step.shape)))


def _gather(net: fx.GraphModule, step: Gather, sources: list[fx.Node], name: str) -> fx.Node:
    while name in dict(net.named_buffers()):
        name += "_"
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    net.register_buffer(name, step.index.to(device))
    with net.graph.inserting_before(step.node):
        index = net.graph.get_attr(name)
        if step.axis is not None:
            args = (sources[0], step.axis, index)
            return net.graph.call_function(torch.index_select, args)
        flat = [net.graph.call_function(torch.flatten, (s, 1)) for s in sources]
        joined = flat[0] if len(flat) == 1 else net.graph.call_function(torch.cat, (flat, 1))
        picked = net.graph.call_function(torch.index_select, (joined, 1, index))
        return net.graph.call_method("reshape", (picked, (-1, *step.shape)))


def _drop_unused(net: fx.GraphModule, analysis: Analysis) -> None:
    """Erases what the replaced operations leave unused: it is written for the full width."""
    for node in reversed(list(net.graph.nodes)):
        if node.users or node.op in ("placeholder", "output"):
            continue
        known = node in analysis.labels
        number = known and not tensors(analysis.labels[node]) and node.target in _ARITHMETIC
        if node.op == "get_attr" or number or is_metadata(node) or is_shape(node, net):
            net.graph.erase_node(node)
