"""The table of channels: the one source for masks, sharing, costs and export.

Labels of the table count from 1 and are contiguous in a group; 0 is every channel that stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from costs import LayerSpec
from plinio_sweep.graph import operations as ops
from plinio_sweep.graph.calls import Call
from plinio_sweep.graph.choice import Branch, branches_of
from plinio_sweep.graph.labels import Labelling, label
from plinio_sweep.graph.nodes import is_metadata, operation_name, tensor_map, tensors
from plinio_sweep.graph.quantized import is_quantized
from plinio_sweep.graph.shapes import plan
from plinio_sweep.graph.taps import Kernel, kernels_of
from plinio_sweep.graph.trace import Inputs, as_inputs, beside, location, trace


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One call of a layer that owns parameters."""

    name: str
    node: str  # of the graph, where it is called
    cin: Tensor  # `(I,)` labels of the channels that it reads; 0 is frozen
    cout: Tensor  # `(O,)` labels of the weight's rows
    norm: str | None  # the norm that follows directly and folds into this layer
    spec: LayerSpec  # as built: full width, 32 bit
    branch: Branch = ()  # (choice, index) of every choice that this call lies in
    w_bits: Tensor | None = None  # `(O,)` bit-widths of the rows of a quantised layer

    def at_widths(self, spec: LayerSpec, live: Tensor) -> LayerSpec:
        """`spec` as the hardware sees a quantised layer: a layer for each width of its rows.

        Args:
            spec: Of this row.
            live: `(O,)` how far each row lives.

        Returns:
            A layer whose `cout` and `w_bits` are `(1, W)`; `spec` itself where weights are floats.
        """
        if self.w_bits is None:
            return spec
        widths = torch.unique(self.w_bits)
        at = (self.w_bits == widths[:, None]).to(live)
        cout, bits = (at @ live)[None], widths[None].to(live)
        if spec.depthwise:
            return replace(spec, cin=cout, cout=cout, groups=cout, w_bits=bits)
        return replace(spec, cout=cout, w_bits=bits)

    def plain(self) -> tuple[LayerSpec, Tensor]:
        """This call at full width, and the share of each of its bit-widths: they are all there."""
        one = torch.ones(1, 1, dtype=torch.float64)
        if self.w_bits is None:
            return self.spec, one
        spec = self.at_widths(self.spec, torch.ones(len(self.cout), dtype=torch.float64))
        return spec, one.expand(1, torch.as_tensor(spec.cout).shape[-1])

    @property
    def separate(self) -> bool:
        """Whether each group of the weight's rows reads a single channel: no column to remove."""
        groups = self.spec.groups
        return self.spec.op == "conv" and isinstance(groups, int) and groups == len(self.cin) > 1

    @property
    def columns(self) -> Tensor:
        """`(I / groups,)` labels along the second axis of the weight, the same in every group."""
        return self.cin[: len(self.cin) // int(self.spec.groups)]


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """Channels that are decided together: each label is one decision."""

    name: str  # of its first producer
    labels: range  # contiguous; empty when frozen
    channels: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    frozen: str | None = None  # why it may not be cut: "network output", "reached by softmax …"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Every layer with its channels, every group of channels, and every kernel along one axis."""

    rows: tuple[Row, ...]
    groups: tuple[ChannelGroup, ...]
    size: int  # number of labels, 0 included
    keep: tuple[Tensor, ...]  # sets of labels of which one at least must live
    kernels: tuple[Kernel, ...] = ()

    def counts(self) -> Tensor:
        """`(2R, L)` how often each label is an input and an output of each row, in turns."""
        sides = [labels for row in self.rows for labels in (row.cin, row.cout)]
        counts = [torch.bincount(labels, minlength=self.size) for labels in sides]
        return torch.stack(counts) if counts else torch.zeros(0, self.size, dtype=torch.long)

    def keep_index(self) -> Tensor:
        """`(S, M)` the labels of each set in `keep`, its first one repeated to full length."""
        longest = max((len(labels) for labels in self.keep), default=0)
        rows = [
            torch.cat([labels, labels[:1].expand(longest - len(labels))]) for labels in self.keep
        ]
        return torch.stack(rows) if rows else torch.zeros(0, 0, dtype=torch.long)

    def __deepcopy__(self, memo: dict[int, Any]) -> Table:
        return self  # nothing changes it, and a copy of all its tensors takes long

    def __str__(self) -> str:
        """What `plinio-sweep check` prints."""
        groups = [("group", "channels", "made by", "read by", "decision")] + [
            (
                group.name,
                str(group.channels),
                ", ".join(group.producers),
                ", ".join(group.consumers) or "-",
                f"frozen: {group.frozen}" if group.frozen else f"{len(group.labels)} masks",
            )
            for group in self.groups
        ]
        kernels = [("kernel", "taps", "decision")] + [
            (kernel.name, str(kernel.taps), str(kernel)) for kernel in self.kernels
        ]
        return "\n\n".join(_aligned(lines) for lines in (groups, kernels) if len(lines) > 1)


def _aligned(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """A traced net, its table, and the labels at each of its nodes."""

    net: fx.GraphModule
    table: Table
    labels: dict[fx.Node, Any]
    found: Labelling


def analyze(net: nn.Module, example: Tensor | tuple[Tensor, ...]) -> tuple[fx.GraphModule, Table]:
    """Traces `net` and finds which channels live and die together.

    Args:
        net: Any module whose forward pass can be traced; it is not changed.
        example: Its input, or its inputs, best with a batch of two or more.

    Returns:
        The traced net, over the same submodules, and its table. What is not known to be safe is a
        frozen group with a reason and a source line, never an error.

    Raises:
        UntraceableError: When the forward pass depends on values.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> print(analyze(net, torch.zeros(2, 3, 8, 8))[1])
        group  channels  made by  read by  decision
        0      8         0        2        8 masks
        2      4         2        -        frozen: network output
    """
    inputs = beside(net, as_inputs(example))
    found = analyse_graph(trace(net, inputs), inputs)
    return found.net, found.table


def analyse_graph(
    net: fx.GraphModule,
    inputs: Inputs,
    *,
    exclude_names: Collection[str] = (),
    exclude_types: tuple[type, ...] = (),
) -> Analysis:
    """The analysis of a net that is traced already, with the user's exclusions."""
    found = label_graph(net, inputs, exclude_names=exclude_names, exclude_types=exclude_types)
    while True:
        table, final = _tabulate(net, found)
        labels = _renamed(found, final)
        if not (failed := _uncuttable(net, found, labels, table)):
            return Analysis(net, table, labels, found)
        for node in failed:
            _freeze_around(node, net, found)


def label_graph(
    net: fx.GraphModule,
    inputs: Inputs,
    *,
    exclude_names: Collection[str] = (),
    exclude_types: tuple[type, ...] = (),
) -> Labelling:
    """The run on labels alone, before it is known what can be cut."""

    def frozen(name: str) -> bool:
        return is_excluded(net, name, exclude_names, exclude_types)

    # Two items at least: with one, a flattened batch and a flattened channel look alike.
    if all(value.dim() > 0 and value.shape[0] == 1 for value in inputs):
        inputs = tuple(value.repeat(2, *[1] * (value.dim() - 1)) for value in inputs)
    return label(net, inputs, frozen)


def is_excluded(net: nn.Module, name: str, names: Collection[str], types: tuple[type, ...]) -> bool:
    """Whether the user excludes the module at `name`, or one around it."""
    inside = any(f"{name}.".startswith(f"{excluded}.") for excluded in names)
    return inside or type(net.get_submodule(name)) in types


def _renamed(found: Labelling, final: Tensor) -> dict[fx.Node, Any]:
    return {node: tensor_map(lambda t: final[t], value) for node, value in found.values.items()}


def _freeze_around(node: fx.Node, net: fx.GraphModule, found: Labelling) -> None:
    at = f" at {place}" if (place := location(node)) else ""
    for labels in tensors([found.values[n] for n in (node, *_origins(node, found))]):
        found.union.freeze(labels, f"can't be cut through {operation_name(node, net)}{at}")


def _origins(node: fx.Node, found: Labelling) -> Iterator[fx.Node]:
    """The activations that `node` reads, be it their sizes only."""
    for n in node.all_input_nodes:
        if tensors(found.values[n]):
            yield n
        else:
            yield from _origins(n, found)


def _uncuttable(
    net: fx.GraphModule, found: Labelling, labels: dict[fx.Node, Any], table: Table
) -> list[fx.Node]:
    """Nodes that could not follow some cut, found by three random ones and the deepest."""
    generator = torch.Generator().manual_seed(0)
    failed: list[fx.Node] = []
    for share in (0.6, 0.6, 0.6, 0.0):
        live = torch.rand(table.size, generator=generator) < share
        live[0] = True
        for choice in table.keep:
            live[choice[torch.randint(len(choice), (), generator=generator)]] = True
        failed += plan(net, found, labels, live).failed
    return failed


def _tabulate(net: fx.GraphModule, found: Labelling) -> tuple[Table, Tensor]:
    """The table, and the label in it of every raw label."""
    calls, norms = _fold(net, found)
    raw = torch.arange(found.union.size)
    names, roots = found.union.names(raw), found.union.roots(raw)
    components = _components(calls, names)
    final = torch.zeros(found.union.size, dtype=torch.long)
    groups, frozen = [], []
    size = 1
    for members in components:
        free = [m for m in members if roots[m]]
        fixed = [m for m in members if not roots[m]]
        if free:
            final[torch.tensor(free)] = torch.arange(size, size + len(free))
            groups.append(_group(calls, names, free, range(size, size + len(free)), None))
            size += len(free)
        if fixed:
            reason = next(filter(None, map(found.union.reason, fixed)))
            frozen.append(_group(calls, names, fixed, range(0), reason))
    final = final[roots]
    branches = {node.name: branch for node, branch in branches_of(net).items()}
    rows = tuple(
        _row(net, call, norms.get(call.node), final, branches[call.node]) for call in calls
    )
    keep = _keep(found, rows, final)
    return Table(rows, tuple(groups + frozen), size, keep, kernels_of(net, found)), final


def _components(calls: list[Call], names: Tensor) -> list[list[int]]:
    """Sets of label names that some layer makes together, in the order of the layers."""
    groups: dict[int, list[int]] = {}
    for call in calls:
        if call.op not in ("conv", "linear"):
            continue
        made = dict.fromkeys(names[call.cout].tolist())
        parts = {id(part): part for part in (groups.get(n, [n]) for n in made)}
        merged = [name for part in parts.values() for name in part]
        groups.update(dict.fromkeys(merged, merged))
    return list({id(part): part for part in groups.values()}.values())


def _group(
    calls: list[Call], names: Tensor, members: list[int], labels: range, frozen: str | None
) -> ChannelGroup:
    inside = torch.tensor(members)
    layers = [c for c in calls if c.op in ("conv", "linear")]
    producers = [c.name for c in layers if bool(torch.isin(names[c.cout], inside).any())]
    consumers = [
        c.name for c in layers if not c.separate and bool(torch.isin(names[c.cin], inside).any())
    ]
    made = tuple(dict.fromkeys(producers))
    name = made[0] if made else "input"
    return ChannelGroup(name, labels, len(members), made, tuple(dict.fromkeys(consumers)), frozen)


def _fold(net: fx.GraphModule, found: Labelling) -> tuple[list[Call], dict[str, str]]:
    """The calls without the norms that fold into the layer before them, and these norms.

    A norm folds where each of its calls directly follows one layer, and each call of that layer is
    followed by it: a block that is called twice folds, too. What is excluded or shares a
    parameter stays as it is.
    """
    nodes = {node.name: node for node in net.graph.nodes}
    layers = {c.node: c for c in found.calls if c.op in ("conv", "linear")}
    before = {
        call.node: layer
        for call in found.calls
        if (layer := _layer_before(net, nodes[call.node], call, layers)) is not None
    }
    pairs = Counter(
        (call.name, before[call.node].name) for call in found.calls if call.node in before
    )
    calls = Counter(call.name for call in found.calls)
    folded = {
        norm
        for (norm, layer), n in pairs.items()
        if n == calls[norm] == calls[layer] and found.fixed.keys().isdisjoint((norm, layer))
    }
    norms = {before[c.node].node: c.name for c in found.calls if c.name in folded}
    return [call for call in found.calls if call.name not in folded], norms


def _layer_before(
    net: fx.GraphModule, node: fx.Node, call: Call, layers: dict[str, Call]
) -> Call | None:
    """The layer whose result `node`, a batch norm, reads alone; nothing for another node."""
    if call.op != "affine" or not node.all_input_nodes:
        return None
    norm: Any = net.get_submodule(call.name)
    if ops.instance_of(norm, ops.BATCH_NORMS) is None or norm.running_mean is None:
        return None  # without statistics of its own it is no fixed scale and shift
    source = node.all_input_nodes[0]
    layer = layers.get(source.name)
    alone = sum(not is_metadata(user) for user in source.users) == 1
    fits = layer is not None and alone and torch.equal(call.cin, layer.cout)
    return layer if fits else None


def _row(net: fx.GraphModule, call: Call, norm: str | None, final: Tensor, branch: Branch) -> Row:
    spec: dict[str, Any] = {"cin": len(call.cin), "cout": len(call.cout), "bias": False}
    if call.op in ("conv", "linear", "affine"):
        module = cast(Any, net.get_submodule(call.name))
        spec["bias"] = getattr(module, "bias", None) is not None or norm is not None
        if call.op == "conv":
            spec |= {"kernel": tuple(module.kernel_size), "stride": tuple(module.stride)}
            spec["groups"] = module.groups
    w_bits: Tensor | None = None
    if call.op in ("conv", "linear") and is_quantized(net.get_submodule(call.name)):
        w_bits = cast(Any, net.get_submodule(call.name)).w_bits.cpu()
        spec["x_bits"] = cast(Any, net.get_submodule(call.name)).x_bits
    return Row(
        call.name,
        call.node,
        final[call.cin],
        final[call.cout],
        norm,
        LayerSpec(
            name=call.name,
            op=cast(Any, call.op),
            out=call.out,
            depthwise=call.separate and len(call.cin) == len(call.cout),
            repeat=call.repeat,
            **spec,
        ),
        branch,
        w_bits,
    )


def _keep(found: Labelling, rows: tuple[Row, ...], final: Tensor) -> tuple[Tensor, ...]:
    """Smallest sets of labels that must not die out: every activation keeps a channel."""
    values = [v for n, v in found.values.items() if n not in found.constant]
    everywhere = [final[t] for t in tensors(values) if t.numel()]
    everywhere += [labels for row in rows for labels in (row.cin, row.cout)]
    sets = {frozenset(torch.unique(labels).tolist()) for labels in everywhere}
    free = sorted((s for s in sets if s and 0 not in s), key=lambda s: (len(s), min(s)))
    smallest: list[frozenset[int]] = []
    for candidate in free:
        if not any(other <= candidate for other in smallest):
            smallest.append(candidate)
    return tuple(torch.tensor(sorted(s)) for s in smallest)
