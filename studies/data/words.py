"""Spoken words as spectra `(1, 49, 10)`: 49 frames of 10 cepstral coefficients.

`speech_commands` reads the recordings as they are published, or the clips of the official test
set that were turned into coefficients beforehand.

References:
    Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition", 2018 (arXiv
    1804.03209).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from data.archive import archive, pair, texts
from data.sound import RATE, mfcc, one_second, read_wav
from data.source import broken, decoded, missing, place
from data.split import Pair, held_groups, held_out, in_parts, part_of, rank, validated
from plinio_sweep import Splits

WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
SILENCE, UNKNOWN = len(WORDS), len(WORDS) + 1
PARTS = ("train", "validation", "test")
FOLDER, TESTS = "speech_commands_v0.02", "speech_commands_test_set_v0.02"
ARCHIVE = "kws12_mfcc.npz"
WAY = (
    f"download https://download.tensorflow.org/data/{FOLDER}.tar.gz and unpack it into a folder of "
    f"that name"
)
TESTS_WAY = WAY.replace(FOLDER, TESTS)
NOISE = "_background_noise_"
_AT_ONCE = 512  # sounds in memory
_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}  # of each noise


def speech_commands(most: int | None = None) -> Splits:
    """Ten words, silence and all other words: 12 classes.

    Speakers are in one part only. Where the published test set lies beside the recordings, it is
    the test split.

    Args:
        most: Items of each part; all when left out.

    Raises:
        FileNotFoundError: When the data set is not there.
        ValueError: When a part lacks a class, or a recording is damaged.
    """
    folder, tests = place(FOLDER), place(TESTS)
    if folder is not None:
        files = [path for root in (folder, tests) if root for path in root.rglob("*.wav")]
        found = decoded("speech-commands", sorted(files), _decode, way=WAY)
        parts = {name: (found[f"{name}.x"], found[f"{name}.y"]) for name in PARTS}
        return _scaled(in_parts(parts["train"], parts["validation"], parts["test"], most))
    if place(ARCHIVE) is None:
        raise missing("Speech Commands", (f"{FOLDER}/", ARCHIVE), WAY)
    arrays = archive(ARCHIVE, "Speech Commands", "spk_train")
    kept, test = pair(arrays, "train"), pair(arrays, "test")
    out = held_groups(texts(arrays, "spk_train"), 0.15)
    return _scaled(validated(_spectra(kept), out, _spectra(test), most))


def three_words(most: int | None = None) -> Splits:
    """Bed, cat and happy, in the published parts; see `speech_commands`."""
    found = archive("kws3_mfcc.npz", "The spectra of three words", "x_val", "y_val")
    parts = [_spectra(pair(found, part)) for part in ("train", "val", "test")]
    return _scaled(in_parts(parts[0], parts[1], parts[2], most))


def spoken_digits(most: int | None = None) -> Splits:
    """Ten digits by six speakers, who are in all parts; see `speech_commands`."""
    found = archive("fsdd_mfcc.npz", "The spectra of spoken digits", "spk_train")
    kept, test = _spectra(pair(found, "train")), _spectra(pair(found, "test"))
    strata = list(zip(kept[1].tolist(), texts(found, "spk_train"), strict=True))
    return _scaled(validated(kept, held_out(strata, 0.1), test, most))


def _spectra(part: Pair) -> Pair:
    return part[0][:, None], part[1]


def _scaled(data: Splits) -> Splits:
    """With each coefficient at zero mean and unit spread over the training split.

    A net could do so itself in its first layer, but one of integers reads its input on a single
    grid of 8 bit, which the first coefficient alone would stretch to eight times its width.
    """
    inputs = data.part("train").inputs[0]
    mean, spread = inputs.mean((0, 1, 2)), inputs.std((0, 1, 2)).clamp(min=1e-6)
    scaled = {
        name: ((data.part(name).inputs[0] - mean) / spread, data.part(name).target)
        for name in PARTS
    }
    return Splits(**scaled)


# -- recordings -------------------------------------------------------------------------------


def _decode(files: Sequence[Path]) -> Mapping[str, Tensor]:
    """The spectra and classes of all parts, from the recordings of both folders."""
    noises = {path: read_wav(path, WAY) for path in files if path.parent.name == NOISE}
    published = any(path.parent.parent.name == TESTS for path in files)
    found: dict[str, Tensor] = {}
    for part in PARTS:
        if part == "test" and published:
            chosen = [path for path in files if path.parent.parent.name == TESTS]
            sounds = [(path, _class_of(path.parent.name)) for path in chosen]
            pieces: list[Tensor] = []
        else:
            own = [path for path in files if path not in noises and _part(path) == part]
            sounds, mean = _balanced([(path, _class_of(path.parent.name)) for path in own])
            pieces = _pieces(noises, mean, _SHARES[part], part)
        classes = [label for _, label in sounds] + [SILENCE] * len(pieces)
        _whole(part, classes, TESTS if part == "test" and published else FOLDER)
        found[f"{part}.x"] = _features([path for path, _ in sounds], pieces)
        found[f"{part}.y"] = torch.tensor(classes)
    return found


def _whole(part: str, classes: Sequence[int], folder: str) -> None:
    """Refuses a part that lacks one of the twelve `classes`: a net would never learn it."""
    names = (*WORDS, f"silence ({NOISE})" if folder == FOLDER else "_silence_", "other words")
    if lacking := [name for label, name in enumerate(names) if label not in classes]:
        rule = f"The {part} part of Speech Commands must have recordings of all classes"
        way = WAY if folder == FOLDER else TESTS_WAY
        raise broken(rule, f"{place(folder)} has none of {', '.join(lacking)}", way)


def _way(path: Path) -> str:
    return TESTS_WAY if path.parent.parent.name == TESTS else WAY


def _part(path: Path) -> str | None:
    """By speaker, whose name comes first in that of the file; none for the published test set."""
    if path.parent.parent.name == TESTS:
        return None
    return part_of(path.name.split("_nohash_")[0])


def _class_of(folder: str) -> int:
    if folder in WORDS:
        return WORDS.index(folder)
    return SILENCE if folder == "_silence_" else UNKNOWN


def _balanced(sounds: list[tuple[Path, int]]) -> tuple[list[tuple[Path, int]], int]:
    """With no more other words than there are of each word on average, and that number."""
    known = [sound for sound in sounds if sound[1] != UNKNOWN]
    others = [sound for sound in sounds if sound[1] == UNKNOWN]
    mean = round(len(known) / len(WORDS))
    others.sort(key=lambda sound: rank(f"{sound[0].parent.name}/{sound[0].name}"))
    return known + others[:mean], mean


def _pieces(
    noises: Mapping[Path, Tensor], count: int, share: tuple[float, float], part: str
) -> list[Tensor]:
    """`count` seconds of noise at all volumes, from that share of each recording alone."""
    found = []
    for index in range(count if noises else 0):
        name = sorted(noises)[index % len(noises)]
        noise = noises[name]
        first, last = (round(end * len(noise)) for end in share)
        draw = rank(f"{part} {index}")
        start = first + draw % max(1, last - first - RATE)
        volume = (draw >> 32) / 2**32
        found.append((noise[start : min(start + RATE, last)] * volume).to(torch.int16))
    return found


def _features(files: Sequence[Path], pieces: Sequence[Tensor]) -> Tensor:
    """`(N, 1, 49, 10)` of recordings, then of pieces."""
    sounds = chain((read_wav(path, _way(path)) for path in files), pieces)
    batches = iter(lambda: list(islice(sounds, _AT_ONCE)), [])
    found = [mfcc(torch.stack([one_second(sound) for sound in batch])) for batch in batches]
    return torch.cat(found)[:, None]
