"""Folds norms into the layers before them, and puts them back.

With the statistics of evaluation, `s = gamma / sqrt(var + eps)`, a layer `W x + b` and its norm are
the one layer

    W' = s W        b' = (b - mean) s + beta

Shapes: `O` rows of a layer's weight, which are the channels of its norm.

References:
    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
    Only Inference", CVPR 2018 (arXiv 1712.05877), section 3.2, equation 14.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from plinio_sweep.graph.layers import keep_channels
from plinio_sweep.graph.table import Table

# A norm whose scale is smaller can't be divided out of a weight without losing it.
_SMALLEST_SCALE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Folded:
    """A norm that was folded, and what its layer was before."""

    layer: str  # path of the layer that took it in
    norm: str  # path that it had
    module: nn.Module  # the norm itself, as it was
    bias: Tensor | None  # `(O,)` of the layer, as it was


@torch.no_grad()
def fold_norms(net: fx.GraphModule, table: Table) -> tuple[Folded, ...]:
    """Folds, in place, every norm of `net` that its table says folds into a layer.

    Args:
        net: A traced net of one's own; its layers are changed and its norms removed.
        table: Of `net`; it is out of date afterwards.

    Returns:
        What was folded, in the order of the layers.

    Example:
        >>> from plinio_sweep.graph.table import analyze
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)).eval()
        >>> traced, table = analyze(net, torch.zeros(2, 3, 8, 8))
        >>> [(fold.layer, fold.norm) for fold in fold_norms(traced, table)]
        [('0', '1')]
        >>> [name for name, _ in traced.named_parameters()]
        ['0.weight', '0.bias']
    """
    folded = []
    for name, norm in foldable(table).items():
        layer, module = cast(Any, net.get_submodule(name)), cast(Any, net.get_submodule(norm))
        before = None if layer.bias is None else layer.bias.detach().clone()
        folded.append(Folded(layer=name, norm=norm, module=copy.deepcopy(module), bias=before))
        _fold(layer, module)
        bypass(net, norm)
        net.delete_submodule(norm)
    net.graph.lint()
    net.recompile()
    return tuple(folded)


def foldable(table: Table) -> dict[str, str]:
    """The norm that folds into each layer, by paths."""
    return {row.name: row.norm for row in table.rows if row.norm is not None}


@torch.no_grad()
def unfold_norms(
    net: fx.GraphModule, folded: Iterable[Folded], rows: Mapping[str, Tensor] | None = None
) -> None:
    """Puts norms back, in place, behind layers that took them in: the net computes the same.

    The layer is divided by the scale of its norm, and the shift of the norm takes up what training
    changed since. A net that was not trained is the one before the fold, up to rounding.

    Args:
        net: A net of one's own, with the layers under the paths that they had; recompiled.
        folded: What `fold_norms` returned.
        rows: For each layer that was cut, the indices of the rows that are left of it.
    """
    for fold in folded:
        layer: Any = net.get_submodule(fold.layer)
        norm: Any = copy.deepcopy(fold.module).to(layer.weight.device, layer.weight.dtype)
        before = None if fold.bias is None else fold.bias.to(layer.weight)
        if rows is not None and fold.layer in rows:
            left = rows[fold.layer].to(layer.weight.device)
            keep_channels(norm, left)
            before = None if before is None else before[left]
        _unfold(layer, norm, before)
        net.add_submodule(fold.norm, norm.train(net.training))
        for node in list(net.graph.nodes):
            if node.op == "call_module" and node.target == fold.layer:
                _append(net.graph, node, fold.norm)
    net.graph.lint()
    net.recompile()


def _fold(layer: Any, norm: Any) -> None:
    scale, mean, shift = _scale(norm), _wide(norm.running_mean), _shift(norm)
    before = torch.zeros_like(mean) if layer.bias is None else _wide(layer.bias)
    bias = ((before - mean) * scale + shift).to(layer.weight)
    layer.weight.copy_(_wide(layer.weight) * _column(scale, layer.weight))
    layer.register_parameter("bias", nn.Parameter(bias, bias_learns(layer, norm)))


def bias_learns(layer: Any, norm: Any) -> bool:
    """Whether the bias of a layer and its norm as one is trained: where one of their own is."""
    own = [p.requires_grad for p in (layer.bias, norm.bias) if isinstance(p, nn.Parameter)]
    return any(own) if own else bool(layer.weight.requires_grad)


def _unfold(layer: Any, norm: Any, before: Tensor | None) -> None:
    if norm.affine:
        weak = _scale(norm).abs() < _SMALLEST_SCALE
        norm.running_mean[weak], norm.running_var[weak] = 0.0, 1.0
        norm.weight[weak] = (1.0 + norm.eps) ** 0.5
    scale, mean, after = _scale(norm), _wide(norm.running_mean), _wide(layer.bias)
    layer.weight.copy_(_wide(layer.weight) / _column(scale, layer.weight))
    own = torch.zeros_like(mean) if before is None else _wide(before)
    if norm.affine:
        norm.bias.copy_(after - (own - mean) * scale)
    elif before is None:
        norm.running_mean.copy_(-after / scale)
    else:
        own = after / scale + mean
    if before is None:
        layer.register_parameter("bias", None)
    else:
        layer.bias.copy_(own)


def _wide(value: Tensor) -> Tensor:
    """`value` in single precision at least."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))


def _scale(norm: Any) -> Tensor:
    """`(O,)` what the norm multiplies each channel by, with the statistics of evaluation."""
    inverse = torch.rsqrt(_wide(norm.running_var) + norm.eps)
    return _wide(norm.weight) * inverse if norm.affine else inverse


def _shift(norm: Any) -> Tensor:
    return _wide(norm.bias) if norm.affine else torch.zeros_like(_wide(norm.running_mean))


def _column(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (weight.dim() - 1))


def bypass(net: fx.GraphModule, norm: str) -> None:
    """Takes a norm out of the graph: the layer before it stands in its place."""
    for node in list(net.graph.nodes):
        if node.op == "call_module" and node.target == norm:
            node.replace_all_uses_with(node.all_input_nodes[0])
            net.graph.erase_node(node)


def _append(graph: fx.Graph, node: fx.Node, norm: str) -> None:
    with graph.inserting_after(node):
        new = graph.call_module(norm, (node,))
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
