"""Which activations are in memory while each operation runs, in the order of the graph.

An operation needs its inputs, its result, and all that later operations read. Operations that
only move elements share the place of their input. So do activations and batch norms that read one
tensor for the last time, what is written in place, and the padding of what layers read: they pad
as they go. An addition, a concatenation and all layers write to a place of their own.

Of the branches of a choice one alone will be there: what lies in another one is not in memory.
What a quantiser rounds is written at its width, also before a pooling that keeps the grid.

Shapes: `B` buffers, `L` labels of the table, `M` moments, `K` conditions.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from costs import LayerSpec
from costs.spec import FLOAT_BITS
from plinio_sweep.graph import operations as ops
from plinio_sweep.graph.choice import Branch, branches_of, choice_at
from plinio_sweep.graph.nodes import is_metadata, is_shape, tensors
from plinio_sweep.graph.quantized import Quantizer
from plinio_sweep.graph.sites import KEEP, MAX_POOLS, is_a
from plinio_sweep.graph.table import Analysis

Condition = frozenset[tuple[str, int]]  # all (choice, index) that must be taken
ALWAYS: Condition = frozenset()


class Memory(nn.Module):
    """The moments of a net, and what is in memory at each.

    Args:
        analysis: Of the net.
        choices: Whether the branches of a choice exclude each other. Without, all of them run.
    """

    quantizers: tuple[str | None, ...]  # the module that rounds what lies in each buffer
    widths: Tensor  # `(B,)` bits of an element of each buffer [bit]
    elements: Tensor  # `(B, L)` how many elements of one input each buffer has at each label
    slots: Tensor  # `(E,)` moment and buffer of each entry, as one number
    causes: Tensor  # `(E,)` the condition of each entry
    limits: Tensor  # `(M,)` the condition under which a moment comes

    def __init__(self, analysis: Analysis, *, choices: bool = False) -> None:
        super().__init__()
        found = _Liveness(analysis, choices)
        self.names = tuple(node.name for node in found.moments)
        entries = list(found.entries())
        conditions = dict.fromkeys([ALWAYS, *(c for _, _, c in entries), *found.limits])
        number = {condition: k for k, condition in enumerate(conditions)}
        self.conditions: tuple[Branch, ...] = tuple(tuple(sorted(c)) for c in conditions)
        num_buffers = len(found.buffers)
        self.quantizers = found.quantizers()
        widths = [_width(analysis.net, name) for name in self.quantizers]
        self._hold("widths", torch.tensor(widths, dtype=torch.float32))
        self._hold("elements", _counts(analysis, found.buffers))
        self._hold("slots", torch.tensor([m * num_buffers + b for m, b, _ in entries]).long())
        self._hold("causes", torch.tensor([number[c] for _, _, c in entries]).long())
        self._hold("limits", torch.tensor([number[c] for c in found.limits]).long())

    def _hold(self, name: str, value: Tensor) -> None:
        # Not persistent: it follows from the net, and a checkpoint holds no more than it must.
        self.register_buffer(name, value, persistent=False)

    def sizes(self, channels: Tensor) -> Tensor:
        """`(B,)` elements of each buffer, for one input, when `(L,)` `channels` are live."""
        return self.elements.to(channels.dtype) @ channels

    def moments(
        self, sizes: Tensor, chances: Tensor | None = None, widths: Tensor | None = None
    ) -> Iterator[LayerSpec]:
        """What is in memory at each moment: elements of floats, or bits where any are rounded.

        Args:
            sizes: `(B,)` elements of each buffer.
            chances: `(K,)` how likely each of `conditions` is; certain when left out.
            widths: `(B,)` bits of an element of each buffer; those of the net when left out.
        """
        bits: float = FLOAT_BITS
        if any(self.quantizers):
            bits = 1
            sizes = sizes * (self.widths if widths is None else widths).to(sizes.dtype)
        known = sizes.new_ones(len(self.conditions)) if chances is None else chances
        flat = sizes.new_zeros(len(self.names) * len(sizes))
        share = flat.index_add(0, self.slots, known[self.causes].to(sizes.dtype))
        share = share.reshape(len(self.names), len(sizes))
        # A buffer may be held by several conditions at once: it is there once.
        share = torch.minimum(share, known[self.limits].to(sizes.dtype)[:, None])
        for name, live in zip(self.names, (share @ sizes).unbind(), strict=True):
            yield LayerSpec(name=name, op="moment", cin=0, cout=live, x_bits=bits)


def _width(net: fx.GraphModule, name: str | None) -> float:
    """The bits of what the quantiser called `name` rounds; a mean where it has candidates."""
    if name is None:
        return FLOAT_BITS
    quantizer = cast(Quantizer, net.get_submodule(name))
    shares = zip(quantizer.bits, quantizer.weights.tolist(), strict=True)
    return quantizer.bits[0] if len(quantizer.bits) == 1 else sum(b * share for b, share in shares)


def _counts(analysis: Analysis, buffers: list[fx.Node]) -> Tensor:
    size = analysis.table.size
    inputs = [analysis.found.real[n] for n in analysis.net.graph.nodes if n.op == "placeholder"]
    batch = next((len(value) for value in inputs if value.dim() > 0), 1)
    rows = [
        torch.bincount(
            torch.cat([labels.flatten() for labels in tensors(analysis.labels[node])]),
            minlength=size,
        )
        // batch
        for node in buffers
    ]
    return torch.stack(rows) if rows else torch.zeros(0, size, dtype=torch.long)


class _Liveness:
    """Where each activation lies, and from when to when its place is needed."""

    def __init__(self, analysis: Analysis, choices: bool) -> None:
        self.net, self.found, self.labels = analysis.net, analysis.found, analysis.labels
        self.choices = choices
        self.order = {node: turn for turn, node in enumerate(self.net.graph.nodes)}
        self.branches = {
            node: frozenset(branch) if choices else ALWAYS
            for node, branch in branches_of(self.net).items()
        }
        self.buffers: list[fx.Node] = []  # the node that writes each first
        self.moments: list[fx.Node] = []
        # The buffers of each activation, each with the choices that put it there.
        self.places: dict[fx.Node, list[tuple[int, Condition]]] = {}
        for node in self.net.graph.nodes:
            if self._is_activation(node):
                self._place(node)
        self.limits = [self.branches[node] for node in self.moments]

    def entries(self) -> Iterator[tuple[int, int, Condition]]:
        """Moment, buffer and condition wherever a buffer is in memory."""
        needs: dict[int, list[tuple[int, Condition]]] = defaultdict(list)
        for node, places in self.places.items():
            for buffer, condition in places:
                needs[buffer].append((self.order[node], condition | self.branches[node]))
                for reader, own in self._readers(node):
                    needs[buffer].append((self.order[reader], condition | own))
        for index, moment in enumerate(self.moments):
            turn, now = self.order[moment], self.branches[moment]
            for buffer, uses in needs.items():
                if self._birth(buffer) <= turn:
                    wanted = {now | condition for last, condition in uses if last >= turn}
                    yield from ((index, buffer, c) for c in _smallest(wanted))

    def quantizers(self) -> tuple[str | None, ...]:
        """The module that rounds what lies in each buffer; nothing where floats do."""
        rounded: dict[int, str] = {}
        keeping = [node for node in self.buffers if self._source(node) is not None]
        for node, places in self.places.items():
            source = self._source(node)
            for buffer, _ in places:
                if _is_quantizer(node, self.net):
                    rounded[buffer] = str(node.target)
                elif source in rounded and self.buffers[buffer] is node:
                    rounded[buffer] = rounded[source]
        for node in reversed(keeping):
            own, source = self.places[node][0][0], cast(int, self._source(node))
            if is_a(node, self.net, MAX_POOLS) and own in rounded:
                rounded.setdefault(source, rounded[own])
        return tuple(rounded.get(buffer) for buffer in range(len(self.buffers)))

    def _source(self, node: fx.Node) -> int | None:
        """The buffer on whose grid the result of `node` lies; nothing where it has another one."""
        inputs = [n for n in node.all_input_nodes if n in self.places]
        keeps = is_shape(node, self.net) or is_a(node, self.net, KEEP)
        return self.places[inputs[0]][0][0] if inputs and keeps else None

    def _birth(self, buffer: int) -> int:
        node = self.buffers[buffer]
        return 0 if node.op == "placeholder" else self.order[node]

    def _is_activation(self, node: fx.Node) -> bool:
        fixed = node.op in ("output", "get_attr") or node in self.found.constant
        return not fixed and bool(tensors(self.labels[node])) and not is_metadata(node)

    def _place(self, node: fx.Node) -> None:
        inputs = [n for n in node.all_input_nodes if n in self.places]
        if self.choices and choice_at(node, self.net) is not None:
            self.places[node] = [
                (buffer, condition | {(str(choice_at(node, self.net)), index)})
                for index, branch in enumerate(node.args)
                for buffer, condition in self.places.get(cast(fx.Node, branch), [])
            ]
        elif self._shares(node, inputs):
            self.places[node] = self.places[inputs[0]]
        else:
            self.places[node] = [(len(self.buffers), ALWAYS)]
            self.buffers.append(node)
            self.moments.append(node)

    def _shares(self, node: fx.Node, inputs: list[fx.Node]) -> bool:
        """Whether the result of `node` lies where its first input does."""
        if len(inputs) == 1 and self._is_padding(node):
            return True
        if not inputs or self._elements(node) > self._elements(inputs[0]):
            return False
        if _is_in_place(node, self.net):
            return True
        if len(inputs) > 1:
            return False
        if is_shape(node, self.net) or _passes(node, self.net):
            return True
        return _is_elementwise(node, self.net) and self._reads_last(node, inputs[0])

    def _is_padding(self, node: fx.Node) -> bool:
        """Whether `node` adds or drops positions for layers alone."""
        pads = node.target is F.pad or _module(node, self.net, _PADS)
        return pads and all(
            _module(user, self.net, tuple(ops.CONVOLUTIONS)) or self._is_padding(user)
            for user in node.users
        )

    def _reads_last(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether no later operation, that could run beside `node`, reads what is at `source`."""
        buffers = {buffer for buffer, _ in self.places[source]}
        turn, own = self.order[node], self.branches[node]
        return not any(
            self.order[reader] > turn and not _exclude(own, condition)
            for other, places in self.places.items()
            if any(buffer in buffers for buffer, _ in places)
            for reader, condition in self._readers(other)
        )

    def _readers(self, node: fx.Node) -> Iterator[tuple[fx.Node, Condition]]:
        """Who reads the elements at `node`, and under which choices."""
        for user in node.users:
            choice = choice_at(user, self.net) if self.choices else None
            if choice is not None:
                for index, branch in enumerate(user.args):
                    if branch is node:
                        yield user, self.branches[user] | {(choice, index)}
            elif not is_metadata(user):
                yield user, self.branches[user]

    def _elements(self, node: fx.Node) -> int:
        return sum(labels.numel() for labels in tensors(self.labels[node]))


