"""Straight-through estimators: the value of a step function with the slope of a line.

The forward value is exactly the hard one, never a rounding error away from it: the second term of
`hard + (soft - soft)` is zero. The backward pass sees only `soft`. Numbers that are not
tensors have no slope and come back as floats.

References:
    Bengio, Leonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for
    Conditional Computation", arXiv 1308.3432, section 3 (the straight-through estimator).
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

SHARPNESS = 8.0
"""Of the smooth maximum: a number 10 % below the largest one has 0.45 of its slope."""

# A tensor gives a tensor and a float gives a float; the third form is a number not yet known.
S = TypeVar("S", float, Tensor, float | Tensor)


def _straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """The value `hard`, which has no gradient, with the slope of `soft`."""
    return hard + (soft - soft.detach())


def round_(x: S) -> S:
    """The nearest whole number, halves to the even one; slope 1.

    Args:
        x: Any shape.

    Returns:
        The shape of `x`.

    Example:
        >>> round_(2.5), round_(3.5)
        (2.0, 4.0)
    """
    if isinstance(x, Tensor):
        return _straight_through(x, torch.round(x.detach()))
    return float(round(x))


def floor(x: S) -> S:
    """The largest whole number that is not above `x`; slope 1.

    Args:
        x: Any shape.

    Returns:
        The shape of `x`.

    Example:
        >>> floor(2.9)
        2.0
    """
    if isinstance(x, Tensor):
        return _straight_through(x, torch.floor(x.detach()))
    return float(math.floor(x))


def ceil(x: S) -> S:
    """The smallest whole number that is not below `x`; slope 1.

    Args:
        x: Any shape.

    Returns:
        The shape of `x`.

    Example:
        >>> ceil(2.1)
        3.0
    """
    return ceil_div(x, 1)


def ceil_div(x: S, n: float) -> S:
    """How many portions of `n` it takes to hold `x`: `ceil(x / n)`; slope `1 / n`.

    Args:
        x: Any shape.
        n: Size of a portion, above 0.

    Returns:
        The shape of `x`.

    Raises:
        ValueError: If `n` is not above 0.

    Example:
        >>> ceil_div(33, 16)
        3.0
    """
    if not n > 0:
        raise ValueError(f"`n` must be above 0, but got {n=}; pass the size of one portion.")
    if isinstance(x, Tensor):
        portions = x / n
        value = portions.detach()
        # Exact as well, with a step less: what is missing to the next whole number has no rounding
        # error from 1 on, and below, the error is too small to be seen beside 1.
        return portions + (torch.ceil(value) - value)
    return float(math.ceil(x / n))


def threshold(x: S, level: float = 0.5) -> S:
    """One where `x` is above `level`, zero elsewhere; slope 1.

    Args:
        x: Any shape.
        level: The largest value that still gives zero.

    Returns:
        The shape of `x`.

    Example:
        >>> threshold(0.5), threshold(0.6)
        (0.0, 1.0)
    """
    if isinstance(x, Tensor):
        return _straight_through(x, above(x, level))
    return float(x > level)


def above(x: S, level: float) -> S:
    """One where `x` is above `level`, zero elsewhere; no slope at all.

    Args:
        x: Any shape.
        level: The largest value that still gives zero.

    Returns:
        The shape and type of `x`.

    Example:
        >>> above(8, 2), above(2, 2)
        (1.0, 0.0)
    """
    if isinstance(x, Tensor):
        return (x.detach() > level).to(x.dtype)
    return float(x > level)


def clamp_max(x: S, maximum: float) -> S:
    """The smaller of `x` and `maximum`; slope 1, also above `maximum`.

    Args:
        x: Any shape.
        maximum: The largest value that comes back.

    Returns:
        The shape of `x`.

    Example:
        >>> clamp_max(1.5, 1)
        1.0
    """
    if isinstance(x, Tensor):
        return _straight_through(x, x.detach().clamp(max=maximum))
    return float(min(x, maximum))


def largest(x: Tensor) -> Tensor:
    """The largest of `N` numbers; slope of a smooth maximum, so that those close behind feel it.

    The smooth maximum is `m / k * log(sum(exp(k * x / m)))` with `m` the largest number, taken as
    a constant, and `k` the sharpness: its slopes are positive, add up to 1 and do not depend on
    the unit of `x`.

    Args:
        x: `(..., N)`, none of them negative.

    Returns:
        `(...)`: a 0-d tensor of `(N,)`.

    Example:
        >>> x = torch.tensor([10.0, 9.0, 1.0], requires_grad=True)
        >>> largest(x).item()
        10.0
        >>> [round(slope, 2) for slope in torch.autograd.grad(largest(x), x)[0].tolist()]
        [0.69, 0.31, 0.0]
    """
    values = x.detach()
    top = values.amax(-1, keepdim=True)
    scale = top.clamp(min=torch.finfo(x.dtype).tiny)
    weights = torch.softmax(SHARPNESS * values / scale, -1)
    return _straight_through((weights * x).sum(-1), top.squeeze(-1))
