"""Modules that round what they compute, as a graph knows them: activations, and layers.

A `Quantizer` rounds an activation, in a search to several grids at once. A quantised layer is a
stock layer that rounds its weights and its bias before each call, every output channel at its own
bit-width; it keeps the float weights, so that training goes on.

Shapes: `O` rows (output channels) of a weight, `X` candidate bit-widths of an activation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional as F

from plinio_sweep.graph.quantize import (
    WeightRanges,
    mix_activation,
    round_bias,
    round_rows,
    step_of,
    weight_step,
)


class Quantizer(nn.Module):
    """Rounds an activation; an unsigned one sets what is below 0 to 0, as a ReLU does.

    Args:
        bits: `X` candidate bit-widths.
        signed: Whether there are codes below 0.
        log_clip: `(1,)` logarithm of the clip, trained in place if it is a parameter; when left
            out, the buffers `steps` and `weights`, `(X,)`, are to be set from outside.
    """

    steps: Tensor
    weights: Tensor
    log_clip: Tensor | None

    def __init__(
        self, bits: tuple[int, ...], *, signed: bool, log_clip: Tensor | None = None
    ) -> None:
        super().__init__()
        self.bits = bits
        self.signed = signed
        if log_clip is None or isinstance(log_clip, nn.Parameter):
            self.register_parameter("log_clip", log_clip)
        else:
            self.register_buffer("log_clip", log_clip)
        self.seen: list[Tensor] | None = None  # extremes of each item, while ranges are measured
        start = torch.ones(len(bits)) if log_clip is None else torch.ones_like(log_clip)
        self.register_buffer("steps", start.clone(), persistent=False)
        self.register_buffer("weights", start / len(bits), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x`, rounded."""
        if self.seen is not None:
            flat = x.detach().reshape(len(x), -1)
            self.seen.append(torch.stack([flat.amin(1), flat.amax(1)]).cpu())
            return x if self.signed else x.clamp(min=0)
        steps = self.steps
        if self.log_clip is not None:
            steps = step_of(self.log_clip, self.bits[0], self.signed)
        return mix_activation(x, steps, self.weights, self.bits, signed=self.signed)

    def extra_repr(self) -> str:
        """Bit-widths and sign."""
        sign = "signed" if self.signed else "unsigned"
        return f"{', '.join(map(str, self.bits))} bit, {sign}"


