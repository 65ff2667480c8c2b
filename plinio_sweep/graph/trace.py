"""From a module to its `fx` graph, with a message that names the line where that is impossible."""

from __future__ import annotations

import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Collection, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from plinio_sweep.graph.choice import Mix
from plinio_sweep.graph.nodes import is_metadata, is_shape
from plinio_sweep.graph.quantized import Quantizer, is_quantized

Inputs = tuple[Tensor, ...]
_Made = TypeVar("_Made")

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent.parent)


class UntraceableError(ValueError):
    """The network takes decisions that a trace cannot follow."""


class _Tracer(fx.Tracer):
    """Stops at stock layers, and at what the user wants to be left alone."""

    def __init__(
        self, opaque_names: Collection[str] = (), opaque_types: tuple[type, ...] = ()
    ) -> None:
        super().__init__()  # a pickled graph is traced anew, by this class without arguments
        self.proxy_buffer_attributes = True  # `self.map.expand(x.size(0), -1)` is part of the graph
        self._names = frozenset(opaque_names)
        self._types = opaque_types

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.stack_trace = _users_line()
        return node

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self._names or type(m) in self._types:
            return True
        if is_stock(m) or isinstance(m, Mix | Quantizer):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def _users_line() -> str | None:
    """The innermost line of the user's net that runs now, as a stack trace of one frame.

    A whole trace, which `fx` can record, takes longer than all the rest of tracing.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not fx.Tracer.trace.__code__:
        code = frame.f_code
        if not code.co_filename.startswith((_TORCH, _OURS, "<")):
            return f'File "{code.co_filename}", line {frame.f_lineno}, in {code.co_name}'
        frame = frame.f_back
    return None


def is_stock(module: nn.Module) -> bool:
    """Whether a module computes what its `torch.nn` class computes, subclass or not.

    A quantised layer does, on rounded weights.
    """
    if is_quantized(module):
        return True
    stock = next((c for c in type(module).__mro__ if c.__module__.startswith("torch.nn.")), None)
    if stock is None or stock is nn.Module or issubclass(stock, _CONTAINERS):
        return False
    changed = ("forward", "__call__", "_conv_forward", "_check_input_dim")
    return all(getattr(type(module), n, None) is getattr(stock, n, None) for n in changed)


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def as_inputs(example: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Inputs:
    """The arguments of `forward` as a tuple of tensors.

    Raises:
        TypeError: When an argument is no tensor.
    """
    inputs = (example,) if isinstance(example, Tensor) else tuple(example)
    if not inputs or not all(isinstance(value, Tensor) for value in inputs):
        raise TypeError(
            f"`input_example` must be a tensor or a tuple of tensors, but got "
            f"{type(example).__name__}; pass the arguments of `forward` in their order."
        )
    return inputs


def beside(net: nn.Module, inputs: Inputs) -> Inputs:
    """`inputs` on the device of `net`; as they are where it has no tensor of its own.

    Example:
        >>> (moved,) = beside(nn.Linear(4, 2, device="meta"), (torch.zeros(2, 4),))
        >>> moved.device
        device(type='meta')
    """
    first = next(chain(net.parameters(), net.buffers()), None)
    return inputs if first is None else tuple(value.to(first.device) for value in inputs)


def random_inputs(net: nn.Module, shape: Any) -> Inputs:
    """A batch of two random inputs with `shape` (one shape, or one for each input; no batch).

    The numbers come from a generator of their own: the global random state is left alone.
    """
    shapes = (shape,) if all(isinstance(size, int) for size in shape) else tuple(shape)
    if not shapes or not all(
        isinstance(s, tuple | list | torch.Size) and all(isinstance(n, int) for n in s)
        for s in shapes
    ):
        raise TypeError(
            f"`input_shape` must be a tuple of sizes without the batch, or one such tuple for "
            f"each input, but got {shape!r}; write for instance input_shape=(3, 32, 32)."
        )
    tensors = [p for p in net.parameters() if p.is_floating_point()]
    dtype, device = (tensors[0].dtype, tensors[0].device) if tensors else (torch.float32, "cpu")
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(2, *s, generator=generator, dtype=torch.float32).to(device, dtype)
        for s in shapes
    )


def location(node: fx.Node) -> str:
    """Where in the user's code a node was made, as "model.py:41"; empty when unknown."""
    file, _, rest = (node.stack_trace or "").removeprefix('File "').partition('", line ')
    return f"{Path(file).name}:{rest.split(',')[0]}" if rest else ""


