"""A choice between branches, as a mark that a graph keeps: the weighted sum of their outputs.

Shapes: `M` branches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

Branch = tuple[tuple[str, int], ...]  # (choice, index) of every choice that something lies in


class Mix(nn.Module):
    """The sum of `M` tensors of one shape, weighted by the buffer `weights`, `(M,)`.

    Args:
        branches: `M`.
    """

    weights: Tensor

    def __init__(self, branches: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((branches,), 1 / branches), persistent=False)
        self.sampled = False  # whether weights are one-hot during training

    def forward(self, *outputs: Tensor) -> Tensor:
        """The weighted sum.

        Raises:
            ValueError: When the outputs differ in shape.
        """
        shapes = [tuple(output.shape) for output in outputs]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                f"All branches of a choice must give one shape, but gave {shapes}; adapt stride, "
                f"padding or channels."
            )
        weights = self.weights.to(outputs[0].dtype)
        if self.sampled and self.training and not torch.compiler.is_compiling():
            picked: Tensor = _Sampled.apply(weights, *outputs)
            return picked
        total = weights[0] * outputs[0]
        for weight, output in zip(weights[1:], outputs[1:], strict=True):
            total = total + weight * output
        return total


class _Sampled(torch.autograd.Function):
    """The sum for one-hot weights, whose backward pass runs through the sampled branch only.

    Exact: with weights of zero, every gradient into the other branches is zero.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *outputs: Tensor) -> Tensor:
        index = int(weights.argmax())
        ctx.index = index
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*outputs)
        return outputs[index].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        outputs = ctx.saved_tensors
        if grad is None:  # a choice in a branch that was not taken
            return (None,) * (len(outputs) + 1)
        weights = torch.stack([(grad * output).sum() for output in outputs])
        chosen = [grad if index == ctx.index else None for index in range(len(outputs))]
        return (weights, *chosen)


def branches_of(net: fx.GraphModule) -> dict[fx.Node, Branch]:
    """In which branches of which choices each node lies: what it computes is used nowhere else."""
    found: dict[fx.Node, Branch] = {}
    for node in reversed(list(net.graph.nodes)):
        inside: list[set[tuple[str, int]]] = []
        for user in node.users:
            outer = set(found[user])
            name = choice_at(user, net)
            if name is None:
                inside.append(outer)
            else:
                inside += [
                    outer | {(name, index)} for index, arg in enumerate(user.args) if arg is node
                ]
        found[node] = tuple(sorted(set.intersection(*inside))) if inside else ()
    return found


def agree(one: Iterable[tuple[str, int]], other: Iterable[tuple[str, int]]) -> bool:
    """Whether no choice is made in two ways.

    Example:
        >>> agree([("block", 0)], [("head", 1)]), agree([("block", 0)], [("block", 1)])
        (True, False)
    """
    both = {*one, *other}
    return len({choice for choice, _ in both}) == len(both)


def choice_at(node: fx.Node, net: fx.GraphModule) -> str | None:
    """The path of the choice that ends at `node`; nothing where none does."""
    if node.op != "call_module" or not isinstance(net.get_submodule(str(node.target)), Mix):
        return None
    return str(node.target).rpartition(".")[0]


def keep_branch(net: fx.GraphModule, choice: str, index: int) -> None:
    """Puts branch `index` of `choice` in the place of the choice: stock modules, clean names.

    Args:
        net: Is changed in place; recompile it when all choices are made.
        choice: Path of the choice.
        index: Of the branch that stays.
    """
    unused = {node for node in net.graph.nodes if not node.users}
    for node in list(net.graph.nodes):
        if choice_at(node, net) == choice:
            if node in unused:
                unused.add(node.args[index])
            node.replace_all_uses_with(node.args[index])
            net.graph.erase_node(node)
    for node in reversed(list(net.graph.nodes)):
        # What was unused before stays: it may act in place.
        if not node.users and node not in unused and node.op not in ("output", "placeholder"):
            net.graph.erase_node(node)
    kept, branches = f"{choice}.branches.{index}", f"{choice}.branches."
    known = {name for name, _ in net.named_modules()}
    branch = net.get_submodule(kept) if kept in known else nn.Identity()
    moved = [n for n in net.graph.nodes if n.op in ("call_module", "get_attr")]
    moved = [n for n in moved if f"{n.target}.".startswith(branches)]
    # A layer of this branch that is known by its name in another one, which goes.
    shared = {str(n.target) for n in moved if not f"{n.target}.".startswith(f"{kept}.")}
    layers = {name: net.get_submodule(name) for name in shared & known}
    parent, _, name = choice.rpartition(".")
    setattr(net.get_submodule(parent), name, branch)
    for target, layer in layers.items():
        net.add_submodule(f"{choice}.shared.{target.removeprefix(branches)}", layer)
    for node in moved:
        target = str(node.target)
        if target in shared:
            node.target = f"{choice}.shared.{target.removeprefix(branches)}"
        else:
            node.target = choice + target.removeprefix(kept)
