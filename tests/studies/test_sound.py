"""Front ends of sounds, against slow ones that are written from their definitions."""

from __future__ import annotations

import cmath
import math
from pathlib import Path

import pytest
import torch

from data.sound import machine_spectrum, mfcc, one_second, read_wav
from tests.messages import is_sentence
from tests.studies.published import tone, write_wav


def slow_spectrum(frame: list[float], size: int) -> list[float]:
    """Magnitudes of the first half of the Fourier transform of a windowed, zero-padded frame."""
    count = len(frame)
    windowed = [
        value * (0.5 - 0.5 * math.cos(2 * math.pi * n / count)) for n, value in enumerate(frame)
    ]
    turns = [cmath.exp(-2j * math.pi * k / size) for k in range(size)]
    return [
        abs(sum(value * turns[n * k % size] for n, value in enumerate(windowed)))
        for k in range(size // 2 + 1)
    ]


def slow_words_frame(frame: list[float]) -> list[float]:
    """Ten coefficients of a frame of 480 samples, one number at a time."""

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    magnitudes = slow_spectrum(frame, 512)
    low, high = mel(20), mel(4000)
    step = (high - low) / 41
    logarithms = []
    for bin_number in range(40):
        left = low + bin_number * step
        energy = 0.0
        for k in range(1, 257):
            distance = abs(mel(16_000 * k / 512) - (left + step)) / step
            energy += max(0.0, 1 - distance) * magnitudes[k]
        logarithms.append(math.log(energy + 1e-6))
    return [
        math.sqrt(2 / 40)
        * sum(v * math.cos(math.pi * order * (m + 0.5) / 40) for m, v in enumerate(logarithms))
        for order in range(10)
    ]


def slow_machine_frame(frame: list[float]) -> list[float]:
    """128 mel bins [dB] of a frame of 1024 samples, one number at a time."""

    def hertz(mel: float) -> float:
        return 200 / 3 * mel if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    highest = 15 + 27 * math.log(8) / math.log(6.4)
    edges = [hertz(highest * m / 129) for m in range(130)]
    power = [magnitude**2 for magnitude in slow_spectrum(frame, 1024)]
    found = []
    for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
        energy = 0.0
        for k, value in enumerate(power):
            f = 16_000 * k / 1024
            rising, falling = (f - left) / (centre - left), (right - f) / (right - centre)
            energy += max(0.0, min(rising, falling)) * 2 / (right - left) * value
        found.append(10 * math.log10(energy + 2**-52))
    return found


def test_words_have_the_coefficients_of_the_definition() -> None:
    sounds = torch.stack([one_second(tone(0.7, 440)), one_second(tone(1.2, 1700))])
    found = mfcc(sounds)
    assert found.shape == (2, 49, 10)
    for sound, features in zip(sounds, found, strict=True):
        scaled = (sound.double() / sound.max()).tolist()
        for frame in (0, 33, 48):
            expected = slow_words_frame(scaled[320 * frame : 320 * frame + 480])
            # The second half of the first sound is silence: log(1e-6), the same in all bins.
            assert features[frame].tolist() == pytest.approx(expected, abs=2e-3)


def test_a_louder_word_has_the_same_coefficients() -> None:
    sound = one_second(tone(1.0, 300, volume=0.2))
    assert torch.allclose(mfcc(sound[None]), mfcc(2 * sound[None]), atol=1e-3)


def test_silence_has_finite_coefficients() -> None:
    found = mfcc(torch.zeros(1, 16_000, dtype=torch.int16))
    assert found[0, :, 0].tolist() == pytest.approx([math.sqrt(2 / 40) * 40 * math.log(1e-6)] * 49)
    assert found[0, :, 1:].abs().max() < 1e-3


def test_machines_have_the_spectra_of_the_definition() -> None:
    sound = tone(8.2, 900)
    found = machine_spectrum(sound)
    assert found.shape == (200, 128)
    scaled = (sound.double() / 2**15).tolist()
    for frame in (0, 199):
        first = 512 * (50 + frame) - 512  # centred on its sample
        expected = slow_machine_frame(scaled[first : first + 1024])
        assert found[frame].tolist() == pytest.approx(expected, abs=1e-2)


def test_a_short_machine_sound_is_refused() -> None:
    with pytest.raises(ValueError, match="128000") as caught:
        machine_spectrum(tone(7.0, 900))
    assert is_sentence(caught.value)


def test_a_wav_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    sound = tone(0.1, 440)
    assert torch.equal(read_wav(write_wav(tmp_path / "a.wav", sound)), sound)


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 2)])
def test_a_recording_of_another_form_is_refused(rate: int, channels: int, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", tone(0.1, 440), rate=rate, channels=channels)
    with pytest.raises(ValueError, match=r"a\.wav") as caught:
        read_wav(path)
    assert is_sentence(caught.value)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"no wav file at all"])
def test_a_damaged_recording_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.wav") as caught:
        read_wav(path)
    assert is_sentence(caught.value)


def test_words_are_cut_or_filled_up_to_a_second() -> None:
    long, short = tone(1.5, 440), tone(0.25, 440)
    assert torch.equal(one_second(long), long[:16_000])
    assert torch.equal(one_second(short)[:4000], short)
    assert one_second(short)[4000:].count_nonzero() == 0
