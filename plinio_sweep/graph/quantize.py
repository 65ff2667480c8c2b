"""Fake quantisation: values rounded to a grid of integer codes, with the gradient of a line.

A grid is `step * code` with whole codes. In eager training a mix of several grids is one node of
the autograd graph that keeps nothing but its input; a compiled or gradient-free pass uses the same
formulas, and gives the same bits.

Weights, per output channel with range `M = max |w|` (or trained) and `b` bits:

    b = 0     0, the channel is pruned
    b = 1     code in {-1, 1}                  step = M / 2, the mean magnitude if all are as likely
    b > 1     code in {-n, ..., n}             step = 2 M / (2^b - 1),  n = 2^(b-1) - 1

Activations, per tensor with clip `c > 0` (PACT), `b` bits:

    unsigned  code in {0, ..., 2^b - 1}         step = c / (2^b - 1)
    signed    code in {-n - 1, ..., n}          step = c / n,            n = 2^(b-1) - 1

Rounding is to nearest, halves to even. Zero is always on the grid (but for weights of one bit), and
every code is reached.

Shapes: `R` rows (output channels), `K` weights of a row, `W` candidate bit-widths of the weights,
`X` of an activation.

References:
    Choi et al., "PACT", 2018 (arXiv 1805.06085), equations 1 to 3, for the gradient of the clip;
    Esser et al., "Learned Step Size Quantization", ICLR 2020 (arXiv 1902.08153), equation 3, for
    that of a trained range; Jahier Pagliari et al., "PLiNIO", 2023 (arXiv 2307.09488), section
    III-C, for the mix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from costs import ste

MAX_BITS = 16
INT32_MAX = 2**31 - 1
# Step of a row over its range, by bit-width; a pruned row has none.
WEIGHT_STEPS = (0.0, 0.5, *(2 / (2**b - 1) for b in range(2, MAX_BITS + 1)))


def activation_codes(bits: int, *, signed: bool) -> tuple[int, int]:
    """The smallest and the largest code of an activation.

    Example:
        >>> activation_codes(8, signed=False), activation_codes(8, signed=True)
        ((0, 255), (-128, 127))
    """
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def step_of(log_clip: Tensor, bits: int, signed: bool) -> Tensor:
    """The step of a quantiser with one bit-width, from the logarithm of its clip."""
    return log_clip.exp() / activation_codes(bits, signed=signed)[1]


# -- activations ----------------------------------------------------------------------------------


def mix_activation(
    x: Tensor, steps: Tensor, weights: Tensor, bits: Sequence[int], *, signed: bool
) -> Tensor:
    """`x` rounded to each of its candidate grids, as one weighted sum.

    The gradient of `x` is that of a clipped line; a step, and through it its clip, gets that of
    PACT: from clipped values only.

    Args:
        x: Any shape.
        steps: `(X,)` above 0.
        weights: `(X,)` that sum to 1.
        bits: `X` bit-widths.
        signed: Whether codes below 0 exist.

    Example:
        >>> x = torch.tensor([-1.0, 0.4, 0.9, 3.0])
        >>> one = torch.ones(1)
        >>> mix_activation(x, one, one, [2], signed=False)
        tensor([0., 0., 1., 3.])
    """
    codes = [activation_codes(b, signed=signed) for b in bits]
    steps, weights = steps.to(x.dtype), weights.to(x.dtype)
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return _mix_plainly(x, steps, weights, codes)
    mixed: Tensor = _MixActivation.apply(x, steps, weights, codes)
    return mixed


def _mix_plainly(x: Tensor, steps: Tensor, weights: Tensor, codes: list[tuple[int, int]]) -> Tensor:
    """The mix as autograd would have it."""
    mixed = x.new_zeros(())
    for s, weight, (low, high) in zip(steps.unbind(), weights.unbind(), codes, strict=True):
        scaled = x * (1 / s.detach())
        inside = F.hardtanh(scaled, low, high)  # as below, an edge itself has no slope
        clipped = ((scaled < low) | (scaled > high)).to(x.dtype) * inside.detach()
        value = ste.round_(inside) * s.detach() + clipped * (s - s.detach())
        mixed = value if len(codes) == 1 and not weight.requires_grad else mixed + weight * value
    return mixed


class _MixActivation(torch.autograd.Function):
    """The same in closed form: few passes over `x`, two buffers, and nothing kept but `x`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, steps: Tensor, weights: Tensor, codes: list[tuple[int, int]]
    ) -> Tensor:
        ctx.codes = codes
        ctx.save_for_backward(x, steps, weights)
        scales = (steps * weights).unbind()
        # Times the inverse: a division is several times slower. Export uses the same expression.
        inverses = (1 / steps).unbind()
        mixed = (x * inverses[0]).round_().clamp_(*codes[0]).mul_(scales[0])
        buffer = torch.empty_like(mixed) if len(codes) > 1 else mixed
        for inverse, scale, limits in list(zip(inverses, scales, codes, strict=True))[1:]:
            torch.mul(x, inverse, out=buffer)
            mixed.addcmul_(buffer.round_().clamp_(*limits), scale)
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, steps, weights = ctx.saved_tensors
        (grad,) = grads
        _, need_steps, need_weights, _ = ctx.needs_input_grad
        inside, scaled = torch.empty_like(x), torch.empty_like(x)
        dx: Tensor | None = None
        dsteps, dweights = [], []
        for inverse, weight, (low, high) in zip(
            (1 / steps).unbind(), weights.unbind(), ctx.codes, strict=True
        ):
            torch.mul(x, inverse, out=scaled)
            _between(grad, scaled, low, high, inside)
            if len(ctx.codes) > 1 or need_weights:
                dx = inside * weight if dx is None else dx.addcmul_(inside, weight)
            else:
                dx, inside = inside, scaled  # one grid: what is outside may overwrite the codes
            if need_weights:
                inside = torch.mul(grad, scaled.round().clamp_(low, high), out=inside)
                dweights.append(inside.sum())
            if need_steps:
                outside = _between(grad, scaled, high, math.inf, inside).sum() * high
                if low < 0:
                    torch.mul(x, inverse, out=scaled)
                    outside = outside + _between(grad, scaled, -math.inf, low, inside).sum() * low
                dsteps.append(outside)
        dstep = torch.stack(dsteps) * weights if need_steps else None
        return dx, dstep, torch.stack(dweights) * steps if need_weights else None, None


