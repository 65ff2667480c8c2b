"""Channels of an integer net in the order of their bit-widths, so that rows need no table.

Weights are stored in one stream for each bit-width. Where the channels of a tensor may change
places, they take the order in which their weights lie, and what reads them follows: the columns of
the next layer, the other operand of a sum. Nothing is moved when the net runs.

Tensors whose channels go together are a class. A class stays as it is where a position means
something: inputs and outputs of the net, groups of a grouped convolution, elements that are moved.

Shapes: `C` channels of a tensor, its first axis; `P` positions of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from plinio_sweep.ship.program import (
    Add,
    Average,
    Conv,
    Lookup,
    Maximum,
    Move,
    Multiply,
    Program,
)


def reorder(program: Program) -> Program:
    """The same net with channels sorted by bit-width, wherever nothing depends on their order.

    What it returns for the same inputs is equal to the last bit.
    """
    classes = _Classes(program)
    constants = dict(program.constants)
    done: set[str] = set()
    for op in program.operations:
        if not isinstance(op, Conv):
            continue
        num_rows, num_columns = program.constants[f"{op.layer}.weight"].shape[:2]
        rows = classes.order(op.output, num_rows)
        for key in ("mantissa", "shift"):
            name = f"{op.output}.{key}"
            constants[name] = constants[name][rows]
        if op.layer in done:
            continue
        done.add(op.layer)
        for key in ("weight", "bits", "bias"):
            name = f"{op.layer}.{key}"
            constants[name] = constants[name][rows]
        if op.groups == 1:
            weight, columns = f"{op.layer}.weight", classes.order(op.inputs[0], num_columns)
            constants[weight] = constants[weight][:, columns].contiguous()
    return replace(program, constants=constants)


class _Classes:
    """Which tensors have to have their channels in one order."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.parent = {name: name for name in program.values}
        self.blocks = dict.fromkeys(program.values, 1)  # elements of axis 0 to each channel
        self.frozen: set[str] = {*program.inputs, *program.outputs}
        for op in program.operations:
            self._visit(op)
        for layer in {op.layer for op in self._layers()}:
            calls = [op for op in self._layers() if op.layer == layer]
            for op in calls[1:]:
                self._unite(calls[0].output, op.output)
                self._unite(calls[0].inputs[0], op.inputs[0])
        self.fixed = {self.root(name) for name in self.frozen}

    def root(self, name: str) -> str:
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def order(self, name: str, size: int) -> Tensor:
        """`(size,)` which element of its channel axis comes to each place of a tensor."""
        own = self.root(name)
        if own in self.fixed:
            return torch.arange(size)
        bits = [
            self.program.constants[f"{op.layer}.bits"].long()
            for op in self._layers()
            if self.root(op.output) == own
        ]
        block = self.blocks[name]
        order = torch.arange(size // block)
        for widths in reversed(bits):  # the one that is sorted by last, counts most
            order = order[torch.argsort(widths[order], stable=True)]
        return (order[:, None] * block + torch.arange(block)).flatten()

    def _layers(self) -> Iterator[Conv]:
        return (op for op in self.program.operations if isinstance(op, Conv))

    def _visit(self, op: object) -> None:
        if isinstance(op, Conv):
            self._visit_layer(op)
        elif isinstance(op, Average | Maximum | Lookup):
            self._unite(op.inputs[0], op.output)
        elif isinstance(op, Add | Multiply):
            self._visit_joined(op)
        elif isinstance(op, Move):
            self._visit_move(op)

    def _visit_layer(self, op: Conv) -> None:
        source, shape = op.inputs[0], self.program.values[op.inputs[0]].shape
        if not op.stride:
            if len(shape) > 1:
                self.frozen |= {source, op.output}
        elif op.groups > 1:
            if op.groups == shape[0] == self.program.values[op.output].shape[0]:
                self._unite(source, op.output)
            else:
                self.frozen |= {source, op.output}

    def _visit_joined(self, op: Add | Multiply) -> None:
        shape = self.program.values[op.output].shape
        for name in op.inputs:
            own = self.program.values[name].shape
            if len(own) != len(shape) or not own:
                self.frozen |= {name, op.output}
            elif own[0] == shape[0]:
                self._unite(name, op.output)

    def _visit_move(self, op: Move) -> None:
        source = op.inputs[0]
        before, after = self.program.values[source].shape, self.program.values[op.output].shape
        block, rest = divmod(after[0] if after else 0, before[0] if before else 1)
        flattens = op.same and not rest and block and after[1:] in ((), before[1:])
        if not flattens or self.blocks[source] > 1:
            self.frozen |= {*op.inputs, op.output}
            return
        self._unite(source, op.output)
        self.blocks[op.output] = block

    def _unite(self, one: str, other: str) -> None:
        if self.blocks[one] > 1 and self.root(one) != self.root(other):
            self.frozen |= {one, other}  # only a linear layer knows what a block is
        self.parent[self.root(other)] = self.root(one)
