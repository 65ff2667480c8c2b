"""Sounds as features: the front ends of MLPerf Tiny for spoken words and for machines.

Shapes: `B` sounds, `S` samples, `T` frames, `F` frequencies of a spectrum, `M` mel bins.
"""

from __future__ import annotations

import math
import wave
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.source import broken

RATE = 16_000  # of all sounds here [Hz]
FULL_SCALE = 2.0**15

# Of spoken words: 49 frames of a second, 10 coefficients each.
WINDOW, HOP, SPECTRUM = 480, 320, 512  # [samples]: 30 ms, 20 ms, and the next power of two
MEL_BINS, LOWEST, HIGHEST = 40, 20.0, 4000.0  # [1], [Hz], [Hz]
COEFFICIENTS = 10
FLOOR = 1e-6  # of a mel bin, whose logarithm is taken

# Of machines: of 11 s the middle part, 200 frames of 128 bins each.
MACHINE_WINDOW, MACHINE_HOP, MACHINE_BINS = 1024, 512, 128
FIRST_FRAME, LAST_FRAME = 50, 250
MACHINE_LEAST = (LAST_FRAME - 1) * MACHINE_HOP + MACHINE_WINDOW // 2  # of a sound [samples]
MACHINE_FLOOR = 2.0**-52


def read_wav(path: Path, way: str = "unpack the data set") -> Tensor:
    """`(S,)` samples of a recording, as whole numbers of 16 bit.

    Args:
        path: Of its file.
        way: Says how to get it.

    Raises:
        ValueError: When it is no whole 16-bit mono recording at 16 kHz.
    """
    try:
        with wave.open(str(path)) as file:
            form = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
            promised = file.getnframes()
            data = file.readframes(promised)
    except (wave.Error, EOFError) as error:
        reason = str(error) or "it is cut off"
        rule = "A recording must be a wav file"
        raise broken(rule, f"{path} is none: {reason}", way) from error
    if form != (1, 16, RATE):
        rule = f"A recording must have 1 channel of 16 bit at {RATE} Hz"
        raise broken(rule, f"{path} has {form[0]} of {form[1]} bit at {form[2]} Hz", way)
    if len(data) < 2 * promised:
        rule = "A recording must be whole"
        raise broken(rule, f"{path} is cut off at {len(data)} of {2 * promised} bytes", way)
    return torch.from_numpy(np.frombuffer(data, dtype="<i2").astype(np.int16))


def one_second(samples: Tensor) -> Tensor:
    """`(16000,)`: cut at its end, or filled up with silence."""
    cut = samples[:RATE]
    return torch.nn.functional.pad(cut, (0, RATE - len(cut)))


def mfcc(samples: Tensor) -> Tensor:
    """`(B, T, 10)` cepstral coefficients of sounds `(B, S)`; a second has 49 frames.

    Every sound is divided by its largest sample first, as the reference does.

    References:
        Banbury et al., "MLPerf Tiny Benchmark", 2021 (arXiv 2106.07597), section 4.

    Example:
        >>> mfcc(torch.zeros(2, 16000, dtype=torch.int16)).shape
        torch.Size([2, 49, 10])
    """
    loudest = samples.amax(-1, keepdim=True).float()
    sounds = samples.float() / loudest.where(loudest > 0, torch.ones(()))
    frames = sounds.unfold(-1, WINDOW, HOP) * torch.hann_window(WINDOW)
    spectrum = torch.fft.rfft(frames, SPECTRUM).abs()
    logarithms = (spectrum @ _word_filters() + FLOOR).log()
    coefficients: Tensor = logarithms @ _cosines()
    return coefficients


def machine_spectrum(samples: Tensor) -> Tensor:
    """`(B, 200, 128)` mel spectra [dB] of the middle of machine sounds `(B, S)`.

    References:
        Koizumi et al., "DCASE 2020 challenge task 2", 2020 (arXiv 2006.05822), section 4; MLPerf
        Tiny keeps frames 50 to 249 of those that are centred on every 512th sample.

    Raises:
        ValueError: When the sounds are too short for that many frames.

    Example:
        >>> machine_spectrum(torch.zeros(2, 128000, dtype=torch.int16)).shape
        torch.Size([2, 200, 128])
    """
    first = FIRST_FRAME * MACHINE_HOP - MACHINE_WINDOW // 2
    if samples.shape[-1] < MACHINE_LEAST:
        raise ValueError(
            f"The sound of a machine must last {MACHINE_LEAST} samples at least, but has "
            f"{samples.shape[-1]}; unpack the data set anew."
        )
    sounds = samples[..., first:MACHINE_LEAST].float() / FULL_SCALE
    frames = sounds.unfold(-1, MACHINE_WINDOW, MACHINE_HOP) * torch.hann_window(MACHINE_WINDOW)
    power = torch.fft.rfft(frames).abs().square()
    decibels: Tensor = 10 * (power @ _machine_filters() + MACHINE_FLOOR).log10()
    return decibels


@cache
def _word_filters() -> Tensor:
    """`(F, M)` triangles of equal width and height in the mel scale of O'Shaughnessy."""

    def mel(hertz: Tensor) -> Tensor:
        return 1127.0 * (1.0 + hertz / 700.0).log()

    ends = mel(torch.tensor([LOWEST, HIGHEST], dtype=torch.float64))
    edges = torch.linspace(float(ends[0]), float(ends[1]), MEL_BINS + 2, dtype=torch.float64)
    filters = _triangles(mel(_frequencies(SPECTRUM)), edges)
    filters[0] = 0  # a constant is no sound
    return filters.float()


@cache
def _machine_filters() -> Tensor:
    """`(F, M)` triangles of equal area in hertz, spaced by the mel scale of Slaney."""
    knee, per_mel, step = 1000.0, 200.0 / 3, math.log(6.4) / 27  # linear below the knee
    last = knee / per_mel + math.log(RATE / 2 / knee) / step
    mels = torch.linspace(0.0, last, MACHINE_BINS + 2, dtype=torch.float64)
    above = knee * (step * (mels - knee / per_mel)).exp()
    edges = torch.where(mels < knee / per_mel, per_mel * mels, above)
    filters = _triangles(_frequencies(MACHINE_WINDOW), edges)
    return (filters * 2.0 / (edges[2:] - edges[:-2])).float()


def _frequencies(size: int) -> Tensor:
    return torch.linspace(0.0, RATE / 2, size // 2 + 1, dtype=torch.float64)


def _triangles(points: Tensor, edges: Tensor) -> Tensor:
    """`(F, M)` height at each of `F` points of `M` triangles over `M + 2` edges."""
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (points[:, None] - low) / (centre - low)
    falling = (high - points[:, None]) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0)


@cache
def _cosines() -> Tensor:
    """`(M, 10)` the first columns of a cosine transform of kind II, with a factor for all."""
    angles = torch.arange(MEL_BINS, dtype=torch.float64)[:, None] + 0.5
    orders = torch.arange(COEFFICIENTS, dtype=torch.float64)
    matrix = (math.pi / MEL_BINS * angles * orders).cos() * math.sqrt(2.0 / MEL_BINS)
    return matrix.float()
