"""A program while it is built: its values and operations, and elements that were only moved.

Shape operations are not written down one by one. They run on the positions of the elements instead,
so that a chain of them becomes one `Move`, or none where the order stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from plinio_sweep.graph.nodes import operation_name, run_on, tensor_map, tensors
from plinio_sweep.ship.program import Add, Grid, Move, Operation, Program, Value, common_words

FINER = 256
"""Results that the net returns without rounding are rounded to a part of their inputs' scale."""


class IntegerError(ValueError):
    """A net that has no integer form; nothing was written."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moved:
    """Elements of values of the program, in some order.

    Args:
        sources: Names of the values.
        index: int64 tensors of the shape of one item, or a structure of them: 1 and more is the
            position in all sources, laid end to end; 0 is a zero that padding brought.
    """

    sources: tuple[str, ...]
    index: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Pending:
    """A fresh result that has still to be rounded.

    Args:
        node: Who computes it.
        emit: Writes the operation for a grid and limits of its codes; the name of the value.
        scale: On which it is rounded where the net does not do so.
        low: Where an activation clips it, as a real number.
        high: The same above.
        then: What happens to its elements after it is rounded.
    """

    node: fx.Node
    emit: Callable[[Grid, int, int], str]
    scale: float
    low: float = -inf
    high: float = inf
    then: tuple[Callable[[Moved], Moved], ...] = ()

    def clipped(self, low: float, high: float) -> Pending:
        """The same behind an activation that clips."""
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))

    def followed(self, step: Callable[[Moved], Moved]) -> Pending:
        """The same with its elements moved."""
        return replace(self, then=(*self.then, step))


@dataclass(kw_only=True)
class Builder:
    """Collects values, operations and constants of a program."""

    net: fx.GraphModule
    real: Mapping[fx.Node, Any]  # what every node computes for two items
    values: dict[str, Value] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[fx.Node, str] = field(default_factory=dict)
    layers: dict[str, Grid] = field(default_factory=dict)  # what each reads: biases are made for it
    _settled: dict[int, tuple[Moved, str]] = field(default_factory=dict)

    # -- values -------------------------------------------------------------------------------

    def name(self, wish: str) -> str:
        """`wish`, or something like it that no value has."""
        number = 1
        name = wish
        while name in self.values:
            number += 1
            name = f"{wish}_{number}"
        return name

    def declare(self, name: str, shape: tuple[int, ...], grid: Grid) -> None:
        """Makes a value of the program known."""
        self.values[name] = Value(shape=tuple(shape), grid=grid)

    def add(self, operation: Operation, shape: tuple[int, ...], grid: Grid) -> str:
        """Writes an operation down; the name of its value."""
        self.declare(operation.output, shape, grid)
        self.operations.append(operation)
        return operation.output

    def grid(self, moved: Moved) -> Grid:
        """The one grid on which all elements lie.

        Raises:
            IntegerError: Where there are several.
        """
        grids = {self.values[name].grid for name in moved.sources}
        if len(grids) != 1:
            raise IntegerError(
                f"Values that are joined must lie on one scale, but those of {moved.sources} have "
                f"{len(grids)}; open the net with quantize_outputs=True."
            )
        return grids.pop()

    # -- moving -------------------------------------------------------------------------------

    def whole(self, name: str) -> Moved:
        """All elements of a value in their order."""
        value = self.values[name]
        return Moved(sources=(name,), index=torch.arange(1, value.size + 1).reshape(value.shape))

    def reshaped(self, moved: Moved, shape: tuple[int, ...]) -> Moved:
        """The elements in another shape of an item."""
        return replace(moved, index=moved.index.reshape(shape))

    def settle(self, moved: Moved, wish: str) -> str:
        """The value that holds these elements in this order; moves them if there is none."""
        known = self._settled.get(id(moved))
        if known is not None:
            return known[1]
        used, index = self._used(moved)
        first = self.values[used[0]]
        in_order = len(used) == 1 and torch.equal(index.flatten(), torch.arange(first.size))
        if in_order and first.shape == tuple(index.shape):
            name = used[0]
        else:
            grid = self.grid(moved)
            name = self.name(f"{wish}_moved")
            if not in_order:
                self.constants[f"{name}.index"] = index.int()
            self.add(Move(output=name, inputs=used, same=in_order), tuple(index.shape), grid)
        self._settled[id(moved)] = (moved, name)  # which also keeps the number its own
        return name

    def _used(self, moved: Moved) -> tuple[tuple[str, ...], Tensor]:
        """The sources that are read at all, and the index into them, from -1."""
        start = 0
        left: list[str] = []
        index = moved.index
        shifted = torch.where(index > 0, 0, -1)
        for name in moved.sources:
            size = self.values[name].size
            inside = (index > start) & (index <= start + size)
            if bool(inside.any()) or len(moved.sources) == 1:
                before = sum(self.values[n].size for n in left)
                shifted = torch.where(inside, index - 1 - start + before, shifted)
                left.append(name)
            start += size
        return tuple(left), shifted

    def run_moves(self, node: fx.Node, given: Mapping[fx.Node, Moved]) -> Moved:
        """What the shape operation `node` makes of elements.

        Raises:
            IntegerError: When it mixes the items of a batch.
        """
        sources = tuple(dict.fromkeys(s for moved in given.values() for s in moved.sources))
        total = sum(self.values[name].size for name in sources)
        shifts = {node: self._joined(moved, sources) for node, moved in given.items()}

        def batch(index: Tensor) -> Tensor:
            # Two items, in doubles: every mode of padding knows these.
            return torch.stack([index, torch.where(index > 0, index + total, 0)]).double()

        args = fx.map_arg(
            (node.args, node.kwargs),
            lambda n: tensor_map(batch, shifts[n]) if n in shifts else self.real[n],
        )
        try:
            result = run_on(node, self.net, *args)
        except (RuntimeError, TypeError) as error:
            raise self.refusal(node, f"can't move whole numbers ({error})") from error
        for leaf in tensors(result):
            alike = len(leaf) == 2 and torch.equal(
                leaf[1], torch.where(leaf[0] > 0, leaf[0] + total, 0)
            )
            if not alike:
                raise self.refusal(node, "mixes the items of a batch")
        return Moved(sources=sources, index=tensor_map(lambda leaf: leaf[0].long(), result))

    def _joined(self, moved: Moved, sources: tuple[str, ...]) -> Any:
        """The index of `moved` among more sources than its own."""
        if moved.sources == sources:
            return moved.index
        starts, start = {}, 0
        for name in sources:
            starts[name], start = start, start + self.values[name].size
        parts = [torch.zeros(1, dtype=torch.long)]
        for name in moved.sources:
            parts.append(starts[name] + torch.arange(1, self.values[name].size + 1))
        table = torch.cat(parts)
        return tensor_map(lambda index: table[index], moved.index)

    # -- rounding -----------------------------------------------------------------------------

    def close(self, pending: Pending, grid: Grid) -> Moved:
        """Has a fresh result rounded to `grid`."""
        limits = (pending.low, pending.high)
        low, high = (
            bound if abs(limit) == inf else max(grid.low, min(grid.high, round(limit / grid.scale)))
            for limit, bound in zip(limits, (grid.low, grid.high), strict=True)
        )
        moved = self.whole(pending.emit(grid, low, high))
        for step in pending.then:
            moved = step(moved)
        return moved

    def rescaled(self, name: str, grid: Grid, low: int, high: int, wish: str) -> str:
        """A value on another grid, or clipped to other codes of its own."""
        value = self.values[name]
        whole = (value.grid.low, value.grid.high)
        if value.grid == grid and low <= whole[0] and high >= whole[1]:
            return name
        mantissas, shift = common_words([value.grid.scale / grid.scale])
        output = self.name(wish)
        operation = Add(
            output=output, inputs=(name,), mantissas=mantissas, shift=shift, low=low, high=high
        )
        return self.add(operation, value.shape, grid)

    def onto(self, moved: Moved, grid: Grid, wish: str) -> Moved:
        """Elements on another grid: each of their values is rescaled where it lies."""
        names = [self.rescaled(n, grid, grid.low, grid.high, wish) for n in moved.sources]
        return replace(moved, sources=tuple(names))

    # -- errors and the end -------------------------------------------------------------------

    def refusal(self, node: fx.Node, why: str) -> IntegerError:
        """One sentence about a node that has no integer form."""
        return IntegerError(
            f"Every operation of an integer net must have an integer form, but "
            f"{operation_name(node, self.net)} at {node.name!r} {why}; change it, or ship the "
            f"float net."
        )

    def program(self, outputs: tuple[str, ...], structure: pytree.TreeSpec) -> Program:
        """All that was collected."""
        return Program(
            inputs=tuple(self.inputs.values()),
            outputs=outputs,
            structure=pytree.treespec_dumps(structure),
            values=self.values,
            operations=tuple(self.operations),
            constants=self.constants,
        )
