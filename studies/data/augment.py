"""Augmentation of batches, on their device: some of what the references of MLPerf Tiny do.

Images are flipped and shifted much as theirs. Left out is that theirs are turned, too, by up to 15
degrees (CIFAR-10) or 10 (Visual Wake Words), and zoomed by up to a tenth (the latter alone).

Spoken words are shifted here, which theirs are not: what they pad in front they cut off again. They
mix recorded noise into clips before the coefficients are taken, which is left out: here normal
noise is added to the coefficients.

Shapes: `B` items of a batch.

References:
    mlcommons/tiny: `train.py` of image classification, `train_vww.py` of visual wake words,
    `get_dataset.py` of keyword spotting.
"""

from __future__ import annotations

import torch
from torch import Tensor

Inputs = tuple[Tensor, ...]


def moved_images(inputs: Inputs, generator: torch.Generator, *, share: float) -> Inputs:
    """Half of the images from right to left, and all shifted up to `share` of each side.

    Where an image moved away its edge goes on.

    Args:
        inputs: Images `(B, C, H, W)`.
        generator: On their device.
        share: Of height and width, in whole pixels; a tenth for CIFAR-10, half of it for
            Visual Wake Words.

    References:
        Banbury et al., "MLPerf Tiny Benchmark", 2021 (arXiv 2106.07597), section 4.
    """
    (images,) = inputs
    turned = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    images = images.flip(-1).where(turned, images)
    for axis in (2, 3):
        images = shifted(images, axis, int(share * images.shape[axis]), generator)
    return (images,)


def moved_signals(
    inputs: Inputs, generator: torch.Generator, *, axis: int, most: int, noise: float
) -> Inputs:
    """Signals or spectra, shifted in time and with noise.

    Args:
        inputs: One tensor `(B, …)`.
        generator: On their device.
        axis: Of time.
        most: Places that they are shifted by at most, sooner or later.
        noise: Spread of the normal noise that is added.
    """
    (signals,) = inputs
    signals = shifted(signals, axis, most, generator)
    drawn = torch.randn(
        signals.shape, generator=generator, dtype=signals.dtype, device=signals.device
    )
    return (signals + noise * drawn,)


def shifted(x: Tensor, axis: int, most: int, generator: torch.Generator) -> Tensor:
    """Each of `B` items moved along `axis` by -most to most places; its ends go on.

    Example:
        >>> numbers = torch.arange(5.0)[None]
        >>> shifted(numbers, 1, 2, torch.Generator().manual_seed(0))
        tensor([[2., 3., 4., 4., 4.]])
    """
    length = x.shape[axis]
    size = (len(x), 1)
    by = torch.randint(-most, most + 1, size, generator=generator, device=x.device)
    places = (torch.arange(length, device=x.device) + by).clamp(0, length - 1)
    form = [1] * x.dim()
    form[0], form[axis] = len(x), length
    return x.gather(axis, places.view(form).expand_as(x))
