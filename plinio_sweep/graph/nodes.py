"""What a node of a graph is, and what it would compute for other arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from plinio_sweep.graph import operations as ops


def tensor_map(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """`tree` with `function` applied to its tensors."""
    if isinstance(tree, Tensor):
        return function(tree)  # most are; a walk takes ten times as long
    return pytree.tree_map_only(Tensor, function, tree)


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in `tree`, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def is_metadata(node: fx.Node) -> bool:
    """Whether `node` asks a tensor for its shape."""
    if node.op == "call_method":
        return node.target in ops.METADATA_METHODS
    return node.target is getattr and node.args[1] in ops.METADATA_ATTRIBUTES


def is_shape(node: fx.Node, net: fx.GraphModule) -> bool:
    """Whether `node` only moves, copies or drops elements."""
    if node.op == "call_module":
        module = net.get_submodule(str(node.target))
        return ops.instance_of(module, ops.SHAPE_MODULES) is not None
    return node.target in (ops.SHAPE_METHODS if node.op == "call_method" else ops.SHAPE_FUNCTIONS)


def moved(node: fx.Node) -> list[fx.Node]:
    """The inputs whose elements the shape operation `node` moves; the others say where to."""
    first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    found: list[fx.Node] = []
    fx.map_arg(first, found.append)
    return found


def run_on(node: fx.Node, net: fx.GraphModule, args: Any, kwargs: Any) -> Any:
    """What `node` computes for other arguments than its own."""
    if node.op == "call_module":
        return net.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target), node
    return node.target(*args, **kwargs)


def operation_name(node: fx.Node, net: fx.GraphModule) -> str:
    """A word for the operation at `node`: "softmax", "LayerNorm"."""
    if node.op == "call_module":
        return f"{type(net.get_submodule(str(node.target))).__name__} {node.target}"
    return str(getattr(node.target, "__name__", node.target))
