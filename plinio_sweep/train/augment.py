"""Augmentation of the batches that are trained on: what is drawn, and what comes back.

Shapes: `B` items of a batch.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from plinio_sweep.train.recipe import AugmentFn


def step_generator(seed: int, epoch: int, step: int, device: torch.device) -> torch.Generator:
    """What the augmentation of one step draws from.

    Each step has its own, made from its place: whoever goes on from a checkpoint draws what would
    have been drawn, with no state to keep.

    Args:
        seed: Of the phase.
        epoch: 0-based.
        step: Of the epoch, 0-based.
        device: Of the data.

    Example:
        >>> one, again = (step_generator(0, 2, 5, torch.device("cpu")) for _ in range(2))
        >>> bool(torch.rand((), generator=one) == torch.rand((), generator=again))
        True
    """
    # A hash, since the seeds of two phases may differ by one, as those of two steps do.
    words = hashlib.sha256(f"augmentation {seed} {epoch} {step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(words[:7], "big"))


@torch.no_grad()
def augmented(
    augment: AugmentFn, inputs: tuple[Tensor, ...], generator: torch.Generator
) -> tuple[Tensor, ...]:
    """What `augment` makes of `inputs`, each `(B, …)`.

    Raises:
        ValueError: When it gives no inputs for the same net and as many items.
    """
    found = augment(inputs, generator)
    same = isinstance(found, tuple) and len(found) == len(inputs)
    if not same or any(_form(a) != _form(b) for a, b in zip(found, inputs, strict=True)):
        given = [_form(value) for value in inputs]
        got = [_form(value) for value in found] if isinstance(found, tuple) else type(found)
        raise ValueError(
            f"`augment` must return a tuple of tensors like its inputs, {given}, but returned "
            f"{got}; give back one for each argument of the net."
        )
    return found


def _form(value: object) -> object:
    return (list(value.shape), value.dtype) if isinstance(value, Tensor) else type(value).__name__
