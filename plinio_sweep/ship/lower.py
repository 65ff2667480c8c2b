"""A fake-quantised net as an integer program: which operation becomes which, and on which scales.

The nodes of the graph are walked once. What a node computes is `Moved` where it lies on grids:
elements of values of the program, in some order. It is `Pending` where it is fresh: an operation
whose results still have to be rounded, by the quantiser behind it or as an output of the net.
Activations that clip, max pools and shape operations between an operation and its quantiser are
carried along, since all of them can as well follow the rounding.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from plinio_sweep.graph import operations as ops
from plinio_sweep.graph.nodes import is_metadata, run_on, tensors
from plinio_sweep.graph.quantize import step_of
from plinio_sweep.graph.quantized import Quantizer, is_quantized
from plinio_sweep.graph.sites import RELUS, is_a, keeps
from plinio_sweep.graph.table import analyse_graph
from plinio_sweep.graph.trace import Inputs
from plinio_sweep.ship.builder import FINER, Builder, IntegerError, Moved, Pending
from plinio_sweep.ship.layers import lower_layer, lower_norm
from plinio_sweep.ship.pooling import Windows, windows_of
from plinio_sweep.ship.program import (
    INT32_MAX,
    Add,
    Average,
    Grid,
    Lookup,
    Maximum,
    Multiply,
    Program,
    common_words,
    words,
)

MAX_TABLE_BITS = 8

_SIGNS: Mapping[Any, tuple[int, int]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), (1, 1)),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, torch.subtract), (1, -1)),
    **dict.fromkeys(("sub", "sub_", "subtract"), (1, -1)),
}
_PRODUCTS = (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply")
_PASSING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_PASSING_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
_OTHER_KEEPERS = (torch.maximum, "maximum", torch.minimum, "minimum", torch.amin, "amin")
_SMOOTH = (F.softplus, F.hardsigmoid, F.hardswish, F.prelu, nn.PReLU)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lowered:
    """A net and the program that was made of it.

    Args:
        program: The integer program.
        net: The graph that was walked.
        rounded: Where the program has what each quantiser of the graph rounds.
    """

    program: Program
    net: fx.GraphModule
    rounded: Mapping[fx.Node, Moved]


def lower(net: fx.GraphModule, example: Inputs) -> Lowered:
    """The integer program of a net that MPS exported.

    Args:
        net: In eval mode; it is not changed.
        example: Its inputs, a batch of any size: what depends on it are shapes alone.

    Raises:
        IntegerError: When some operation has no integer form, with its name.
    """
    two = tuple(torch.cat([x, x])[:2] for x in example)
    walk = _Lowering(net, two)
    return Lowered(program=walk.run(), net=walk.net, rounded=walk.rounded)


class _Lowering:
    """One walk through the graph."""

    def __init__(self, net: fx.GraphModule, inputs: Inputs) -> None:
        analysis = analyse_graph(net, inputs)
        self.net, self.found = analysis.net, analysis.found
        self.build = Builder(net=self.net, real=self.found.real)
        self.known: dict[fx.Node, Moved | Pending] = {}
        self.rounded: dict[fx.Node, Moved] = {}

    def run(self) -> Program:
        for node in self.net.graph.nodes:
            if node.op == "output":
                return self._finish(node)
            if node.op == "placeholder" or self._is_value(node):
                self.known[node] = self._visit(node)
        raise AssertionError("a graph ends with its output")

    def _is_value(self, node: fx.Node) -> bool:
        if node in self.found.constant or is_metadata(node) or node.target is step_of:
            return False
        return node.op != "get_attr" and bool(tensors(self.found.real[node]))

    def _finish(self, node: fx.Node) -> Program:
        for placeholder in (n for n in self.net.graph.nodes if n.op == "placeholder"):
            if placeholder not in self.build.inputs:  # nothing reads it
                self._input(placeholder, Grid(scale=1.0, bits=8, signed=True), -128, 127)
        leaves, structure = pytree.tree_flatten(node.args[0])
        names = []
        for leaf in leaves:
            if not isinstance(leaf, fx.Node) or leaf not in self.known:
                raise IntegerError(
                    f"An integer net must return what it computes, but it returns {leaf!r}; leave "
                    f"it out of the outputs."
                )
            moved = self.known[leaf]
            if isinstance(moved, Pending):
                moved = self.build.close(moved, Grid(scale=moved.scale, bits=32, signed=True))
            names.append(self.build.settle(moved, leaf.name))
        return self.build.program(tuple(names), structure)

    # -- one node -------------------------------------------------------------------------------

    def _visit(self, node: fx.Node) -> Moved | Pending:
        if node.op == "placeholder":
            return Pending(node=node, emit=partial(self._input, node), scale=1.0)
        if node.op == "call_module":
            module = self.net.get_submodule(str(node.target))
            if isinstance(module, Quantizer):
                return self._round(node, module)
            if is_quantized(module):
                moved = self._on_grid(node, cast(fx.Node, node.args[0]))
                return lower_layer(self.build, node, cast(Any, module), moved)
            if ops.instance_of(module, ops.BATCH_NORMS):
                moved = self._on_grid(node, cast(fx.Node, node.args[0]))
                return lower_norm(self.build, node, cast(Any, module), moved)
        for attempt in (self._zeros, self._pass, self._clip, self._pool, self._move, self._combine):
            found = attempt(node)
            if found is not None:
                return found
        return self._function(node)

    def _data(self, node: fx.Node) -> list[fx.Node]:
        """What `node` reads of the activations."""
        return [n for n in node.all_input_nodes if n in self.known]

    def _on_grid(self, node: fx.Node, source: fx.Node) -> Moved:
        """The elements of `source`, which `node` reads and which must lie on a grid."""
        moved = self.known.get(source)
        if not isinstance(moved, Moved):
            raise self.build.refusal(node, "reads numbers that are not rounded")
        return moved

    def _input(self, node: fx.Node, grid: Grid, low: int, high: int) -> str:
        if node in self.build.inputs:
            raise self.build.refusal(node, "is rounded to several scales")
        name = self.build.inputs[node] = self.build.name(node.name)
        value = self.found.real[node]
        if not value.is_floating_point():
            raise self.build.refusal(node, f"is of type {value.dtype}")
        self.build.declare(name, tuple(value.shape[1:]), grid)
        return self.build.rescaled(name, grid, low, high, f"{name}_clipped")

    def _round(self, node: fx.Node, module: Quantizer) -> Moved:
        if module.log_clip is None:
            raise self.build.refusal(node, "is not decided yet: export the search first")
        scale = step_of(module.log_clip.detach(), module.bits[0], module.signed).item()
        grid = Grid(scale=scale, bits=module.bits[0], signed=module.signed)
        source = self.known[cast(fx.Node, node.args[0])]
        if isinstance(source, Pending):
            found = self.build.close(source, grid)
        else:
            found = self.build.onto(source, grid, node.name)
        self.rounded[node] = found
        return found

    def _zeros(self, node: fx.Node) -> Moved | None:
        """Zeros that the net makes for itself, to pad with."""
        value = self.found.real[node]
        if self._data(node) or not isinstance(value, Tensor) or bool(value.any()):
            return None
        return Moved(sources=(), index=torch.zeros(value.shape[1:], dtype=torch.long))

    def _pass(self, node: fx.Node) -> Moved | Pending | None:
        if not is_a(node, self.net, (*_PASSING, *_PASSING_FUNCTIONS)):
            return None
        (source,) = self._data(node)
        return self.known[source]

    def _clip(self, node: fx.Node) -> Moved | Pending | None:
        limits = _limits(node, self.net)
        if limits is None or len(self._data(node)) != 1:
            return None
        source = self.known[self._data(node)[0]]
        if isinstance(source, Pending):
            return source.clipped(*limits)
        name = self.build.settle(source, node.name)
        grid = self.build.values[name].grid
        pending = Pending(
            node=node, emit=self._rescaling(node, name), scale=grid.scale / FINER
        ).clipped(*limits)
        return self.build.close(pending, grid) if is_a(node, self.net, RELUS) else pending

    def _rescaling(self, node: fx.Node, name: str) -> Callable[[Grid, int, int], str]:
        return lambda grid, low, high: self.build.rescaled(name, grid, low, high, node.name)

    def _move(self, node: fx.Node) -> Moved | Pending | None:
        if not keeps(node, self.net) or is_a(node, self.net, _OTHER_KEEPERS):
            return None
        data = self._data(node)
        pending = [n for n in data if isinstance(self.known[n], Pending)]
        if not pending:
            return self.build.run_moves(node, {n: self._on_grid(node, n) for n in data})
        if len(data) > 1:
            raise self.build.refusal(node, "joins numbers that are not rounded")
        (source,) = data
        fresh = cast(Pending, self.known[source])
        return fresh.followed(lambda moved: self.build.run_moves(node, {source: moved}))

    # -- pools ----------------------------------------------------------------------------------

    def _pool(self, node: fx.Node) -> Moved | Pending | None:
        data = self._data(node)
        found = [self.found.real[n] for n in (*data, node)]
        if len(data) != 1 or not all(isinstance(value, Tensor) for value in found):
            return None
        source = self.known[data[0]]
        shape = tuple(self.found.real[data[0]].shape[1:])
        result = tuple(self.found.real[node].shape[1:])
        windows = windows_of(node, self.net, shape, result)
        if windows is None:
            return None
        if isinstance(windows, str):
            raise self.build.refusal(node, windows)
        if windows.maximum and isinstance(source, Pending):
            return source.followed(lambda moved: self._maximum(node, moved, windows, result))
        if windows.maximum:
            return self._maximum(node, cast(Moved, source), windows, result)
        return self._average(node, self._on_grid(node, data[0]), windows, result)

    def _gathered(self, node: fx.Node, moved: Moved, windows: Windows) -> str:
        """What a pool reads, with the axes that it reduces behind all others."""
        if not windows.axes:
            return self.build.settle(moved, node.name)
        index = moved.index
        rest = [axis for axis in range(index.ndim) if axis not in windows.axes]
        index = index.permute(*rest, *windows.axes).reshape(-1, *windows.kernel)
        return self.build.settle(Moved(sources=moved.sources, index=index), node.name)

    def _maximum(
        self, node: fx.Node, moved: Moved, windows: Windows, result: tuple[int, ...]
    ) -> Moved:
        name = self._gathered(node, moved, windows)
        operation = Maximum(
            output=self.build.name(node.name),
            inputs=(name,),
            kernel=windows.kernel,
            stride=windows.stride,
            padding=windows.padding,
            dilation=windows.dilation,
        )
        value = self.build.values[name]
        shape = (value.shape[0], *(1 for _ in windows.axes)) if windows.axes else result
        made = self.build.add(operation, shape, value.grid)
        return self.build.reshaped(self.build.whole(made), result)

    def _average(
        self, node: fx.Node, moved: Moved, windows: Windows, result: tuple[int, ...]
    ) -> Pending:
        name = self._gathered(node, moved, windows)
        value = self.build.values[name]
        most = max(abs(value.grid.low), value.grid.high) * torch.Size(windows.kernel).numel()
        if most > INT32_MAX:
            raise self.build.refusal(node, f"may sum up to {most}, beyond 32 bit")
        shape = (value.shape[0], *(1 for _ in windows.axes)) if windows.axes else result

        def emit(grid: Grid, low: int, high: int) -> str:
            factor = value.grid.scale / windows.divisor / grid.scale
            mantissa, shift = words(torch.tensor(factor, dtype=torch.float64))
            operation = Average(
                output=self.build.name(node.name),
                inputs=(name,),
                kernel=windows.kernel,
                stride=windows.stride,
                padding=windows.padding,
                mantissa=int(mantissa),
                shift=int(shift),
                low=low,
                high=high,
            )
            return self.build.add(operation, shape, grid)

        fresh = Pending(node=node, emit=emit, scale=value.grid.scale / FINER)
        return fresh.followed(lambda moved: self.build.reshaped(moved, result))

    # -- sums, products and other functions -------------------------------------------------------

    def _combine(self, node: fx.Node) -> Pending | None:
        """A sum or a product of two activations."""
        operands = [n for n in node.args[:2] if isinstance(n, fx.Node) and n in self.known]
        if len(operands) != 2 or node.op == "call_module":
            return None
        signs = _SIGNS.get(node.target)
        if signs is None and node.target not in _PRODUCTS:
            return None
        names = tuple(self.build.settle(self._on_grid(node, n), node.name) for n in operands)
        scales = [self.build.values[name].grid.scale for name in names]
        shape = tuple(self.found.real[node].shape[1:])
        if signs is None:
            emit = self._product(node, names, math.prod(scales), shape)
            return Pending(node=node, emit=emit, scale=math.prod(scales))
        alpha = node.kwargs.get("alpha", 1)
        if not isinstance(alpha, int | float):
            raise self.build.refusal(node, f"has the factor {alpha}, which is no number")
        factors = [signs[0] * scales[0], signs[1] * alpha * scales[1]]
        emit = self._sum(node, names, factors, shape)
        return Pending(node=node, emit=emit, scale=min(scales) / FINER)

    def _sum(
        self, node: fx.Node, names: tuple[str, ...], factors: list[float], shape: tuple[int, ...]
    ) -> Callable[[Grid, int, int], str]:
        def emit(grid: Grid, low: int, high: int) -> str:
            mantissas, shift = common_words([factor / grid.scale for factor in factors])
            operation = Add(
                output=self.build.name(node.name),
                inputs=names,
                mantissas=mantissas,
                shift=shift,
                low=low,
                high=high,
            )
            return self.build.add(operation, shape, grid)

        return emit

    def _product(
        self, node: fx.Node, names: tuple[str, ...], scale: float, shape: tuple[int, ...]
    ) -> Callable[[Grid, int, int], str]:
        def emit(grid: Grid, low: int, high: int) -> str:
            mantissa, shift = words(torch.tensor(scale / grid.scale, dtype=torch.float64))
            operation = Multiply(
                output=self.build.name(node.name),
                inputs=names,
                mantissa=int(mantissa),
                shift=int(shift),
                low=low,
                high=high,
            )
            return self.build.add(operation, shape, grid)

        return emit

    def _function(self, node: fx.Node) -> Pending:
        """Any function of single elements, as a table of its values at all codes."""
        data = self._data(node)
        if len(data) != 1 or not _is_elementwise(node, self.net) or not self._is_plain(node):
            raise self.build.refusal(node, "has none")
        name = self.build.settle(self._on_grid(node, data[0]), node.name)
        value = self.build.values[name]
        if value.grid.bits > MAX_TABLE_BITS:
            raise self.build.refusal(
                node, f"needs a table of all {value.grid.bits}-bit codes: give it x_bits of 8"
            )
        codes = torch.arange(value.grid.low, value.grid.high + 1)
        like = self.found.real[data[0]]
        at = codes.to(like.dtype) * value.grid.scale
        args, kwargs = fx.map_arg(
            (node.args, node.kwargs), lambda n: at if n is data[0] else self.found.real[n]
        )
        with torch.no_grad():
            results = run_on(node, self.net, args, kwargs).to(torch.float64)

        def emit(grid: Grid, low: int, high: int) -> str:
            output = self.build.name(node.name)
            table = (results / grid.scale).round().clamp(low, high)
            self.build.constants[f"{output}.table"] = table.int()
            return self.build.add(Lookup(output=output, inputs=(name,)), value.shape, grid)

        widest = float(results.abs().max()) or 1.0
        return Pending(node=node, emit=emit, scale=widest / 2**15)

    def _is_plain(self, node: fx.Node) -> bool:
        """Whether all that `node` reads beside one activation are single numbers."""
        others = [n for n in node.all_input_nodes if n not in self.known]
        values = [v for n in others for v in tensors(self.found.real[n])]
        if node.op == "call_module":
            values += list(self.net.get_submodule(str(node.target)).parameters())
        return all(value.numel() == 1 for value in values)


def _limits(node: fx.Node, net: fx.GraphModule) -> tuple[float, float] | None:
    """Between what an activation clips; nothing for other operations."""
    if is_a(node, net, RELUS):
        return 0.0, math.inf
    if is_a(node, net, (nn.ReLU6, F.relu6)):
        return 0.0, 6.0
    if is_a(node, net, (nn.Hardtanh,)):
        module = cast(Any, net.get_submodule(str(node.target)))
        return float(module.min_val), float(module.max_val)
    return None


def _is_elementwise(node: fx.Node, net: fx.GraphModule) -> bool:
    if is_a(node, net, _SMOOTH):
        return True
    if node.op == "call_module":
        module = net.get_submodule(str(node.target))
        return ops.instance_of(module, ops.ELEMENTWISE_MODULES) is not None
    if node.op == "call_method":
        return node.target in ops.ELEMENTWISE_METHODS | ops.DIVISION_METHODS
    return node.target in ops.ELEMENTWISE_FUNCTIONS | ops.DIVISIONS
