"""The taps of kernels along one axis: which may be removed, and how the others are cut out.

The last tap always stays, and of the others every `step`-th, counted from it: `range(first, K,
step)`. What stays is a stock layer with fewer taps and a larger dilation. A removed first tap had
read `first * dilation` positions to the left of all others; that much less padding is needed there,
or a crop where there is none to take away.

Shapes: `K` taps of a kernel.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional as F

from plinio_sweep.graph import operations as ops
from plinio_sweep.graph.labels import Labelling
from plinio_sweep.graph.layers import replace_tensor
from plinio_sweep.graph.quantized import is_quantized

_PADS: Mapping[str, type[nn.Module]] = {
    "circular": nn.CircularPad1d,
    "reflect": nn.ReflectionPad1d,
    "replicate": nn.ReplicationPad1d,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """The taps of one layer, decided together for all its calls."""

    name: str
    taps: int  # `K`
    dilation: int
    frozen: str | None = None  # why they may not be cut

    @property
    def steps(self) -> tuple[int, ...]:
        """The distances between taps that may stay: 1, 2, 4 and so on, below `K`."""
        return tuple(2**level for level in range((self.taps - 1).bit_length()))

    def __str__(self) -> str:
        """What may become of it."""
        if self.frozen is not None:
            return f"frozen: {self.frozen}"
        dilations = " ".join(str(step * self.dilation) for step in self.steps)
        return f"1 to {self.taps} taps, dilation {dilations}"


def kernels_of(net: fx.GraphModule, found: Labelling) -> tuple[Kernel, ...]:
    """The kernels of `net` along one axis, each with the reason why it stays whole if it does."""
    kernels: dict[str, Kernel] = {}
    for call in found.calls:
        if call.op != "conv":
            continue
        layer = cast(Any, net.get_submodule(call.name))
        if ops.instance_of(layer, (nn.Conv1d,)) is None:
            continue
        (taps,), (stride,), (dilation,) = layer.kernel_size, layer.stride, layer.dilation
        frozen = found.fixed.get(call.name)
        if frozen is None and stride > 1:
            frozen = f"stride {stride} in {call.name}"
        if frozen is None and is_quantized(layer):
            frozen = f"rounded weights in {call.name}"
        if frozen is None and taps == 1:
            frozen = "a single tap"
        kernels[call.name] = Kernel(name=call.name, taps=taps, dilation=dilation, frozen=frozen)
    return tuple(kernels.values())


@torch.no_grad()
def keep_taps(net: fx.GraphModule, kept: Mapping[str, range]) -> None:
    """Cuts taps out of layers of `net`, in place; it computes what it did with zeros there.

    Args:
        net: A net of one's own.
        kept: `range(first, K, step)` of each layer to be cut, by its path; holds the last tap.
    """
    for name, taps in kept.items():
        layer: Any = net.get_submodule(name)
        if len(taps) < layer.kernel_size[0]:
            _cut(net, name, layer, taps)
    net.graph.lint()
    net.recompile()


def _cut(net: fx.GraphModule, name: str, layer: Any, taps: range) -> None:
    left, right = _padding(layer)
    mode = layer.padding_mode if left or right else "zeros"
    padded = bool(left or right)
    left -= taps.start * layer.dilation[0]
    replace_tensor(layer, "weight", layer.weight.detach()[..., list(taps)])
    layer.kernel_size = (len(taps),)
    layer.dilation = (layer.dilation[0] * taps.step,)
    symmetric = mode == "zeros" and left == right
    layer.padding_mode, layer.padding = "zeros", (left if symmetric else 0,)
    if symmetric:
        return
    for node in [n for n in net.graph.nodes if n.op == "call_module" and n.target == name]:
        before = None if padded else _constant_pad(net, node.all_input_nodes[0])
        if before is None:
            _insert(net, node, node.all_input_nodes[0], _pads(mode, left, right))
        else:
            source, (more, after), value = before
            _insert(net, node, source, _pads("zeros", left + more, after, value))


def _padding(layer: Any) -> tuple[int, int]:
    """Positions that `layer` adds on the left and on the right."""
    if layer.padding == "same":
        total = layer.dilation[0] * (layer.kernel_size[0] - 1)
        return total // 2, total - total // 2
    return (0, 0) if layer.padding == "valid" else (layer.padding[0], layer.padding[0])


def _pads(mode: str, left: int, right: int, value: float = 0.0) -> list[nn.Module]:
    """Stock modules that add, or where negative take away, positions on both sides."""
    if mode == "zeros":
        return [nn.ConstantPad1d((left, right), value)] if left or right else []
    pads = [_PADS[mode]((max(left, 0), right))] if left > 0 or right else []
    # What is added on the right may come from the left end: the crop is last.
    return [*pads, nn.ConstantPad1d((left, 0), 0.0)] if left < 0 else pads


def _constant_pad(
    net: fx.GraphModule, node: fx.Node
) -> tuple[fx.Node, tuple[int, int], float] | None:
    """What `node` pads, by how much and with what; nothing where it is no constant pad."""
    if node.op == "call_module":
        pad: Any = net.get_submodule(str(node.target))
        if ops.instance_of(pad, (nn.ConstantPad1d, nn.ZeroPad1d)) is None:
            return None
        return node.all_input_nodes[0], tuple(pad.padding), pad.value
    if node.target is not F.pad:
        return None
    given = inspect.signature(F.pad).bind(*node.args, **node.kwargs)
    given.apply_defaults()
    sizes, mode = given.arguments["pad"], given.arguments["mode"]
    if mode != "constant" or len(sizes) != 2 or not all(isinstance(n, int) for n in sizes):
        return None
    return node.all_input_nodes[0], tuple(sizes), given.arguments["value"] or 0.0


def _insert(net: fx.GraphModule, node: fx.Node, source: fx.Node, pads: list[nn.Module]) -> None:
    """Lets `node` read `source` through `pads`, and drops what nothing reads any more."""
    old, new = node.all_input_nodes[0], source
    for pad in pads:
        path = f"{node.target}_pad"
        while path in dict(net.named_modules()):
            path += "_"
        net.add_submodule(path, pad)
        with net.graph.inserting_before(node):
            new = net.graph.call_module(path, (new,))
        new.meta, new.stack_trace = dict(node.meta), node.stack_trace
    node.replace_input_with(old, new)
    if not old.users and old is not source:
        net.graph.erase_node(old)
        if old.op == "call_module" and all(n.target != old.target for n in net.graph.nodes):
            net.delete_submodule(str(old.target))
