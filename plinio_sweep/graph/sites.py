"""Where activations are rounded, with or without a sign, and which of them share a quantiser.

Every value that an operation computes anew is rounded once, behind the clipping activation (ReLU,
max pool) that alone reads it. Operations that only move, drop or compare values keep them on their
grid and need no quantiser. A value that reaches nothing but the outputs of the net is not rounded,
unless asked for.

Tensors that are joined to one (`cat`, `stack`), and those that one layer reads at several calls,
share a quantiser with its range and its sign. Operands of an addition share the decision on their
bit-width and keep their own ranges.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from plinio_sweep.graph import operations as ops
from plinio_sweep.graph.labels import Labelling
from plinio_sweep.graph.nodes import is_metadata, is_shape, moved, tensors
from plinio_sweep.graph.quantized import Quantizer
from plinio_sweep.graph.union import Union

RELUS = (nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_")
MAX_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, F.max_pool1d, F.max_pool2d, F.max_pool3d),
    *(torch.max_pool1d, torch.max_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d),
    *(F.adaptive_max_pool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
# A fresh value is rounded behind these: rounding before them would cost a bit, or more work.
_THROUGH = (*RELUS, nn.ReLU6, F.relu6, nn.Hardtanh, F.hardtanh, nn.Identity, *MAX_POOLS)
# Keep a value on its grid; shape operations do, too.
KEEP = (
    *(*RELUS, nn.Identity, *MAX_POOLS),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, F.dropout),
    *(F.dropout1d, F.dropout2d, F.dropout3d, nn.UpsamplingNearest2d),
    *(torch.amax, "amax", torch.amin, "amin", torch.maximum, "maximum", torch.minimum, "minimum"),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d),
    *(nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    *(nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
)
_CONSTANT_PADS = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
# Never give a value below zero.
_POSITIVE = (
    *RELUS,
    *(nn.ReLU6, F.relu6, nn.Sigmoid, F.sigmoid, torch.sigmoid, "sigmoid", "sigmoid_"),
    *(nn.Hardsigmoid, F.hardsigmoid, nn.Softplus, F.softplus, nn.Softmax, F.softmax),
    *(torch.softmax, "softmax", torch.abs, "abs", "abs_", torch.square, "square", torch.exp, "exp"),
)
# Give nothing below zero where nothing below zero comes in.
_AVERAGES = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    *(torch.avg_pool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    *(torch.adaptive_avg_pool1d, torch.mean, "mean", torch.sum, "sum"),
)
_SUMS = (
    *(operator.add, operator.iadd, torch.add, "add", "add_"),
    *(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply"),
)
_ADDITIONS = (
    *(operator.add, operator.iadd, torch.add, "add", "add_"),
    *(operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "subtract"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizerPlan:
    """One quantiser to be: a range, a sign, and the decision that it follows."""

    name: str  # of its module
    nodes: tuple[str, ...]  # whose values it rounds
    signed: bool
    measured: bool  # whether the sign is that of the inputs of the net, to be seen on data
    decision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sites:
    """All quantisers of a net, and which of them each layer reads and writes, by node."""

    quantizers: tuple[QuantizerPlan, ...]
    decisions: int
    reads: Mapping[str, int]
    writes: Mapping[str, int]

    def __str__(self) -> str:
        """What `plinio-sweep check` prints."""
        header = ("quantiser of", "sign", "bit-width decided with")
        lines = [header]
        for plan in self.quantizers:
            others = [
                q.nodes[0] for q in self.quantizers if q.decision == plan.decision and q is not plan
            ]
            sign = "signed" if plan.signed else "measured" if plan.measured else "unsigned"
            lines.append((", ".join(plan.nodes), sign, ", ".join(others) or "-"))
        widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def is_a(node: fx.Node, net: fx.GraphModule, kinds: tuple[Any, ...]) -> bool:
    """Whether `node` calls one of `kinds`: modules, functions, names of methods."""
    if node.op == "call_module":
        stock = tuple(kind for kind in kinds if isinstance(kind, type))
        return ops.instance_of(net.get_submodule(str(node.target)), stock) is not None
    if node.op == "call_method":
        return any(isinstance(kind, str) and kind == node.target for kind in kinds)
    return any(kind is node.target for kind in kinds)


def keeps(node: fx.Node, net: fx.GraphModule) -> bool:
    """Whether what `node` computes lies on the grid of what it reads."""
    if is_shape(node, net) or is_a(node, net, KEEP):
        return True
    if is_a(node, net, _CONSTANT_PADS):
        return bool(net.get_submodule(str(node.target)).value == 0)
    if node.target is F.pad:
        given = (*node.args[2:], node.kwargs.get("mode"), node.kwargs.get("value"))
        numbers = [value for value in given if isinstance(value, int | float)]
        return not any(numbers)
    if is_a(node, net, (nn.Upsample,)):
        return bool(net.get_submodule(str(node.target)).mode == "nearest")
    return node.target is F.interpolate and node.kwargs.get("mode", "nearest") == "nearest"


def find_sites(net: fx.GraphModule, found: Labelling, *, outputs: bool = False) -> Sites:
    """Plans the quantisers of `net`.

    Args:
        net: The traced net; it is not changed.
        found: Its run on labels, with what every node computes for an example.
        outputs: Whether values that reach nothing but outputs are rounded, too.
    """
    return _Finder(net, found, outputs).run()


class _Finder:
    """One walk through the graph: on which grid each value lies."""

    def __init__(self, net: fx.GraphModule, found: Labelling, outputs: bool) -> None:
        self.net, self.found, self.outputs = net, found, outputs
        # Label of the quantiser; 0 where the net has rounded the value before; none on no grid.
        self.grid: dict[fx.Node, int | None] = {}
        # Whether nothing is below zero: as it is, and where inputs are not.
        self.above: dict[bool, dict[fx.Node, bool]] = {False: {}, True: {}}
        self.shared, self.agreed = Union(), Union()  # quantisers, and their decisions
        self.sites: list[tuple[fx.Node, int]] = []
        self.ends: dict[str, int] = {}  # the quantiser of what a node computes
        self.reads: dict[str, dict[str, int | None]] = {}  # of each layer, by node
        self.layers = {call.node: call.name for call in found.calls}

    def run(self) -> Sites:
        for node in self.net.graph.nodes:
            if node.op != "output" and node not in self.grid:
                self._visit(node)
        for grids in self.reads.values():
            self._share(list(grids.values()))
        return self._result()

    def _visit(self, node: fx.Node) -> None:
        inputs = [n for n in node.all_input_nodes if self._is_value(n)]
        self._see_sign(node)
        self.grid[node] = None
        if node.name in self.layers and inputs:
            self.reads.setdefault(self.layers[node.name], {})[node.name] = self.grid[inputs[0]]
        if not self._is_value(node) or self._rounds(node):
            self.grid[node] = 0 if self._is_value(node) else None
            return
        if node.op != "placeholder" and keeps(node, self.net):
            data = moved(node) if is_shape(node, self.net) else inputs
            grids = [self.grid[n] for n in data]
            mixed = 0 in grids and any(grids)
            if grids and None not in grids and not mixed:
                self._share(grids)
                self.grid[node] = grids[0]
                return
        if is_a(node, self.net, _ADDITIONS):
            self._agree([self.grid[n] for n in inputs])
        self._round(node)

    def _round(self, node: fx.Node) -> None:
        """Has the value of `node` rounded, where an operation needs it."""
        end = node
        while (behind := self._behind(end)) is not None and not self._rounds(behind):
            end = behind
            self._see_sign(end)
            self.grid[end] = None
        if not isinstance(self.found.real[end], Tensor) or not self._is_wanted(end):
            return
        label = int(self.shared.fresh(1))
        self.agreed.fresh(1)
        self.sites.append((end, label))
        self.grid[end] = self.ends[node.name] = label

    def _behind(self, node: fx.Node) -> fx.Node | None:
        """The one reader of `node`, where its result can be rounded instead."""
        readers = [user for user in node.users if not is_metadata(user)]
        if len(readers) != 1 or not is_a(readers[0], self.net, _THROUGH):
            return None
        alone = [n for n in readers[0].all_input_nodes if self._is_value(n)] == [node]
        return readers[0] if alone and self._is_value(readers[0]) else None

    def _is_wanted(self, node: fx.Node) -> bool:
        for user in node.users:
            if user.op == "output":
                wanted = self.outputs
            elif is_metadata(user) or self._rounds(user):
                wanted = False
            else:
                wanted = self._is_wanted(user) if keeps(user, self.net) else True
            if wanted:
                return True
        return False

    def _is_value(self, node: fx.Node) -> bool:
        """Whether `node` is an activation: floating numbers that depend on the input."""
        if node.op == "output" or node in self.found.constant or is_metadata(node):
            return False
        return any(value.is_floating_point() for value in tensors(self.found.real[node]))

    def _rounds(self, node: fx.Node) -> bool:
        """Whether `node` is a quantiser that was there before."""
        return node.op == "call_module" and isinstance(
            self.net.get_submodule(str(node.target)), Quantizer
        )

    def _see_sign(self, node: fx.Node) -> None:
        for assumed, above in self.above.items():
            is_input = node.op == "placeholder"
            above[node] = assumed if is_input else self._is_above(node, above)

    def _is_above(self, node: fx.Node, above: Mapping[fx.Node, bool]) -> bool:
        inputs = node.all_input_nodes
        if not inputs:
            return all(bool((value >= 0).all()) for value in tensors(self.found.real[node]))
        if is_a(node, self.net, _POSITIVE):
            return True
        if is_a(node, self.net, _SUMS):
            numbers = pytree.tree_leaves((node.args, node.kwargs))
            if any(isinstance(number, int | float) and number < 0 for number in numbers):
                return False
        elif not keeps(node, self.net) and not is_a(node, self.net, _AVERAGES):
            return False
        data = moved(node) if is_shape(node, self.net) else inputs
        return all(above.get(n, True) for n in data)

    def _share(self, grids: list[int | None]) -> None:
        for label in self._pairs(grids):
            self.shared.unite(*label, "")
        self._agree(grids)

    def _agree(self, grids: list[int | None]) -> None:
        for label in self._pairs(grids):
            self.agreed.unite(*label, "")

    def _pairs(self, grids: list[int | None]) -> list[tuple[Tensor, Tensor]]:
        known = [torch.tensor([grid]) for grid in grids if grid]
        return [(known[0], other) for other in known[1:]]

    def _result(self) -> Sites:
        labels = torch.tensor([label for _, label in self.sites], dtype=torch.long)
        quantizers = self.shared.names(labels).tolist()
        decisions = self.agreed.names(labels).tolist()
        number = {name: i for i, name in enumerate(dict.fromkeys(quantizers))}
        decided = {name: i for i, name in enumerate(dict.fromkeys(decisions))}
        known = {name for name, _ in self.net.named_modules()}
        plans = []
        for name in number:
            members = [i for i, other in enumerate(quantizers) if other == name]
            nodes = [self.sites[i][0] for i in members]
            module = f"quantizer_{nodes[0].name}"
            while module in known:
                module += "_"
            positive, positive_like_inputs = (
                all(self.above[assumed][node] for node in nodes) for assumed in (False, True)
            )
            plans.append(
                QuantizerPlan(
                    name=module,
                    nodes=tuple(node.name for node in nodes),
                    signed=not positive_like_inputs,
                    measured=positive_like_inputs and not positive,
                    decision=decided[decisions[members[0]]],
                )
            )
        of = {label: number[name] for (_, label), name in zip(self.sites, quantizers, strict=True)}
        reads = {
            node: of[grid] for grids in self.reads.values() for node, grid in grids.items() if grid
        }
        writes = {node: of[label] for node, label in self.ends.items() if node in self.layers}
        return Sites(quantizers=tuple(plans), decisions=len(decided), reads=reads, writes=writes)


def insert_quantizers(
    net: fx.GraphModule, sites: Sites, modules: Mapping[str, nn.Module], *, outputs: bool = False
) -> None:
    """Puts each of `modules`, by the name of its plan, behind the nodes that it rounds.

    A ReLU in front of an unsigned quantiser goes: the quantiser does the same.

    Args:
        net: Is changed in place.
        sites: Of `net`.
        modules: One for each plan.
        outputs: Whether what the net returns is rounded where it is also read inside.
    """
    nodes = {node.name: node for node in net.graph.nodes}
    for plan in sites.quantizers:
        net.add_submodule(plan.name, modules[plan.name])
        for name in plan.nodes:
            node = nodes[name]
            with net.graph.inserting_after(node):
                new = net.graph.call_module(plan.name, (node,))
            new.meta, new.stack_trace = dict(node.meta), node.stack_trace
            keep = {new} | {u for u in node.users if u.op == "output" and not outputs}
            node.replace_all_uses_with(new, delete_user_cb=lambda user, keep=keep: user not in keep)
            decided = not plan.signed and not plan.measured
            if decided and is_a(node, net, RELUS) and set(node.users) == {new}:
                node.replace_all_uses_with(node.all_input_nodes[0])
                net.graph.erase_node(node)
    net.graph.lint()
    net.recompile()
