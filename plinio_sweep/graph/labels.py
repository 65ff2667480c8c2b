"""Runs a network on channel labels instead of numbers.

Every activation has a twin: an integer tensor of its own shape whose entries name the channel that
each element belongs to. Shape operations run on the twin as they are. A layer that mixes channels
makes new labels, an addition unites the labels it meets, and an operation that is not known freezes
what reaches it.

Shapes: `B` batch, `C` channels of an activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from plinio_sweep.graph import operations as ops
from plinio_sweep.graph.calls import Call, Calls, Path
from plinio_sweep.graph.choice import Mix
from plinio_sweep.graph.draws import without_trace
from plinio_sweep.graph.nodes import (
    is_metadata,
    is_shape,
    moved,
    operation_name,
    run_on,
    tensor_map,
    tensors,
)
from plinio_sweep.graph.quantized import Quantizer
from plinio_sweep.graph.trace import Inputs, is_stock, location
from plinio_sweep.graph.union import Union, channels_of, first_along, spread, varying_axes


@dataclass(slots=True, eq=False)
class Labelling:
    """What one run on labels found out."""

    union: Union
    values: dict[fx.Node, Any] = field(default_factory=dict)  # labels of every activation
    real: dict[fx.Node, Any] = field(default_factory=dict)  # what the net computes
    constant: set[fx.Node] = field(default_factory=set)  # depends on no input
    unknown: set[fx.Node] = field(default_factory=set)  # froze what it reads
    fixed: dict[Path, str] = field(default_factory=dict)  # why a module must stay as it is
    calls: list[Call] = field(default_factory=list)

    def roots(self, node: fx.Node) -> Any:
        """The labels at `node` after all unions: a tensor, or a structure of tensors."""
        return tensor_map(self.union.roots, self.values[node])

    def index(self, node: fx.Node) -> Any:
        """What the constant `node` holds, as a shape operation on labels reads it.

        Labels lie on the CPU, wherever the net does.
        """
        return tensor_map(Tensor.cpu, self.real[node])


@torch.no_grad()
def label(
    graph_module: fx.GraphModule, inputs: Inputs, frozen: Callable[[Path], bool]
) -> Labelling:
    """Runs `graph_module` once on `inputs` and once on labels.

    Args:
        graph_module: The traced net; its mode and buffers are as before afterwards.
        inputs: An example of its inputs, best with a batch of two or more.
        frozen: Tells which modules the user excludes, by path.
    """
    modes = [(module, module.training) for module in graph_module.modules()]
    graph_module.eval()
    try:
        recorder = _Recorder(graph_module)
        with without_trace(inputs[0].device):
            recorder.run(*inputs)
    finally:
        for module, mode in modes:
            module.training = mode
    return _Labeller(graph_module, recorder.real, frozen).run()


class _Recorder(fx.Interpreter):
    """Keeps what every node computes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.real: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        # A copy: a later in-place operation must not change what is recorded.
        value = super().run_node(n)
        self.real[n] = tensor_map(lambda t: t.detach().clone(), value)
        return value


