"""Tiny data sets on the disk, in the formats that the real ones are published in."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHERS = ("bed", "cat", "dog")
# Speakers of Speech Commands, by the part that the published rule puts them in.
SPEAKERS = {
    "train": ("00176480", "004ae714", "00b01445", "0132a06d"),
    "validation": ("026290a7", "fe5dbbce"),
    "test": ("0c40e715", "f1abd670"),
}
TOYS = ((1, 2, 4), (2, 2, 4))  # cars: their number, training recordings, test recordings a kind


def tone(seconds: float, hertz: float, volume: float = 0.4) -> Tensor:
    """`(S,)` 16-bit samples at 16 kHz, with a little noise that hangs on the frequency."""
    time = torch.arange(round(16_000 * seconds)) / 16_000
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(round(hertz)))
    wave_form = volume * (2 * math.pi * hertz * time).sin() + 0.02 * noise
    return (32_767 * wave_form.clamp(-1, 1)).to(torch.int16)


def write_wav(path: Path, samples: Tensor, *, rate: int = 16_000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.numpy().astype("<i2").tobytes())
    return path


def write_cifar10(folder: Path, each: int = 20, test: int = 10) -> tuple[Tensor, Tensor]:
    """Five training batches and a test batch; pixels `(N, 3, 32, 32)` and classes of the former."""
    root = folder / "cifar-10-batches-bin"
    root.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    images, classes = [], []
    for name, count in [
        *((f"data_batch_{k}.bin", each) for k in range(1, 6)),
        ("test_batch.bin", test),
    ]:
        pixels = torch.randint(256, (count, 3072), generator=generator, dtype=torch.uint8)
        labels = torch.arange(count, dtype=torch.uint8) % 10
        (root / name).write_bytes(torch.cat([labels[:, None], pixels], 1).numpy().tobytes())
        images.append(pixels.reshape(-1, 3, 32, 32))
        classes.append(labels.long())
    return torch.cat(images[:5]), torch.cat(classes[:5])


def write_words(folder: Path) -> Path:
    """Two recordings a speaker of each of ten words and three others, and two of noise."""
    root = folder / "speech_commands_v0.02"
    speakers = [speaker for part in SPEAKERS.values() for speaker in part]
    for place, word in enumerate((*WORDS, *OTHERS)):
        for number, speaker in enumerate(speakers):
            for take in range(2):
                name = f"{speaker}_nohash_{take}.wav"
                sound = tone(1.0 - 0.02 * take, 200 + 90 * place + 7 * number + 3 * take)
                write_wav(root / word / name, sound)
    write_wav(root / "_background_noise_" / "pink.wav", tone(12.0, 61))
    write_wav(root / "_background_noise_" / "tap.wav", tone(11.0, 67))
    return root


def write_photos(folder: Path, each: int = 30) -> Path:
    """As many photos with a person, which are bright, as without one."""
    from PIL import Image

    root = folder / "vw_coco2014_96"
    noise = np.random.default_rng(0)
    for name, low in (("person", 128), ("non_person", 0)):
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = noise.integers(low, low + 128, (96, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"COCO_train2014_{number:012}.jpg")
    return root


def write_toys(folder: Path) -> Path:
    """Sound cars hum; those with anomalies whistle, too."""
    root = folder / "ToyCar"
    for car, train, each in TOYS:
        for number in range(train):
            sound = tone(8.5, 100 * car + number)
            write_wav(root / "train" / f"normal_id_{car:02}_{number:08}.wav", sound)
        for number in range(each):
            sound = tone(8.5, 100 * car + 50 + number)
            write_wav(root / "test" / f"normal_id_{car:02}_{number:08}.wav", sound)
            odd = sound + tone(8.5, 3000 + 10 * number, volume=0.2)
            write_wav(root / "test" / f"anomaly_id_{car:02}_{number:08}.wav", odd)
    return root


def write_watch(folder: Path, each: int = 12) -> dict[str, np.ndarray]:
    """Windows of six signals by five persons, as an archive."""
    noise = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, persons in (("train", 5), ("test", 2)):
        count = each * persons
        arrays[f"x_{part}"] = noise.normal(3.0, 2.0, (count, 128, 6)).astype(np.float16)
        arrays[f"y_{part}"] = (np.arange(count) % 7).astype(np.uint8)
        arrays[f"subject_{part}"] = np.repeat(np.arange(persons), each)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "imu_watch_128x6.npz", **arrays)
    return arrays
