"""Relaxed choices: pure functions from logits to weights that sum to one.

Shapes: `(M,)` or `(M, …)` logits of `M` candidates along the first axis.

References:
    Jang et al., "Categorical Reparameterization with Gumbel-Softmax", ICLR 2017 (arXiv 1611.01144),
    equations 1 to 3; Bengio et al., 2013 (arXiv 1308.3432) for the straight-through gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def icv(theta: Mapping[str, Tensor], eps: float = 1e-3) -> Tensor:
    """The inverse coefficient of variation, 0-dim: added to a loss, it makes choices decided.

    Summed over all choices, with the unbiased variance:

        icv = sum_choices mean(theta)^2 / (var(theta) + eps)

    It is `1 / (M^2 eps)` for a choice that is wholly open, and near `1 / M` for a decided one.

    Args:
        theta: Weights of the candidates of each choice, as `SuperNet.theta` gives them.
        eps: Keeps the open choice finite.

    Example:
        >>> icv({"block": torch.full((4,), 0.25)})
        tensor(62.5000)

    References:
        The published library of Jahier Pagliari et al., "PLiNIO", 2023 (arXiv 2307.09488).
    """
    parts = [
        (weights.mean(0).square() / (weights.var(0) + eps)).sum() for weights in theta.values()
    ]
    return sum(parts, start=torch.zeros(()))


def entropy(theta: Mapping[str, Tensor]) -> Tensor:
    """Shannon's entropy of all choices together [nat], 0-dim: zero when all are decided.

    Args:
        theta: Weights of the candidates of each choice, as `SuperNet.theta` gives them.

    Example:
        >>> entropy({"block": torch.tensor([0.5, 0.5]), "head": torch.tensor([0.0, 1.0])})
        tensor(0.6931)
    """
    parts = []
    for weights in theta.values():
        # Weights of zero count as zero and keep a finite slope.
        logarithm = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
        parts.append(-(weights * logarithm).sum())
    return sum(parts, start=torch.zeros(()))
