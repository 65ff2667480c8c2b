"""Many layers of one kind as one: a formula then runs once a kind instead of once a layer.

The costs of a search are many small operations, whose time is that of starting them. Layers are of
one kind where no formula treats them differently: same operation, same kernel, same fields that
are plain numbers. Their counts and bit-widths lie along a new first axis, and so do the sizes that
are always numbers in one layer, `out` and `stride`.

Shapes: `N` layers of a kind, `X` and `W` candidate bit-widths as in `spec.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch
from torch import Tensor

from costs.interpolate import constant
from costs.spec import LayerSpec, Scalar

Call = tuple[LayerSpec, Tensor]  # with the share of its bit-widths
COUNTS = ("cin", "cout", "groups", "w_bits", "x_bits", "y_bits")


def stacked(calls: Iterable[Call]) -> list[Call]:
    """The calls of each kind as one, for models that take stacks.

    Args:
        calls: Each call with the share of its candidates, as for `total`.

    Returns:
        For each kind a layer of `(N, 1, 1)`, `(N, X, 1)` and `(N, 1, W)` fields with its
        `(N, X, W)` shares. What is alone of its kind, and what plain numbers describe, is as it
        was.

    Example:
        >>> from dataclasses import replace
        >>> fc = LayerSpec(name="fc", op="linear", cin=torch.tensor(4.0), cout=torch.tensor(2.0))
        >>> wide = replace(fc, name="wide", cout=torch.tensor(8.0))
        >>> [(both, shares)] = stacked([(fc, torch.ones(())), (wide, torch.ones(()))])
        >>> both.name, both.num_weights.flatten().tolist(), shares.shape
        ('fc, wide', [8.0, 32.0], torch.Size([2, 1, 1]))
    """
    kinds: dict[Hashable, list[Call]] = {}
    for number, (layer, share) in enumerate(calls):
        kind = _kind(layer, share) if isinstance(layer.cout, Tensor) else number
        kinds.setdefault(kind, []).append((layer, share))
    return [alike[0] if len(alike) == 1 else _stack(alike) for alike in kinds.values()]


def _kind(layer: LayerSpec, share: Tensor) -> Hashable:
    counts = [_form(getattr(layer, field)) for field in COUNTS]
    kernel = tuple(_form(taps) for taps in layer.kernel)
    flags = (layer.op, layer.depthwise, layer.bias, layer.repeat)
    return (*flags, *counts, kernel, len(layer.out), len(layer.stride), share.shape)


def _form(value: Scalar) -> Hashable:
    """What must be equal in all layers of a kind: a number, or the shape of a tensor."""
    return value.shape if isinstance(value, Tensor) else value


def _stack(calls: Sequence[Call]) -> Call:
    layers, shares = zip(*calls, strict=True)
    first = layers[0]
    kernels, outs, strides = ([getattr(n, f) for n in layers] for f in ("kernel", "out", "stride"))
    layer = LayerSpec(
        name=", ".join(layer.name for layer in layers),
        op=first.op,
        kernel=tuple(_joined(column) for column in zip(*kernels, strict=True)),
        out=tuple(_sizes(column, first.cout) for column in zip(*outs, strict=True)),
        stride=tuple(_sizes(column, first.cout) for column in zip(*strides, strict=True)),
        depthwise=first.depthwise,
        bias=first.bias,
        repeat=first.repeat,
        **{field: _joined([getattr(layer, field) for layer in layers]) for field in COUNTS},
    )
    # A share for each layer, also where they are one: costs are added up by them.
    share = torch.as_tensor(_joined(shares))
    return layer, share if share.dim() > 2 else share.expand(len(calls), *_grid(share))


def _joined(values: Sequence[Scalar]) -> Scalar:
    """`(N, X, W)`, with 1 where a value has no such axis; what is the same in all stays one."""
    first, tensors = values[0], [value for value in values if isinstance(value, Tensor)]
    if not isinstance(first, Tensor) or all(value is first for value in values):
        return first
    return torch.stack(tensors).reshape(len(tensors), *_grid(first))


def _grid(value: Tensor) -> tuple[int, ...]:
    """The shape of a value over `(X, W)`."""
    return (*(1,) * (2 - value.dim()), *value.shape)


def _sizes(values: Sequence[Scalar], like: Tensor) -> Scalar:
    """`(N, 1, 1)` whole numbers; one number where they are equal."""
    if len(set(values)) == 1:
        return values[0]
    dtype = torch.promote_types(like.dtype, torch.float32)  # whole numbers above 256 stay exact
    return constant(tuple(values), dtype, like.device).reshape(-1, 1, 1)
