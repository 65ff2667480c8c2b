"""Straight lines between measured points, over any number of axes.

Shapes: `D` axes with `N_1` to `N_D` knots each; points broadcast against each other to `P`.

References:
    Press et al., "Numerical Recipes", 3rd edition, 2007, section 3.6 (interpolation on a grid).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

Numbers = tuple[float, ...]


@functools.lru_cache(maxsize=1024)
def constant(numbers: Numbers, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`(N,)` numbers as a tensor that is kept, not to be written to.

    Example:
        >>> constant((2.0, 4.0), torch.float32, torch.device("cpu"))
        tensor([2., 4.])
    """
    # Kept: a copy to the device for each layer and step would cost more than the arithmetic.
    with torch.inference_mode(False):  # else it could never be part of a gradient
        return torch.tensor(numbers, dtype=dtype, device=device)


def on_grid(knots: Sequence[Numbers], values: Numbers, points: Sequence[Tensor]) -> Tensor:
    """The value at `points` of the function that is linear along each axis between its knots.

    Beyond the outermost knots it goes on with their slope; along an axis of one knot it does not
    change.

    Args:
        knots: `D` rising sequences.
        values: `(N_1 * ... * N_D,)`, the last axis changes fastest.
        points: `D` tensors, of shapes that broadcast to `P`.

    Returns:
        `P`, differentiable in the points.

    Example:
        >>> at = torch.tensor(4.0)
        >>> on_grid([(0.0, 8.0), (2.0, 6.0)], (0.0, 4.0, 8.0, 12.0), [at, at]).item()
        6.0
    """
    like = points[0]
    left = constant(values, like.dtype, like.device).reshape([len(axis) for axis in knots])
    for axis in reversed(range(len(knots))):
        weights = _weights(points[axis], knots[axis])
        ahead = (1,) * axis
        left = (left * weights.reshape(*weights.shape[:-1], *ahead, -1)).sum(-1)
    return left


def _weights(point: Tensor, knots: Numbers) -> Tensor:
    """`(P, N)` weights of the knots of one axis: those of the two around a point add up to 1."""
    if len(knots) == 1:
        return torch.ones_like(point)[..., None]
    inner = constant(knots[1:-1], point.dtype, point.device)
    intervals = constant(_intervals(knots), point.dtype, point.device)
    # One look at a table, since costs are many small operations.
    found = intervals.reshape(len(knots) - 1, -1)[torch.bucketize(point.detach(), inner)]
    start, length, weights, changes = found.split([1, 1, len(knots), len(knots)], -1)
    here: Tensor = weights + (point[..., None] - start) / length * changes
    return here


@functools.lru_cache(maxsize=1024)
def _intervals(knots: Numbers) -> Numbers:
    """`(N - 1) * (2 + 2N)`: start and length of each interval, weights there, their changes."""
    rows: list[float] = []
    for index, (start, end) in enumerate(itertools.pairwise(knots)):
        rows += [start, end - start]
        rows += [float(knot == index) for knot in range(len(knots))]
        rows += [float(knot == index + 1) - float(knot == index) for knot in range(len(knots))]
    return tuple(rows)