class _Labeller:
    """The run on labels: one handler for each kind of operation."""

    def __init__(
        self, net: fx.GraphModule, real: dict[fx.Node, Any], frozen: Callable[[Path], bool]
    ) -> None:
        self.net = net
        self.frozen = frozen
        self.union = Union()
        self.calls = Calls(net, self.union)
        self.found = Labelling(union=self.union, real=real, calls=self.calls.listed)

    def run(self) -> Labelling:
        for node in self.net.graph.nodes:
            self.found.values[node] = self._visit(node)
        self.found.fixed = self.calls.share() | self.found.fixed
        return self.found

    def _visit(self, node: fx.Node) -> Any:
        real = self.found.real[node]
        if node.op == "placeholder":
            return _fixed(real)
        if node.op == "output":
            for labels in tensors(fx.map_arg(node.args, self._value)):
                self.union.freeze(labels, "network output")
            return None
        if node.op == "get_attr" or all(n in self.found.constant for n in node.all_input_nodes):
            self.found.constant.add(node)
            self._count_constant(node)
            return _fixed(real)
        return self._operation(node)

    def _operation(self, node: fx.Node) -> Any:
        if is_metadata(node) or not tensors([self._value(n) for n in node.all_input_nodes]):
            # A tensor made from sizes alone is as fixed as an input.
            return _fixed(self._run(node))
        if is_shape(node, self.net):
            return self._shape(node)
        # Surgery can rewrite chains of shape operations, nothing else in between.
        for labels in self._inputs(node):
            if len(varying_axes(self.union.roots(labels))) > 1:
                self.union.freeze(labels, self._reached(node, "channels on several axes reach"))
        if node.op == "call_module":
            return self._module(node, self.net.get_submodule(str(node.target)))
        return self._function(node)

    # -- operations without parameters --------------------------------------------------------

    def _function(self, node: fx.Node) -> Any:
        target, method = node.target, node.op == "call_method"
        if target in (ops.ELEMENTWISE_METHODS if method else ops.ELEMENTWISE_FUNCTIONS):
            return self._elementwise(node)
        if target in (ops.DIVISION_METHODS if method else ops.DIVISIONS):
            divisor = node.args[1] if len(node.args) > 1 else node.kwargs.get("other")
            computed = isinstance(divisor, fx.Node) and divisor not in self.found.constant
            moves = computed and tensors(fx.map_arg(divisor, self._value))
            return self._unknown(node) if moves else self._elementwise(node)
        if target in (ops.REDUCTION_METHODS if method else ops.REDUCTIONS):
            return self._reduction(node)
        if target in (ops.SOFTMAX_METHODS if method else ops.SOFTMAXES):
            return self._softmax(node, node.kwargs.get("dim", (*node.args, None, None)[1]))
        if not method and target in ops.SPATIAL_FUNCTIONS:
            return self._spatial(node, axis=1)
        return self._unknown(node)

    def _shape(self, node: fx.Node) -> Any:
        data = moved(node)
        if node.target not in ops.SHAPE_LIKE_METHODS and any(
            tensors(self._value(n)) and n not in self.found.constant and n not in data
            for n in node.all_input_nodes
        ):
            return self._unknown(node)  # an index that is itself computed from the input
        try:
            labels = self._run(node)
        except Exception:
            # An operation that integers do not have.
            return self._unknown(node)
        shapes = [tuple(t.shape) for t in tensors(labels)]
        if shapes != [tuple(t.shape) for t in tensors(self.found.real[node])]:
            return self._unknown(node)
        return labels

    def _elementwise(self, node: fx.Node) -> Any:
        shape = torch.Size(self._out(node).shape)
        operands = []
        for n in node.all_input_nodes:
            for value in tensors(self._value(n)):
                if n in self.found.constant:
                    operands.append((torch.zeros(value.shape, dtype=torch.long), True))
                else:
                    operands.append((value, False))
        live = [labels for labels, constant in operands if not constant]
        if not live:
            return _fixed(self.found.real[node])
        # The operand whose channels the result keeps: the one that varies, at full extent.
        result = max(live, key=lambda t: (len(varying_axes(t)), t.numel()))
        result = result.broadcast_to(shape).contiguous()
        axes = varying_axes(self.union.roots(result))
        for labels, constant in operands:
            padded = labels.reshape((1,) * (len(shape) - labels.dim()) + tuple(labels.shape))
            narrow = any(padded.shape[axis] == 1 for axis in axes)
            if not narrow:
                self.union.unite(padded, result, self._reached(node, "joined with fixed values by"))
            elif not constant:
                self.union.freeze(labels, self._reached(node, "spread over other channels by"))
        return result

    def _reduction(self, node: fx.Node) -> Any:
        dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        labels = self._value(node.all_input_nodes[0])
        if not isinstance(dim, int | tuple | list) or not isinstance(labels, Tensor):
            return self._unknown(node)
        dims = [dim] if isinstance(dim, int) else list(dim)
        if not all(isinstance(axis, int) for axis in dims):
            return self._unknown(node)
        axes = {axis % labels.dim() for axis in dims}
        if axes & set(varying_axes(self.union.roots(labels))):
            return self._unknown(node)
        return labels.amax(tuple(sorted(axes)), keepdim=True).reshape(self._out(node).shape)

    def _softmax(self, node: fx.Node, dim: Any) -> Any:
        labels = self._value(node.all_input_nodes[0])
        if not isinstance(dim, int) or not isinstance(labels, Tensor):
            return self._unknown(node)
        if dim % labels.dim() in varying_axes(self.union.roots(labels)):
            return self._unknown(node)
        return labels

    def _spatial(self, node: fx.Node, axis: int) -> Any:
        real = self.found.real[node]
        inputs = self._inputs(node)
        if len(inputs) != 1 or not isinstance(real, Tensor) or real.dim() != inputs[0].dim():
            return self._unknown(node)
        axis %= real.dim()
        channels = channels_of(self.union.roots(inputs[0]), axis)
        if channels is None or real.shape[axis] != inputs[0].shape[axis]:
            return self._unknown(node)
        return spread(first_along(inputs[0], axis), axis, real.shape)

    def _unknown(self, node: fx.Node) -> Any:
        self.found.unknown.add(node)
        self._freeze_inputs(node, self._reached(node, "reached by"))
        return _fixed(self.found.real[node])

    # -- modules ------------------------------------------------------------------------------

    def _module(self, node: fx.Node, module: nn.Module) -> Any:
        name = str(node.target)
        hooked = module._forward_hooks or module._forward_pre_hooks
        own = {*dict(module.named_parameters()), *dict(module.named_buffers())}
        plain = own.issuperset(_declared(module))
        if self.frozen(name):
            self.found.fixed[name] = f"excluded ({name})"
            self._freeze_inputs(node, self.found.fixed[name])
        if hooked or not plain:
            self._freeze_inputs(node, f"hooks or parametrizations on {name}")
            return self._other(node)
        if isinstance(module, Mix | Quantizer):
            return self._elementwise(node)
        if not is_stock(module):
            return self._other(node)
        if ops.instance_of(module, ops.CONVOLUTIONS):
            return self._convolution(node, module)
        if ops.instance_of(module, (nn.Linear,)):
            return self._linear(node, module)
        if ops.instance_of(module, ops.ELEMENTWISE_MODULES):
            return self._elementwise(node)
        if ops.instance_of(module, ops.SOFTMAX_MODULES):
            return self._softmax(node, getattr(module, "dim", None))
        if (stock := ops.instance_of(module, ops.SPATIAL_MODULES)) is not None:
            return self._spatial(node, -ops.SPATIAL_MODULES[stock] - 1)
        if ops.instance_of(module, ops.BATCHED_MODULES):
            return self._affine(node, module)
        return self._other(node)

    def _convolution(self, node: fx.Node, module: Any) -> Any:
        axis = -len(module.kernel_size) - 1
        labels, real = self._inputs(node)[0], self._out(node)
        columns = self._columns(node, labels, axis)
        groups = module.groups
        if groups == module.in_channels > 1:
            rows = columns.repeat_interleave(module.out_channels // groups)
        else:
            rows = self.calls.rows(str(node.target), module.out_channels)
            self.union.tie(columns, groups, f"{groups} groups in {node.target}")
            self.union.tie(rows, groups, f"{groups} groups in {node.target}")
        out = tuple(real.shape[axis + 1 :])
        return self._called(node, "conv", columns, rows, out, axis, groups=groups)

    def _linear(self, node: fx.Node, module: Any) -> Any:
        columns = self._columns(node, self._inputs(node)[0], -1)
        rows = self.calls.rows(str(node.target), module.out_features)
        return self._called(node, "linear", columns, rows, tuple(self._out(node).shape[1:-1]), -1)

    def _called(
        self,
        node: fx.Node,
        op: str,
        columns: Tensor,
        rows: Tensor,
        out: tuple[int, ...],
        axis: int,
        *,
        groups: int = 1,
    ) -> Any:
        name = str(node.target)
        if self.frozen(name):
            self.union.freeze(rows, f"excluded ({name})")
        self.calls.add(Call(name, node.name, op, columns, rows, out, groups))
        return spread(rows, axis, self._out(node).shape)

    def _columns(self, node: fx.Node, labels: Tensor, axis: int) -> Tensor:
        channels = channels_of(self.union.roots(labels), axis)
        if channels is None:
            self.union.freeze(labels, self._reached(node, "channels spread over positions at"))
            return torch.zeros(labels.shape[axis], dtype=torch.long)
        return first_along(labels, axis)

    def _affine(self, node: fx.Node, module: Any) -> Any:
        """Norms over positions and PReLU: their parameters follow the channels."""
        inputs, real = self._inputs(node), self._out(node)
        count = getattr(module, "num_features", getattr(module, "num_parameters", 0))
        if not any(True for _ in module.parameters()) and not any(True for _ in module.buffers()):
            return self._spatial(node, axis=1)
        if count == 1 and isinstance(module, nn.PReLU):
            # One slope for all channels costs what it costs the last one.
            zero = torch.zeros(1, dtype=torch.long)
            out = tuple(real.shape[2:])
            self.calls.add(Call(str(node.target), node.name, "affine", zero, zero, out))
            return self._elementwise(node)
        axis = 1 if real.dim() > 1 and real.shape[1] == count else -1
        channels = channels_of(self.union.roots(inputs[0]), axis)
        if channels is None or real.dim() < 2 or real.shape[1] != count:
            return self._other(node)
        channels = first_along(inputs[0], axis)
        return self._called(node, "affine", channels, channels, tuple(real.shape[2:]), axis)

    def _other(self, node: fx.Node) -> Any:
        """A module that no rule covers: its channels are frozen, its parameters still count."""
        self.calls.add_parameters(str(node.target), node.name)
        return self._unknown(node)

    def _freeze_inputs(self, node: fx.Node, reason: str) -> None:
        for labels in self._inputs(node):
            self.union.freeze(labels, reason)

    def _count_constant(self, node: fx.Node) -> None:
        """What depends on no input holds parameters nevertheless."""
        if node.op in ("get_attr", "call_module"):
            name = str(node.target)
            if isinstance(self.net.get_submodule(name.rpartition(".")[0]), Quantizer):
                return  # a range that a layer reads: part of its scale, no weight
            self.calls.add_parameters(name, node.name)

    # -- small parts --------------------------------------------------------------------------

    def _out(self, node: fx.Node) -> Tensor:
        real = self.found.real[node]
        assert isinstance(real, Tensor), node
        return real

    def _value(self, node: fx.Node) -> Any:
        return self.found.values[node]

    def _inputs(self, node: fx.Node) -> list[Tensor]:
        variable = (n for n in node.all_input_nodes if n not in self.found.constant)
        return [t for n in variable for t in tensors(self._value(n))]

    def _run(self, node: fx.Node) -> Any:
        data = moved(node)

        def value(n: fx.Node) -> Any:
            index = n in self.found.constant and n not in data
            return self.found.index(n) if index else self._value(n)

        return run_on(node, self.net, fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value))

    def _reached(self, node: fx.Node, how: str) -> str:
        at = location(node)
        return f"{how} {operation_name(node, self.net)}" + (f" at {at}" if at else "")


def _declared(module: nn.Module) -> list[str]:
    """Names of the parameters that a layer of this kind is built with."""
    names = ("weight", "bias")
    return [n for n in names if isinstance(getattr(module, n, None), Tensor)]


def _fixed(real: Any) -> Any:
    """Label 0 everywhere."""
    return tensor_map(lambda t: torch.zeros(t.shape, dtype=torch.long), real)