def trace(
    net: nn.Module,
    inputs: Inputs,
    *,
    opaque_names: Collection[str] = (),
    opaque_types: tuple[type, ...] = (),
) -> fx.GraphModule:
    """The graph of `net`, over the same submodules and parameters.

    Arguments of `forward` beyond `inputs` keep their defaults. Dropout by a function that is told
    the mode of the net becomes a module, which follows the mode of the graph.

    Raises:
        UntraceableError: When the forward pass depends on values or runs other layers in training,
            with the line where it does.
    """
    if isinstance(net, fx.GraphModule):
        # Already a graph: a second trace would lose the lines of the user's code.
        return _without_unread(fx.GraphModule(net, _copy(net.graph), type(net).__name__))
    fixed = _defaults(net, len(inputs))

    def follow(make: Callable[[fx.Graph], _Made]) -> _Made:
        tracer = _Tracer(opaque_names, opaque_types)
        known = set(vars(net))
        try:
            graph = tracer.trace(net, concrete_args=dict(fixed) or None)
            _drop_fixed_arguments(graph, len(inputs))
            for node in graph.nodes:
                node.type = None  # annotations that are strings can't be pickled
            return make(graph)
        except Exception as error:
            raise UntraceableError(_why(net, error)) from error
        finally:
            for constant in set(vars(net)) - known:  # `fx` leaves them on the user's module
                delattr(net, constant)

    traced = follow(lambda graph: fx.GraphModule(net, graph, type(net).__name__))
    modules = list(net.modules())
    try:
        _flip(modules)
        other = follow(lambda graph: graph)
    finally:
        _flip(modules)
    _follow_mode(traced, other)
    return _without_unread(traced)


def _without_unread(graph_module: fx.GraphModule) -> fx.GraphModule:
    """The graph without what only moves elements or asks for sizes, and is read by nothing."""
    unread = False
    for node in reversed(graph_module.graph.nodes):
        if not node.users and (is_metadata(node) or is_shape(node, graph_module)):
            graph_module.graph.erase_node(node)
            unread = True
    if unread:
        graph_module.recompile()
    return graph_module


def _flip(modules: list[nn.Module]) -> None:
    for module in modules:
        module.training = not module.training


_DROPOUTS: dict[Any, type[nn.Module]] = {
    F.alpha_dropout: nn.AlphaDropout,
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


def _follow_mode(traced: fx.GraphModule, other: fx.Graph) -> None:
    """Makes modules of the dropouts that differ between the graphs of the two modes."""
    dropouts = []
    for node, twin in zip_longest(traced.graph.nodes, other.nodes):
        if _described(node) == _described(twin):
            continue
        if node is None or node.target not in _DROPOUTS or twin.target is not node.target:
            at = f" at {place}" if (place := location(node or twin)) else ""
            raise UntraceableError(
                f"`forward` of {type(traced).__name__} must run the same layers in training and "
                f"in evaluation, but does not from `{node or twin}`{at} on; name the module "
                f"around it in `exclude_names`."
            )
        dropouts.append(node)
    for node in dropouts:
        _use_module(traced, node)
    if dropouts:
        traced.recompile()


def _described(node: fx.Node | None) -> tuple[Any, ...]:
    return () if node is None else (node.op, node.target, str(node.args), str(node.kwargs))


def _use_module(traced: fx.GraphModule, node: fx.Node) -> None:
    given = inspect.signature(cast(Any, node.target)).bind(*node.args, **node.kwargs)
    given.apply_defaults()
    name = node.name
    while name in dict(traced.named_children()):
        name += "_"
    module = _DROPOUTS[node.target](given.arguments["p"], given.arguments["inplace"])
    traced.add_submodule(name, module.train(given.arguments["training"]))
    with traced.graph.inserting_before(node):
        new = traced.graph.call_module(name, (given.arguments["input"],))
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    traced.graph.erase_node(node)


def _copy(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, {}))
    return copy


def _defaults(net: nn.Module, given: int) -> Mapping[str, Any]:
    parameters = list(inspect.signature(net.forward).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = positional[given:] + [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    missing = [p.name for p in rest if p.default is p.empty]
    open_ended = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if missing or (given > len(positional) and not open_ended):
        raise TypeError(
            f"`forward` of {type(net).__name__} takes {[p.name for p in positional]}, but got "
            f"{given} input(s); give one example tensor for each argument without a default."
        )
    return {p.name: p.default for p in rest}


def _drop_fixed_arguments(graph: fx.Graph, given: int) -> None:
    """Removes the placeholders that `fx` keeps for fixed arguments, and its checks of them."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node in placeholders[given:]:
        doomed = [node]
        while doomed:
            last = doomed[-1]
            if last.users:
                doomed.append(next(iter(last.users)))
            else:
                graph.erase_node(doomed.pop())


def _why(net: nn.Module, error: Exception) -> str:
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if not frame.filename.startswith((_TORCH, _OURS, "<")):
            source = linecache.getline(frame.filename, frame.lineno or 0).strip()
            where = f" at {Path(frame.filename).name}:{frame.lineno} (`{source}`)"
    reason = " ".join(str(error).split("\n")[0].split())
    return (
        f"`forward` of {type(net).__name__} must not depend on the values of its inputs, but does"
        f"{where}: {reason}; move that code into a function under `torch.fx.wrap`, name its "
        f"module in `exclude_names`, or fix the argument with `functools.partial`."
    )