def _between(grad: Tensor, x: Tensor, low: float, high: float, out: Tensor) -> Tensor:
    """`grad` where `low < x < high`, 0 elsewhere, in one pass."""
    torch.ops.aten.hardtanh_backward.grad_input(grad, x, low, high, grad_input=out)
    return out


# -- weights --------------------------------------------------------------------------------------


@runtime_checkable
class WeightRanges(Protocol):
    """How the ranges of the rows of a weight are found; the grid over a range is the same for all.

    A plug-in writes its own as a frozen record without fields.
    """

    @property
    def trained(self) -> bool:
        """Whether ranges are parameters, which start at `span`."""
        ...

    def span(self, rows: Tensor) -> Tensor:
        """`(R,)` range of each row of `(R, K)`; zeros in a row must not count."""
        ...


@dataclass(frozen=True)
class MinMax:
    """Ranges follow the weights: the largest magnitude of each row."""

    trained: ClassVar[bool] = False

    def span(self, rows: Tensor) -> Tensor:
        """`(R,)` largest magnitude of each row of `(R, K)`, without a gradient."""
        return rows.detach().abs().amax(1)


@dataclass(frozen=True)
class Learned(MinMax):
    """Ranges start at the largest magnitude of each row and are trained (arXiv 1902.08153)."""

    trained: ClassVar[bool] = True


