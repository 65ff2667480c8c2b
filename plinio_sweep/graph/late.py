"""Norms that fold into a layer only once choices are made.

`norm(mix(conv(x), x))` has no layer directly before its norm, but has one when the first branch is
taken; and a layer that all branches read folds the norm that begins the branch that is left. What a
decided net costs depends on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from plinio_sweep.graph import operations as ops
from plinio_sweep.graph.choice import Branch, agree, branches_of, choice_at
from plinio_sweep.graph.nodes import is_metadata
from plinio_sweep.graph.table import Analysis


@dataclass(frozen=True, slots=True)
class LateFold:
    """A norm that folds into a layer where all branches of `branch` are taken."""

    norm: str
    layer: str
    branch: Branch


def late_folds(analysis: Analysis) -> tuple[LateFold, ...]:
    """The norms with a row of their own that fold into a layer under some choices.

    The rule is that of the table: each call of the norm directly follows one layer that nothing
    else reads, and each call of that layer is followed by it. Only what is taken counts.

    Example:
        >>> from plinio_sweep import SuperNetModule
        >>> from plinio_sweep.graph.table import analyse_graph
        >>> from plinio_sweep.graph.trace import trace
        >>> choice = SuperNetModule([torch.nn.Conv2d(3, 3, 1), torch.relu])
        >>> net, x = torch.nn.Sequential(choice, torch.nn.BatchNorm2d(3)), torch.ones(2, 3, 4, 4)
        >>> late_folds(analyse_graph(trace(net, (x,)), (x,)))
        (LateFold(norm='1', layer='0.branches.0', branch=(('0', 0),)),)
    """
    net, inside = analysis.net, branches_of(analysis.net)
    nodes = {node.name: node for node in net.graph.nodes}
    rows = {row.name: row for row in analysis.table.rows}
    calls = [
        (nodes[call.node], rows[call.name]) for call in analysis.found.calls if call.name in rows
    ]
    layers = {node: row for node, row in calls if row.spec.op in ("conv", "linear")}
    fixed = analysis.found.fixed
    pairs: Counter[LateFold] = Counter()
    for node, row in calls:
        if row.name in fixed or not _is_batch_norm(net, node):
            continue
        for path, taken in _paths(node.all_input_nodes[0], net):
            layer = layers.get(path[-1])
            branch = taken | {*inside[node], *inside[path[-1]]}
            if layer is None or layer.name in fixed or not agree(branch, ()):
                continue
            alone = all(_readers(step, dict(branch), inside, net) == 1 for step in path)
            if alone and layer.norm is None and torch.equal(row.cin, layer.cout):
                pairs[LateFold(row.name, layer.name, tuple(sorted(branch)))] += 1
    called = [(row.name, inside[node]) for node, row in calls]
    return tuple(
        fold
        for fold, count in pairs.items()
        if all(
            count == sum(n == name and agree(where, fold.branch) for n, where in called)
            for name in (fold.norm, fold.layer)
        )
    )


def _is_batch_norm(net: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module":
        return False  # a parameter that the graph reads itself
    norm: Any = net.get_submodule(str(node.target))
    return ops.instance_of(norm, ops.BATCH_NORMS) is not None and norm.running_mean is not None


def _paths(
    node: fx.Node, net: fx.GraphModule
) -> Iterator[tuple[tuple[fx.Node, ...], frozenset[tuple[str, int]]]]:
    """From `node` back through the ends of choices: the nodes passed, and the branches taken."""
    choice = choice_at(node, net)
    if choice is None:
        yield (node,), frozenset()
        return
    for index, arg in enumerate(node.args):
        assert isinstance(arg, fx.Node), node
        for path, taken in _paths(arg, net):
            yield (node, *path), taken | {(choice, index)}


def _readers(
    node: fx.Node, taken: Mapping[str, int], inside: Mapping[fx.Node, Branch], net: fx.GraphModule
) -> int:
    """How many operations read `node` when these branches are taken."""
    found = 0
    for user in node.users:
        index = taken.get(choice_at(user, net) or "")
        dropped = index is not None and user.args[index] is not node
        found += not (dropped or is_metadata(user)) and agree(inside[user], taken.items())
    return found
