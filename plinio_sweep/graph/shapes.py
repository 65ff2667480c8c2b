"""Which shape operations survive a cut of channels, and what replaces the others.

A slice `x[:, :4]`, a `chunk` or a channel shuffle is written for the full width. For a given cut,
every shape operation is run on *positions* (one integer for each element): once at full width, once
on what the cut leaves. Where both agree the operation stays; elsewhere a reshape or one gather from
the nearest sound activation takes its place, however many operations lie between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from plinio_sweep.graph.labels import Labelling
from plinio_sweep.graph.nodes import is_metadata, is_shape, moved, run_on, tensor_map, tensors
from plinio_sweep.graph.union import varying_axes


@dataclass(frozen=True, slots=True, eq=False)
class Reshape:
    """Replaces `node`: its input, reshaped to `(-1, *shape)`."""

    node: fx.Node
    source: fx.Node
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Gather:
    """Replaces `node`: elements of its flattened sources, reshaped to `(B, *shape)`.

    With an `axis`, `index` counts channels of the one source along it instead.
    """

    node: fx.Node
    sources: tuple[fx.Node, ...]
    index: Tensor
    shape: tuple[int, ...]
    axis: int | None


@dataclass(slots=True, eq=False)
class Plan:
    """How a graph follows one cut; `failed` are the nodes that can't."""

    rewrites: list[Reshape | Gather] = field(default_factory=list)
    failed: list[fx.Node] = field(default_factory=list)


def restrict(values: Tensor, labels: Tensor, live: Tensor) -> Tensor | None:
    """The part of `values` whose `labels` are `live`; nothing where it is no smaller box."""
    alive = live[labels]
    if bool(alive.all()):
        return values
    axes = varying_axes(labels)
    if len(axes) > 1:
        return None
    axis = axes[0] if axes else labels.dim() - 1
    line = alive.movedim(axis, 0).reshape(labels.shape[axis], -1)[:, 0]
    return values.index_select(axis, line.nonzero()[:, 0])


def plan(net: fx.GraphModule, found: Labelling, labels: dict[fx.Node, Any], live: Tensor) -> Plan:
    """What must change in the graph of `net` when only the `live` labels stay.

    Args:
        net: The traced net, at full width.
        found: Its run on labels.
        labels: The labels of the table at each node.
        live: `(size,)` which labels stay.
    """
    return _Planner(net, found, labels, live).run()


