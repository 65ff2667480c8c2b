"""Windows of pools and reductions, out of the arguments of the node that calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from plinio_sweep.graph import operations as ops

_POOL = ("kernel_size", "stride", "padding")
_NAMES = {
    "average": (*_POOL, "ceil_mode", "count_include_pad", "divisor_override"),
    "maximum": (*_POOL, "dilation", "ceil_mode", "return_indices"),
    "adaptive": ("output_size", "return_indices"),
    "reduction": ("dim", "keepdim", "dtype"),
}
_AVERAGE = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, torch.avg_pool1d),
)
_MAXIMUM = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, F.max_pool1d, F.max_pool2d, F.max_pool3d),
    *(torch.max_pool1d, torch.max_pool2d),
)
_ADAPTIVE_AVERAGE = (
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    torch.adaptive_avg_pool1d,
)
_ADAPTIVE_MAXIMUM = (
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
)
_REDUCTIONS = {
    **{torch.mean: "mean", "mean": "mean", torch.sum: "sum", "sum": "sum"},
    **{torch.amax: "maximum", "amax": "maximum"},
}


@dataclass(frozen=True, kw_only=True)
class Windows:
    """What a pool reduces.

    Args:
        axes: Axes of one item that it reduces, where these are whole axes; else it is spatial.
        kernel: Taps per axis.
        stride: Steps per axis.
        padding: Elements outside, before and after, per axis.
        dilation: Distance of taps, per axis.
        maximum: Whether it takes the largest element; else it sums.
        divisor: Of the sum.
    """

    axes: tuple[int, ...] = ()
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    maximum: bool
    divisor: float


def windows_of(
    node: fx.Node, net: fx.GraphModule, shape: tuple[int, ...], result: tuple[int, ...]
) -> Windows | str | None:
    """The windows of a pool or a reduction; why they can't be had; nothing for other operations.

    Args:
        node: Any node.
        net: Its graph.
        shape: Of one item of its input.
        result: Of one item of what it computes.
    """
    kind = _kind(node, net)
    if kind in _REDUCTIONS:
        return _reduction(node, net, _REDUCTIONS[kind], shape)
    if kind in _ADAPTIVE_AVERAGE or kind in _ADAPTIVE_MAXIMUM:
        given = _settings(node, net, "adaptive")
        return _adaptive(given, shape, result, maximum=kind in _ADAPTIVE_MAXIMUM)
    if kind in _MAXIMUM:
        return _spatial(_settings(node, net, "maximum"), shape, result, maximum=True)
    if kind in _AVERAGE:
        return _spatial(_settings(node, net, "average"), shape, result, maximum=False)
    return None


def _kind(node: fx.Node, net: fx.GraphModule) -> Any:
    """The stock class of a module, else what is called."""
    if node.op != "call_module":
        return node.target
    stock = (*_AVERAGE, *_MAXIMUM, *_ADAPTIVE_AVERAGE, *_ADAPTIVE_MAXIMUM)
    classes = tuple(kind for kind in stock if isinstance(kind, type))
    return ops.instance_of(net.get_submodule(str(node.target)), classes)


def _settings(node: fx.Node, net: fx.GraphModule, kind: str) -> dict[str, Any]:
    names = _NAMES[kind]
    if node.op == "call_module":
        module = net.get_submodule(str(node.target))
        return {name: getattr(module, name) for name in names if hasattr(module, name)}
    rest = dict(zip(names, node.args[1:], strict=False))
    spread = [arg for arg in node.args[1:] if isinstance(arg, int) and not isinstance(arg, bool)]
    if kind == "reduction" and len(spread) > 1:  # x.mean(2, 3)
        rest = {"dim": tuple(spread)}
    return rest | dict(node.kwargs)


def _each(value: Any, axes: int) -> tuple[Any, ...]:
    whole = tuple(value) if isinstance(value, list | tuple) else (value,)
    return whole * axes if len(whole) == 1 else whole


def _spatial(
    given: dict[str, Any], shape: tuple[int, ...], result: tuple[int, ...], *, maximum: bool
) -> Windows | str:
    axes = len(shape) - 1
    kernel = _each(given["kernel_size"], axes)
    stride = kernel if not given.get("stride") else _each(given["stride"], axes)
    before = _each(given.get("padding", 0), axes)
    dilation = _each(given.get("dilation", 1), axes)
    if given.get("return_indices"):
        return "returns indices"
    padding = []
    for axis in range(axes):
        span = dilation[axis] * (kernel[axis] - 1) + 1
        needed = (result[1 + axis] - 1) * stride[axis] + span - shape[1 + axis] - before[axis]
        if needed > before[axis] and not maximum:
            return "divides windows at the edge by less than others"
        padding.append((before[axis], max(needed, 0)))
    padded = any(before) and not given.get("count_include_pad", True)
    if padded and not maximum:
        return "divides windows at the edge by less than others"
    divisor = given.get("divisor_override") or torch.Size(kernel).numel()
    return Windows(
        kernel=kernel,
        stride=stride,
        padding=tuple(padding),
        dilation=dilation,
        maximum=maximum,
        divisor=1.0 if maximum else float(divisor),
    )


def _adaptive(
    given: dict[str, Any], shape: tuple[int, ...], result: tuple[int, ...], *, maximum: bool
) -> Windows | str:
    if given.get("return_indices"):
        return "returns indices"
    if any(size % parts for size, parts in zip(shape[1:], result[1:], strict=True)):
        return f"has windows of several sizes ({shape[1:]} to {result[1:]})"
    kernel = tuple(size // parts for size, parts in zip(shape[1:], result[1:], strict=True))
    return _whole(kernel, maximum=maximum, divisor=float(torch.Size(kernel).numel()))


def _whole(kernel: tuple[int, ...], *, maximum: bool, divisor: float) -> Windows:
    """Windows side by side, with nothing around them."""
    return Windows(
        kernel=kernel,
        stride=kernel,
        padding=((0, 0),) * len(kernel),
        dilation=(1,) * len(kernel),
        maximum=maximum,
        divisor=1.0 if maximum else divisor,
    )


def _reduction(
    node: fx.Node, net: fx.GraphModule, kind: str, shape: tuple[int, ...]
) -> Windows | str:
    given = _settings(node, net, "reduction")
    dims = given.get("dim", given.get("axis"))
    if dims is None or dims == ():
        return "mixes the items of a batch"
    dims = sorted(dim % (len(shape) + 1) for dim in _each(dims, 1))
    if 0 in dims:
        return "mixes the items of a batch"
    kernel = tuple(shape[dim - 1] for dim in dims)
    divisor = float(torch.Size(kernel).numel()) if kind == "mean" else 1.0
    found = _whole(kernel, maximum=kind == "maximum", divisor=divisor)
    return Windows(**{**vars(found), "axes": tuple(dim - 1 for dim in dims)})