class _Rounds:
    """What quantised layers add to the stock layer that they are."""

    weight: Any
    bias: Any
    w_bits: Tensor
    log_span: nn.Parameter | None
    ranges: WeightRanges
    x_bits: int

    def steps(self) -> Tensor:
        """`(O,)` step of each row of the weight."""
        rows = self.weight.flatten(1)
        span = self.ranges.span(rows) if self.log_span is None else self.log_span.exp()
        return weight_step(span, self.w_bits)

    def rounded(self, step: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight and bias on their grids; without a `step` of the input the bias stays as it is."""
        steps = self.steps()
        rows = round_rows(self.weight.flatten(1), steps, self.w_bits)
        weight = rows.reshape(self.weight.shape)
        if self.bias is None or step is None:
            return weight, self.bias
        return weight, round_bias(self.bias, step * steps)


class QuantizedLinear(_Rounds, nn.Linear):
    """A linear layer with rounded weights."""

    def forward(self, input: Tensor, step: Tensor | None = None) -> Tensor:
        """The layer on `input`, whose values are whole multiples of `step`."""
        weight, bias = self.rounded(step)
        return F.linear(input, weight, bias)


class QuantizedConv1d(_Rounds, nn.Conv1d):
    """A 1-d convolution with rounded weights."""

    def forward(self, input: Tensor, step: Tensor | None = None) -> Tensor:
        """The layer on `input`, whose values are whole multiples of `step`."""
        rounded: Tensor = self._conv_forward(input, *self.rounded(step))
        return rounded


class QuantizedConv2d(_Rounds, nn.Conv2d):
    """A 2-d convolution with rounded weights."""

    def forward(self, input: Tensor, step: Tensor | None = None) -> Tensor:
        """The layer on `input`, whose values are whole multiples of `step`."""
        rounded: Tensor = self._conv_forward(input, *self.rounded(step))
        return rounded


class QuantizedConv3d(_Rounds, nn.Conv3d):
    """A 3-d convolution with rounded weights."""

    def forward(self, input: Tensor, step: Tensor | None = None) -> Tensor:
        """The layer on `input`, whose values are whole multiples of `step`."""
        rounded: Tensor = self._conv_forward(input, *self.rounded(step))
        return rounded


QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: QuantizedLinear,
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
}


def is_quantized(module: Any) -> bool:
    """Whether `module` is a layer that rounds its weights."""
    return isinstance(module, _Rounds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerBits:
    """What a layer is rounded to."""

    w_bits: Tensor  # `(O,)` above 0
    log_span: nn.Parameter | None  # `(O,)` logarithms of trained ranges
    source: str | None  # the quantiser of its input; nothing where that is not rounded


def quantize_net(
    net: fx.GraphModule,
    layers: Mapping[str, LayerBits],
    quantizers: Mapping[str, Quantizer],
    ranges: WeightRanges,
) -> None:
    """Makes quantised layers and decided quantisers of those in `net`, in place.

    Args:
        net: With quantisers in their places.
        layers: What each layer to be rounded comes to, by path.
        quantizers: By path, each with one bit-width and a range of its own.
        ranges: How the ranges of the weights are found.
    """
    for name, quantizer in quantizers.items():
        net.set_submodule(name, quantizer)
    for name, bits in layers.items():
        source = None if bits.source is None else quantizers[bits.source]
        x_bits = 32 if source is None else source.bits[0]
        _quantize_layer(net.get_submodule(name), bits, ranges, x_bits)
    steps: dict[str, fx.Node] = {}
    for node in list(net.graph.nodes):
        source_name = layers[node.target].source if node.target in layers else None
        if node.op == "call_module" and source_name is not None:
            if source_name not in steps:
                steps[source_name] = _step(net.graph, node, source_name, quantizers[source_name])
            node.kwargs = {**node.kwargs, "step": steps[source_name]}
    net.delete_all_unused_submodules()
    net.graph.lint()
    net.recompile()


def measure_ranges(
    net: nn.Module, overrides: Mapping[str, Tensor], batches: Iterable[tuple[Tensor, ...]]
) -> dict[str, Tensor]:
    """Runs `net` in eval mode with nothing rounded; what each of its quantisers would round.

    Args:
        net: With quantisers in their places; it is as before afterwards.
        overrides: Tensors of the net to be used instead of its own.
        batches: Inputs of the net.

    Returns:
        By quantiser, `(2, N)` smallest and largest value of each item.
    """
    quantizers = {name: m for name, m in net.named_modules() if isinstance(m, Quantizer)}
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        for quantizer in quantizers.values():
            quantizer.seen = []
        for inputs in batches:
            functional_call(net, dict(overrides), inputs, tie_weights=False)
        return {
            name: torch.cat(quantizer.seen or [torch.zeros(2, 1)], 1)
            for name, quantizer in quantizers.items()
        }
    finally:
        for quantizer in quantizers.values():
            quantizer.seen = None
        for module, mode in modes:
            module.training = mode


def _step(graph: fx.Graph, node: fx.Node, name: str, quantizer: Quantizer) -> fx.Node:
    """The step of a quantiser as a value of the graph, before its first reader."""
    with graph.inserting_before(node):
        log_clip = graph.get_attr(f"{name}.log_clip")
        return graph.call_function(step_of, (log_clip, quantizer.bits[0], quantizer.signed))


def _quantize_layer(layer: nn.Module, bits: LayerBits, ranges: WeightRanges, x_bits: int) -> None:
    stock = next(kind for kind in QUANTIZED if isinstance(layer, kind))
    # The parameters, their names and the geometry stay: only what is done with them changes.
    layer.__class__ = QUANTIZED[stock]
    made = cast(_Rounds, layer)
    device = made.weight.device
    layer.register_buffer("w_bits", bits.w_bits.to(device))
    layer.register_parameter("log_span", bits.log_span)
    made.ranges, made.x_bits = ranges, x_bits
