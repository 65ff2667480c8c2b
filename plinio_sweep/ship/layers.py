"""Convolutions and linear layers of a fake-quantised net as integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from plinio_sweep.graph.quantize import INT32_MAX
from plinio_sweep.ship.builder import FINER, Builder, Moved, Pending
from plinio_sweep.ship.program import Conv, Grid, words

MAX_WEIGHT_BITS = 8
NORM_CODE = 127


@torch.no_grad()
def lower_layer(build: Builder, node: fx.Node, layer: Any, moved: Moved) -> Pending:
    """A quantised layer that reads `moved`: its codes, and sums that wait for a grid.

    Raises:
        IntegerError: When the layer can't be computed in 32 bits, or with weights of up to 8.
    """
    name = str(node.target)
    padding: tuple[tuple[int, int], ...] = ()
    if not isinstance(layer, nn.Linear):
        padding = _padding(layer)
        if layer.padding_mode != "zeros":
            moved, padding = _padded(moved, layer, padding), ((0, 0),) * len(padding)
    source = build.settle(moved, node.name)
    grid = build.values[source].grid
    if "step" not in node.kwargs:
        raise build.refusal(node, "reads numbers that are not rounded")
    if int(layer.w_bits.max()) > MAX_WEIGHT_BITS:
        raise build.refusal(node, f"has weights of {int(layer.w_bits.max())} bit, above 8")
    steps = layer.steps()
    sums = grid.scale * steps.double().cpu()
    if build.layers.setdefault(name, grid) != grid:
        raise build.refusal(node, "is called on values of several scales")
    if f"{name}.weight" not in build.constants:
        weight, bias = layer.rounded(build.real[cast(fx.Node, node.kwargs["step"])])
        codes = (weight / steps.reshape(-1, *[1] * (weight.ndim - 1))).round().cpu()
        biases = torch.zeros_like(sums) if bias is None else (bias.double().cpu() / sums).round()
        _store(build, node, grid, codes, biases, layer.w_bits.cpu())
    shape = tuple(build.real[node].shape[1:])
    axes = len(padding)
    operation = Conv(
        output="",
        inputs=(source,),
        layer=name,
        stride=tuple(layer.stride) if axes else (),
        padding=padding,
        dilation=tuple(layer.dilation) if axes else (),
        groups=layer.groups if axes else 1,
        low=0,
        high=0,
    )
    emit = _emitter(build, node, operation, sums, shape)
    return Pending(node=node, emit=emit, scale=_fine(build, name, grid, sums))


@torch.no_grad()
def lower_norm(build: Builder, node: fx.Node, norm: Any, moved: Moved) -> Pending:
    """A batch norm that no layer could take in: one 8-bit weight and one bias for each channel.

    Raises:
        IntegerError: When it normalises by the batch at hand.
    """
    if norm.running_mean is None:
        raise build.refusal(node, "normalises by the batch at hand")
    name, shape = str(node.target), tuple(moved.index.shape)
    source = build.settle(moved, node.name)
    if len(shape) == 1:
        source = build.settle(build.reshaped(moved, (*shape, 1)), node.name)
    axes = max(len(shape) - 1, 1)
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight + norm.bias.double()
    # The largest code: the bias is then rounded to as small a part of a code of the input.
    grid = build.values[source].grid
    if build.layers.setdefault(name, grid) != grid:
        raise build.refusal(node, "is called on values of several scales")
    sums = grid.scale * torch.where(scale == 0, 1.0, scale.abs()).cpu() / NORM_CODE
    codes = (scale.sign() * NORM_CODE).cpu().reshape(-1, *[1] * (axes + 1))
    biases = (shift.cpu() / sums).round()
    _store(build, node, grid, codes, biases, torch.full((len(codes),), MAX_WEIGHT_BITS))
    operation = Conv(
        output="",
        inputs=(source,),
        layer=name,
        stride=(1,) * axes,
        padding=((0, 0),) * axes,
        dilation=(1,) * axes,
        groups=len(codes),
        low=0,
        high=0,
    )
    emit = _emitter(build, node, operation, sums, build.values[source].shape)
    fresh = Pending(node=node, emit=emit, scale=_fine(build, name, grid, sums))
    return fresh.followed(lambda made: build.reshaped(made, shape))


def _store(
    build: Builder, node: fx.Node, grid: Grid, codes: Tensor, biases: Tensor, bits: Tensor
) -> None:
    """Weights and biases as codes, and the proof that no sum of them leaves 32 bits.

    Args:
        build: The program.
        node: The first call of the layer.
        grid: Of what it reads.
        codes: `(C_out, ...)` whole numbers.
        biases: `(C_out,)` whole numbers.
        bits: `(C_out,)` widths of the rows.
    """
    name = str(node.target)
    if not bool(codes.isfinite().all()) or not bool(biases.isfinite().all()):
        raise build.refusal(node, "has weights that are not finite")
    edge = float(_bounds(codes, biases, grid).max())
    if edge > INT32_MAX:
        raise build.refusal(node, f"may sum up to {edge:.3g}, beyond 32 bit")
    build.constants[f"{name}.weight"] = codes.to(torch.int8)
    build.constants[f"{name}.bits"] = bits.to(torch.uint8)
    build.constants[f"{name}.bias"] = biases.to(torch.int32)


def _bounds(codes: Tensor, biases: Tensor, grid: Grid) -> Tensor:
    """`(C_out,)` magnitudes that no part of a sum exceeds, in whatever order it is formed."""
    rows = codes.double().flatten(1)
    above, below = rows.clamp(min=0).sum(1), rows.clamp(max=0).sum(1)
    most = above * grid.high + below * grid.low + biases.clamp(min=0)
    least = above * grid.low + below * grid.high + biases.clamp(max=0)
    return torch.maximum(most, -least)


def _fine(build: Builder, name: str, grid: Grid, sums: Tensor) -> float:
    """A scale for sums that stay as they are: finer than theirs, as far as 32 bits and words go."""
    codes, biases = build.constants[f"{name}.weight"], build.constants[f"{name}.bias"].double()
    largest = float((_bounds(codes, biases, grid) * sums).max())
    return max(float(sums.min()) / FINER, float(sums.max()) / 2**20, largest / 2**30)


def _emitter(
    build: Builder, node: fx.Node, operation: Conv, sums: Tensor, shape: tuple[int, ...]
) -> Callable[[Grid, int, int], str]:
    """Writes `operation` for the grid and the limits that turn out.

    Args:
        build: The program.
        node: Who computes it.
        operation: All but these.
        sums: `(C_out,)` value of one in the sums of each channel.
        shape: Of the result.
    """

    def emit(grid: Grid, low: int, high: int) -> str:
        output = build.name(node.name)
        mantissa, shift = words(sums / grid.scale)
        build.constants[f"{output}.mantissa"], build.constants[f"{output}.shift"] = mantissa, shift
        return build.add(replace(operation, output=output, low=low, high=high), shape, grid)

    return emit


def _padding(layer: Any) -> tuple[tuple[int, int], ...]:
    """Elements before and after, per axis."""
    flat = layer._reversed_padding_repeated_twice  # last axis first, as F.pad has it
    pairs = [(int(flat[i]), int(flat[i + 1])) for i in range(0, len(flat), 2)]
    return tuple(reversed(pairs))


def _padded(moved: Moved, layer: Any, padding: tuple[tuple[int, int], ...]) -> Moved:
    """The elements with copies of themselves around, as the layer pads."""
    sides = [side for pair in reversed(padding) for side in pair]
    # Doubles: the modes know no whole numbers.
    index = F.pad(moved.index[None].double(), sides, mode=layer.padding_mode)[0]
    return Moved(sources=moved.sources, index=index.long())