class _Planner:
    def __init__(
        self, net: fx.GraphModule, found: Labelling, labels: dict[fx.Node, Any], live: Tensor
    ) -> None:
        self.net, self.found, self.labels, self.live = net, found, labels, live
        self.result = Plan()
        self.broken: dict[fx.Node, Any] = {}  # positions of what no cut tensor stands for
        self.numbers: dict[fx.Node, Any] = {}  # sizes and what is computed from them, after the cut
        self.spans: dict[fx.Node, range] = {}  # positions of every source
        self.next = 0

    def run(self) -> Plan:
        for node in self.net.graph.nodes:
            if node.op in ("placeholder", "output", "get_attr") or node in self.found.constant:
                continue
            if not tensors([self.labels[n] for n in node.all_input_nodes]) or is_metadata(node):
                self._number(node)
            elif self._moves(node):
                self._shape(node)
            elif any(n in self.broken or self._changed(n) for n in node.all_input_nodes):
                self.result.failed.append(node)
        return self.result

    def _moves(self, node: fx.Node) -> bool:
        return node not in self.found.unknown and is_shape(node, self.net)

    def _number(self, node: fx.Node) -> None:
        made = tensors(self.labels[node]) and any(self._changed(n) for n in node.all_input_nodes)
        if made or any(n in self.broken for n in node.all_input_nodes):
            self.result.failed.append(node)
        elif not tensors(self.labels[node]):
            self.numbers[node] = self._run(node, cut=True)

    def _changed(self, node: fx.Node) -> bool:
        """Whether `node` is a size, or computed from sizes, that is another one after the cut."""
        return node in self.numbers and bool(self.numbers[node] != self.labels[node])

    def _shape(self, node: fx.Node) -> None:
        full = self._run(node, cut=False)
        wanted = self._restricted(full, self.labels[node])
        if not any(n in self.broken for n in node.all_input_nodes):
            try:
                actual = self._run(node, cut=True)
            except Exception:
                # A size written for the full width: the operation can't stay as it is.
                actual = None
            if actual is not None and wanted is not None and _same(actual, wanted):
                return
        rewrite = self._rewrite(node, full, wanted) if isinstance(full, Tensor) else None
        if rewrite is not None:
            self.result.rewrites.append(rewrite)
            return
        self.broken[node] = full
        if isinstance(full, Tensor) and wanted is not None:
            self.result.failed.append(node)

    def _restricted(self, full: Any, labels: Any) -> Any | None:
        parts = [
            restrict(f, name, self.live)
            for f, name in zip(tensors(full), tensors(labels), strict=True)
        ]
        if any(part is None for part in parts):
            return None
        rest = iter(parts)
        return tensor_map(lambda _: next(rest), full)

    def _rewrite(self, node: fx.Node, full: Tensor, wanted: Any) -> Reshape | Gather | None:
        if not isinstance(wanted, Tensor) or wanted.dim() < 2:
            return None
        inputs = [n for n in node.all_input_nodes if tensors(self.labels[n])]
        shape = tuple(wanted.shape[1:])
        if len(inputs) == 1 and inputs[0] not in self.broken:
            source = self._positions(inputs[0], cut=True)
            same_size = isinstance(source, Tensor) and source.numel() == wanted.numel()
            if same_size and _same(source.reshape(wanted.shape), wanted):
                return Reshape(node, inputs[0], shape)
        return self._gather(node, wanted)

    def _gather(self, node: fx.Node, wanted: Tensor) -> Gather | None:
        batch = wanted.shape[0]
        sources = self._sources(wanted)
        lefts = [self._positions(source, cut=True) for source in sources]
        if any(not isinstance(t, Tensor) or t.shape[0] != batch for t in lefts):
            return None
        # Where a full position lies in the cut sources, flattened and side by side: item, column.
        item = torch.full((self.next,), -1, dtype=torch.long)
        column = item.clone()
        width = 0
        for left in lefts:
            flat = left.reshape(batch, -1)
            item[flat] = torch.arange(batch)[:, None].expand_as(flat)
            column[flat] = torch.arange(width, width + flat.shape[1]).expand_as(flat)
            width += flat.shape[1]
        flat = wanted.reshape(batch, -1)
        own_item = item[flat] == torch.arange(batch)[:, None]
        index = column[flat]
        if not bool(own_item.all()) or not bool((index == index[:1]).all()):
            return None
        shape = tuple(wanted.shape[1:])
        channels = _by_channel(index[0], shape, lefts[0]) if len(lefts) == 1 else None
        if channels is not None:
            return Gather(node, tuple(sources), channels, shape, 1)
        return Gather(node, tuple(sources), index[0], shape, None)

    def _sources(self, positions: Tensor) -> list[fx.Node]:
        spans = self.spans.items()
        return [
            node
            for node, span in spans
            if bool(((positions >= span.start) & (positions < span.stop)).any())
        ]

    def _positions(self, node: fx.Node, *, cut: bool) -> Any:
        """One integer for each element at `node`, or for each that the cut leaves."""
        if node in self.broken:
            return self.broken[node]
        labels = self.labels[node]
        if not isinstance(labels, Tensor) and self._moves(node):
            # The sound result of a chunk or a split: its parts are those of its own inputs.
            full = self._run(node, cut=False)
            return self._restricted(full, labels) if cut else full
        if node not in self.spans:
            size = sum(part.numel() for part in tensors(labels))
            self.spans[node] = range(self.next, self.next + size)
            self.next += size
        span = torch.arange(self.spans[node].start, self.spans[node].stop)
        parts = iter(torch.split(span, [part.numel() for part in tensors(labels)]))
        full = tensor_map(lambda t: next(parts).reshape(t.shape), labels)
        return self._restricted(full, labels) if cut else full

    def _run(self, node: fx.Node, *, cut: bool) -> Any:
        data = moved(node)

        def value(n: fx.Node) -> Any:
            if n in self.found.constant and n not in data:
                return self.found.index(n)
            if tensors(self.labels[n]):
                return self._positions(n, cut=cut)
            return self.numbers[n] if cut and n in self.numbers else self.labels[n]

        return run_on(node, self.net, fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value))


def _same(left: Any, right: Any) -> bool:
    pairs = list(zip(tensors(left), tensors(right), strict=False))
    return len(tensors(left)) == len(tensors(right)) and all(torch.equal(a, b) for a, b in pairs)


def _by_channel(index: Tensor, shape: tuple[int, ...], source: Tensor) -> Tensor | None:
    """`index` as channels of `source` along axis 1; nothing where it moves positions, too."""
    if len(shape) != source.dim() - 1 or shape[1:] != tuple(source.shape[2:]) or 0 in shape:
        return None
    size = source[0, 0].numel()
    blocks = index.reshape(shape[0], size)
    channels = blocks[:, 0] // size
    expected = channels[:, None] * size + torch.arange(size)
    return channels if torch.equal(blocks, expected) else None
