"""Ranges of activations in MPS: where they start, and what they make of quantisers.

Shapes: `N` items seen, `Q` quantisers, `X` candidate bit-widths of activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from plinio_sweep.graph.quantized import Quantizer
from plinio_sweep.graph.sites import QuantizerPlan


def start_of(plan: QuantizerPlan, extremes: Tensor, percentile: float) -> tuple[bool, float]:
    """Whether a quantiser has a sign, and the logarithm that its clip starts at.

    Args:
        plan: The quantiser.
        extremes: `(2, N)` smallest and largest value of each item.
        percentile: Of the extremes of all items.

    Raises:
        ValueError: When an activation is not finite.

    Example:
        >>> plan = QuantizerPlan(name="q", nodes=("add",), signed=True, measured=False, decision=0)
        >>> start_of(plan, torch.tensor([[-1.0, 0.0], [0.5, 0.2]]), 100.0)
        (True, 0.0)
    """
    low, high = extremes
    signed = bool((low < 0).any()) if plan.measured else plan.signed
    reached = torch.maximum(high, -low) if signed else high
    clip = torch.quantile(reached.double(), percentile / 100)
    if not bool(torch.isfinite(clip)):
        raise ValueError(
            f"Activations must be finite, but those of {plan.nodes[0]!r} reach {float(clip)}; "
            f"train the net first, or mend its data."
        )
    return signed, float(clip.log()) if clip > 0 else 0.0


def told(
    plans: Sequence[QuantizerPlan], steps: Tensor, weights: Tensor | None
) -> dict[str, Tensor]:
    """What each quantiser is told: tensors of the net by name.

    Args:
        plans: The quantisers.
        steps: `(X, Q)` step of each at each bit-width.
        weights: `(X, Q)` weights of the bit-widths; nothing where there is no choice.
    """
    # The range of an input is that of the data. To train it would need the gradient of the
    # first layer's input, which can cost more than all other layers.
    pairs = zip(plans, steps.unbind(1), strict=True)
    found = {f"{p.name}.steps": step.detach() if p.measured else step for p, step in pairs}
    if weights is not None:
        names = [f"{plan.name}.weights" for plan in plans]
        found |= zip(names, weights.unbind(1), strict=True)
    return found


def quantizers_at(
    plans: Sequence[QuantizerPlan],
    bits: Mapping[str, int],
    signs: Sequence[bool],
    log_clips: Sequence[Tensor],
    *,
    learns: bool,
) -> dict[str, Quantizer]:
    """Quantisers that are decided, by name.

    Args:
        plans: The quantisers.
        bits: By quantiser.
        signs: Of each.
        log_clips: `(1,)` of each; those of inputs are measured, not trained.
        learns: Whether the others are trained.
    """
    return {
        plan.name: Quantizer(
            (bits[plan.name],),
            signed=signed,
            log_clip=log_clip if plan.measured else nn.Parameter(log_clip, learns),
        )
        for plan, signed, log_clip in zip(plans, signs, log_clips, strict=True)
    }
