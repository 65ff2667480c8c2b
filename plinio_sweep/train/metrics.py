"""Metrics over a whole split.

Shapes: `N` items, `K` classes.
"""

from __future__ import annotations

from torch import Tensor


def accuracy(outputs: Tensor, target: Tensor) -> float:
    """Fraction of items whose largest output is their class, in [0, 1].

    Args:
        outputs: `(N, K)`.
        target: `(N,)` class numbers.
    """
    return float((outputs.argmax(1) == target).double().mean())