def mix_rows(rows: Tensor, steps: Tensor, weights: Tensor, bits: Sequence[int]) -> Tensor:
    """Each row rounded to its candidate grids, as one weighted sum.

    Rows get their gradient times the sum of their weights. Where steps ask for a gradient, because
    their ranges are trained, they get that of a learned step, and clipped values get none.

    Args:
        rows: `(R, K)`.
        steps: `(W, R)`, from `row_steps`.
        weights: `(W, R)`.
        bits: `W` bit-widths, none of them 0.

    Example:
        >>> rows = torch.tensor([[-1.0, 0.4, 1.0]])
        >>> mix_rows(rows, row_steps(torch.ones(1), [2]), torch.ones(1, 1), [2])
        tensor([[-0.6667,  0.6667,  0.6667]])
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or steps.requires_grad:
        parts = zip(steps.unbind(), weights.unbind(), bits, strict=True)
        mixed = [weight[:, None] * round_rows(rows, s, b) for s, weight, b in parts]
        return sum(mixed[1:], start=mixed[0])
    summed: Tensor = _MixRows.apply(rows, steps, weights, tuple(bits))
    return summed


def round_rows(rows: Tensor, step: Tensor, bits: int | Tensor) -> Tensor:
    """Rows rounded to one grid each.

    Args:
        rows: `(R, K)`.
        step: `(R,)`; where it asks for a gradient it gets that of a learned step.
        bits: Of all rows, or `(R,)` of each.
    """
    each = bits if isinstance(bits, Tensor) else torch.full((), bits, device=rows.device)
    limit = 2 ** (each - 1) - 1
    limit, column = limit.to(rows.dtype).reshape(-1, 1), step[:, None]
    if not step.requires_grad:
        hard = _codes(rows.detach(), column, limit) * column
        return hard + (rows - rows.detach())
    scaled = rows * (1 / column)
    clipped = torch.where(limit == 0, scaled, torch.maximum(torch.minimum(scaled, limit), -limit))
    return (_codes(rows, column, limit).detach() + (clipped - clipped.detach())) * column


def _codes(rows: Tensor, step: Tensor, limit: Tensor) -> Tensor:
    # Times the inverse, as everywhere: search and export must agree to the last bit.
    codes = torch.maximum(torch.minimum((rows * (1 / step)).round(), limit), -limit)
    return torch.where(limit == 0, _signs(rows), codes)


def _signs(rows: Tensor) -> Tensor:
    """The codes of one bit: -1 and 1, but 0 throughout a row of zeros."""
    signs = torch.where(rows < 0, -1.0, 1.0).to(rows.dtype)
    return torch.where((rows == 0).all(1, keepdim=True), 0.0, signs)


def _step(span: Tensor, factor: float | Tensor) -> Tensor:
    """The step of each row; 1 for a row of zeros, whose codes are 0."""
    return torch.where(span > 0, span * factor, 1.0)


def weight_step(span: Tensor, bits: Tensor) -> Tensor:
    """`(R,)` step of rows with their own bit-widths `(R,)`."""
    return _step(span, span.new_tensor(WEIGHT_STEPS)[bits.long()])


def row_steps(span: Tensor, bits: Sequence[int]) -> Tensor:
    """`(W, R)` step of each row at each bit-width."""
    return _step(span, filled(span, [WEIGHT_STEPS[b] for b in bits])[:, None])


def filled(like: Tensor, values: Sequence[float]) -> Tensor:
    """`values`, a few of them, in the type and on the device of `like`.

    They are made there: a GPU waits for what is copied from the host.

    Example:
        >>> filled(torch.zeros(2), (4, 8))
        tensor([4., 8.])
    """
    return torch.stack([like.new_full((), value) for value in values])


class _MixRows(torch.autograd.Function):
    """The mix of untrained ranges in closed form: one node for all bit-widths."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, steps: Tensor, weights: Tensor, bits: tuple[int, ...]
    ) -> Tensor:
        ctx.bits = bits
        ctx.save_for_backward(rows, steps, weights)
        mixed = torch.zeros_like(rows)
        columns = ((1 / steps)[:, :, None].unbind(), (steps * weights)[:, :, None].unbind())
        for inverse, scale, b in zip(*columns, bits, strict=True):
            mixed.addcmul_(_codes_at(rows, inverse, b), scale)
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, steps, weights = ctx.saved_tensors
        (grad,) = grads
        drows = grad * weights.sum(0)[:, None]
        if not ctx.needs_input_grad[2]:
            return drows, None, None, None
        parts = zip((1 / steps)[:, :, None].unbind(), ctx.bits, strict=True)
        dots = [(_codes_at(rows, inverse, b).mul_(grad)).sum(1) for inverse, b in parts]
        return drows, None, torch.stack(dots) * steps, None


def _codes_at(rows: Tensor, inverse: Tensor, bits: int) -> Tensor:
    if bits == 1:
        return _signs(rows)
    limit = 2 ** (bits - 1) - 1
    return (rows * inverse).round_().clamp_(-limit, limit)


# -- biases ---------------------------------------------------------------------------------------


def round_bias(bias: Tensor, step: Tensor) -> Tensor:
    """`(R,)` biases as 32-bit integers at `(R,)` steps; their gradient passes through.

    Example:
        >>> round_bias(torch.tensor([0.26, -0.1]), torch.tensor([0.1, 0.1]))
        tensor([ 0.3000, -0.1000])
    """
    fixed = step.detach()
    hard = (bias.detach() / fixed).round().clamp(-INT32_MAX - 1, INT32_MAX) * fixed
    return hard + (bias - bias.detach())
