"""Images as tensors `(3, H, W)` in [0, 1].

MLPerf Tiny trains ResNet-8 on whole numbers up to 255: the same, up to a factor that the norm
behind its first layer takes out.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.source import decoded, missing, needed, place
from data.split import Pair, held_out, in_parts, part_of, validated
from plinio_sweep import Splits

BATCHES = "cifar-10-batches-bin"
ARCHIVE = "cifar10_exact_dev_40k_5k.npz"
SIDE = 32  # of an image of CIFAR-10 [pixel]
PHOTOS = "vw_coco2014_96"
PHOTO_SIDE = 96
CLASSES = ("non_person", "person")  # 0 and 1
PARTS = ("train", "validation", "test")


def cifar10(most: int | None = None) -> Splits:
    """CIFAR-10: ten classes of images `(3, 32, 32)`; a tenth of the training set validates.

    Args:
        most: Items of each part; all when left out.

    Raises:
        FileNotFoundError: When the data set is not there.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    folder, archive = place(BATCHES), place(ARCHIVE)
    if folder is not None:
        found = decoded("cifar10", sorted(folder.glob("*_batch*.bin")), _batches)
    elif archive is not None:
        found = decoded("cifar10", [archive], _mosaics)
    else:
        raise missing(
            "CIFAR-10",
            (f"{BATCHES}/", ARCHIVE),
            "download https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz and unpack it there",
        )
    kept, test = (found["train.x"], found["train.y"]), (found["test.x"], found["test.y"])
    return _in_unit(validated(kept, held_out(kept[1].tolist(), 0.1), test, most))


def visual_wake_words(most: int | None = None) -> Splits:
    """Photos `(3, 96, 96)` with a person, class 1, and without one.

    A tenth validates and a tenth tests: which, follows from the names of the files, since the
    published folder has no parts.

    Args:
        most: Items of each part; all when left out.

    Raises:
        FileNotFoundError: When the data set is not there.

    References:
        Chowdhery et al., "Visual Wake Words Dataset", 2019 (arXiv 1906.05721).
    """
    way = (
        "download https://www.silabs.com/public/files/github/machine_learning/benchmarks/"
        "datasets/vw_coco2014_96.tar.gz and unpack it there"
    )
    folder = needed(f"{PHOTOS}/", "Visual Wake Words", way)
    files = [path for name in CLASSES for path in sorted((folder / name).glob("*.jpg"))]
    found = decoded("visual-wake-words", files, _photos)
    parts = {name: (found[f"{name}.x"], found[f"{name}.y"]) for name in PARTS}
    return _in_unit(in_parts(parts["train"], parts["validation"], parts["test"], most))


def _in_unit(data: Splits) -> Splits:
    def scaled(name: str) -> Pair:
        part = data.part(name)
        return part.inputs[0].float() / 255, part.target

    return Splits(**{name: scaled(name) for name in PARTS})


# -- formats ----------------------------------------------------------------------------------


def _batches(files: Sequence[Path]) -> Mapping[str, Tensor]:
    """The binary version: a class number and 3072 pixels, channel by channel, for each image."""
    found: dict[str, Tensor] = {}
    for part, first in (("train", "data_batch"), ("test", "test_batch")):
        data = b"".join(path.read_bytes() for path in files if path.name.startswith(first))
        size = 1 + 3 * SIDE**2
        if not data or len(data) % size:
            raise ValueError(
                f"The files {first}*.bin of CIFAR-10 must hold records of {size} bytes, but hold "
                f"{len(data)} bytes; download the binary version anew."
            )
        records = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).reshape(-1, size).copy())
        found[f"{part}.x"] = records[:, 1:].reshape(-1, 3, SIDE, SIDE).clone()
        found[f"{part}.y"] = records[:, 0].long()
    return found


def _mosaics(files: Sequence[Path]) -> Mapping[str, Tensor]:
    """Images as tiles of large ones, row by row."""
    arrays = np.load(files[0])
    found: dict[str, Tensor] = {}
    for part in ("train", "test"):
        target = torch.from_numpy(arrays[f"y_{part}"].astype(np.int64))
        names = [name for name in arrays.files if name.startswith(f"img_{part}_")]
        mosaics = [
            _pixels(io.BytesIO(arrays[f"img_{part}_{k}"].tobytes())) for k in range(len(names))
        ]
        tiles = [m.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).flatten(1, 2) for m in mosaics]
        found[f"{part}.x"] = torch.cat(tiles, 1).transpose(0, 1)[: len(target)].contiguous()
        found[f"{part}.y"] = target
    return found


def _photos(files: Sequence[Path]) -> Mapping[str, Tensor]:
    """Each part by itself; a photo and its class have the same place."""
    found: dict[str, Tensor] = {}
    for part in PARTS:
        chosen = [path for path in files if part_of(path.stem) == part]
        images = torch.empty(len(chosen), 3, PHOTO_SIDE, PHOTO_SIDE, dtype=torch.uint8)
        for image, path in zip(images, chosen, strict=True):
            pixels = _pixels(path)
            if pixels.shape != image.shape:
                raise ValueError(
                    f"Photos must have {PHOTO_SIDE} by {PHOTO_SIDE} pixels, but {path} has "
                    f"{pixels.shape[2]} by {pixels.shape[1]}; unpack the data set anew."
                )
            image.copy_(pixels)
        found[f"{part}.x"] = images
        found[f"{part}.y"] = torch.tensor([CLASSES.index(path.parent.name) for path in chosen])
    return found


def _pixels(file: Path | io.BytesIO) -> Tensor:
    """`(3, H, W)` whole numbers up to 255."""
    from PIL import Image  # the binary version of CIFAR-10 does without

    with Image.open(file) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)