def _exclude(one: Condition, other: Condition) -> bool:
    taken = dict(one)
    return any(taken.get(choice, index) != index for choice, index in other)


def _smallest(conditions: set[Condition]) -> list[Condition]:
    """The conditions that can hold and that no other one implies."""
    possible = {c for c in conditions if len(dict(c)) == len(c)}
    return [c for c in sorted(possible, key=sorted) if not any(o < c for o in possible)]


_PADS = tuple(kind for kind in ops.SPATIAL_MODULES if "Pad" in kind.__name__)
_IN_PLACE_OPERATORS = frozenset({operator.iadd, operator.imul, operator.isub, operator.itruediv})


def _is_in_place(node: fx.Node, net: fx.GraphModule) -> bool:
    """Whether the user's code writes the result over the first input."""
    if node.op == "call_module":
        return bool(getattr(net.get_submodule(str(node.target)), "inplace", False))
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    asked = node.kwargs.get("inplace") is True
    return asked or name.endswith("_") or node.target in _IN_PLACE_OPERATORS


def _is_quantizer(node: fx.Node, net: fx.GraphModule) -> bool:
    return node.op == "call_module" and isinstance(net.get_submodule(str(node.target)), Quantizer)


def _passes(node: fx.Node, net: fx.GraphModule) -> bool:
    """Whether `node` returns its input, once trained."""
    passing: tuple[type, ...] = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    passing = (*passing, nn.AlphaDropout, nn.FeatureAlphaDropout)
    return _is_quantizer(node, net) or _module(node, net, passing)


def _is_elementwise(node: fx.Node, net: fx.GraphModule) -> bool:
    if node.op == "call_module":
        return _module(node, net, (*ops.ELEMENTWISE_MODULES, *ops.BATCH_NORMS, nn.PReLU))
    if node.op == "call_method":
        return node.target in ops.ELEMENTWISE_METHODS | ops.DIVISION_METHODS
    return node.target in ops.ELEMENTWISE_FUNCTIONS | ops.DIVISIONS


def _module(node: fx.Node, net: fx.GraphModule, types: tuple[Any, ...]) -> bool:
    known = node.op == "call_module"
    return known and ops.instance_of(net.get_submodule(str(node.target)), types) is not None
