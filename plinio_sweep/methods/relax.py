"""Relaxed choices: pure functions from logits to weights that sum to one.

Shapes: `(M,)` or `(M, …)` logits of `M` candidates along the first axis.

References:
    Jang et al., "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017 (arXiv 1611.01144),
    equations 1 to 3; Bengio et al., 2013 (arXiv 1308.3432) for the straight-through gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Sampling = Literal["gumbel", "softmax"]
SAMPLINGS: tuple[Sampling, ...] = ("gumbel", "softmax")


def gumbel_like(logits: Tensor) -> Tensor:
    """Standard Gumbel noise in the shape of `logits`, from the global random state."""
    # The logarithm of an exponential variable: no clamp is needed to keep it finite.
    return -torch.empty_like(logits).exponential_().log()


def relax(logits: Tensor, temperature: Tensor | float, noise: Tensor | None = None) -> Tensor:
    """Softmax over the first axis of `(logits + noise) / temperature`.

    Example:
        >>> relax(torch.tensor([1.0, 1.0]), 0.5)
        tensor([0.5000, 0.5000])
    """
    shifted = logits if noise is None else logits + noise
    return torch.softmax(shifted / temperature, 0)


def discrete(weights: Tensor) -> Tensor:
    """One where `weights` are largest along the first axis, zero elsewhere; ties to the first.

    Example:
        >>> discrete(torch.tensor([0.2, 0.5, 0.3]))
        tensor([0., 1., 0.])
    """
    best = weights.detach().argmax(0, keepdim=True)
    return torch.zeros_like(weights).scatter(0, best, 1.0)


def straight_through(weights: Tensor) -> Tensor:
    """The discrete choice with the gradient of the relaxed one.

    Example:
        >>> straight_through(torch.tensor([0.2, 0.5, 0.3], requires_grad=True)).tolist()
        [0.0, 1.0, 0.0]
    """
    # In this order the second term is exactly zero, and the value exactly discrete.
    return discrete(weights) + (weights - weights.detach())
