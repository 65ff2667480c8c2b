"""Images as tensors `(3, H, W)` in [0, 1].

MLPerf Tiny trains ResNet-8 on whole numbers up to 255: the same, up to a factor that the norm
behind its first layer takes out.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.archive import arrays_of
from data.source import WAY, broken, decoded, missing, needed, place
from data.split import held_out, in_parts, part_of, validated
from plinio_sweep import Splits

BATCHES = "cifar-10-batches-bin"
BATCH_FILES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
BATCHES_WAY = "download https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz and unpack it there"
ARCHIVE = "cifar10_exact_dev_40k_5k.npz"
SIDE = 32  # of an image of CIFAR-10 [pixel]
RECORD = 1 + 3 * SIDE**2  # class number and pixels, channel by channel, of an image [byte]
PHOTOS = "vw_coco2014_96"
PHOTOS_WAY = (
    "download https://www.silabs.com/public/files/github/machine_learning/benchmarks/"
    "datasets/vw_coco2014_96.tar.gz and unpack it there"
)
PHOTO_SIDE = 96
CLASSES = ("non_person", "person")  # 0 and 1
PARTS = ("train", "validation", "test")


def cifar10(most: int | None = None) -> Splits:
    """CIFAR-10: ten classes of images `(3, 32, 32)`; a tenth of the training set validates.

    Args:
        most: Items of each part; all when left out.

    Raises:
        FileNotFoundError: When the data set is not there.
        ValueError: When a file of it is missing or damaged.

    References:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    folder, archive = place(BATCHES), place(ARCHIVE)
    if folder is not None:
        found = decoded("cifar10", _batch_files(folder), _batches, keep=_in_unit)
    elif archive is not None:
        found = decoded("cifar10", [archive], _mosaics, keep=_in_unit)
    else:
        raise missing("CIFAR-10", (f"{BATCHES}/", ARCHIVE), BATCHES_WAY)
    kept, test = (found["train.x"], found["train.y"]), (found["test.x"], found["test.y"])
    return validated(kept, held_out(kept[1].tolist(), 0.1), test, most)


def visual_wake_words(most: int | None = None) -> Splits:
    """Photos `(3, 96, 96)` with a person, class 1, and without one.

    A tenth validates and a tenth tests: which, follows from the names of the files, since the
    published folder has no parts.

    Args:
        most: Items of each part; all when left out.

    Raises:
        FileNotFoundError: When the data set is not there.
        ValueError: When a class has no photos, or a photo is damaged.

    References:
        Chowdhery et al., "Visual Wake Words Dataset", 2019 (arXiv 1906.05721).
    """
    folder = needed(f"{PHOTOS}/", "Visual Wake Words", PHOTOS_WAY)
    of = {name: sorted((folder / name).glob("*.jpg")) for name in CLASSES}
    if empty := [name for name in CLASSES if not of[name]]:
        rule = f"Visual Wake Words must have photos in {' and '.join(CLASSES)}"
        raise broken(rule, f"{folder} has none in {' and '.join(empty)}", PHOTOS_WAY)
    files = [path for name in CLASSES for path in of[name]]
    found = decoded("visual-wake-words", files, _photos, keep=_in_unit)
    parts = {name: (found[f"{name}.x"], found[f"{name}.y"]) for name in PARTS}
    return in_parts(parts["train"], parts["validation"], parts["test"], most)


def _in_unit(items: Tensor) -> Tensor:
    """Pixels in [0, 1]; class numbers as they are.

    All photos in single precision are 12 GB: what is kept is shared by all workers of a machine.
    """
    return items.float() / 255 if items.dtype == torch.uint8 else items


# -- formats ----------------------------------------------------------------------------------


def _batch_files(folder: Path) -> list[Path]:
    """All files of the binary version, training set first."""
    if lacking := [name for name in BATCH_FILES if not (folder / name).exists()]:
        rule = f"CIFAR-10 must have the files {', '.join(BATCH_FILES)}"
        raise broken(rule, f"{folder} lacks {', '.join(lacking)}", BATCHES_WAY)
    return [folder / name for name in BATCH_FILES]


def _batches(files: Sequence[Path]) -> Mapping[str, Tensor]:
    """The binary version."""
    found: dict[str, Tensor] = {}
    for part, first in (("train", "data_batch"), ("test", "test_batch")):
        records = torch.cat([_records(path) for path in files if path.name.startswith(first)])
        found[f"{part}.x"] = records[:, 1:].reshape(-1, 3, SIDE, SIDE).clone()
        found[f"{part}.y"] = records[:, 0].long()
    return found


def _records(path: Path) -> Tensor:
    """`(N, 3073)` what the batch at `path` holds of each image."""
    data = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    if not len(data) or len(data) % RECORD:
        rule = f"A batch of CIFAR-10 must hold images of {RECORD} bytes"
        raise broken(rule, f"{path} has {len(data)} bytes", BATCHES_WAY)
    records = data.reshape(-1, RECORD)
    _of_ten(records[:, 0], path, BATCHES_WAY)
    return records


def _of_ten(target: Tensor, path: Path, way: str) -> None:
    """Refuses class numbers that CIFAR-10 does not have; `way` says how to get others."""
    if odd := [number for number in target.unique().tolist() if number not in range(10)]:
        rule = "Images of CIFAR-10 must be of the classes 0 to 9"
        raise broken(rule, f"{path} has class {', '.join(map(str, odd))}", way)


def _mosaics(files: Sequence[Path]) -> Mapping[str, Tensor]:
    """Images as tiles of large ones, row by row."""
    (path,) = files
    arrays = arrays_of(path, "CIFAR-10", ("img_train_0", "y_train", "img_test_0", "y_test"))
    found: dict[str, Tensor] = {}
    for part in ("train", "test"):
        target = torch.from_numpy(arrays[f"y_{part}"].astype(np.int64))
        _of_ten(target, path, WAY)
        names = takewhile(arrays.__contains__, (f"img_{part}_{k}" for k in count()))
        mosaics = [
            _pixels(io.BytesIO(arrays[name].tobytes()), f"{name} in {path}", WAY) for name in names
        ]
        tiles = [m.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE).flatten(1, 2) for m in mosaics]
        images = torch.cat(tiles, 1).transpose(0, 1)
        if len(images) < len(target):
            rule = "CIFAR-10 must have an image for each class number"
            raise broken(rule, f"{path} has {len(images)} for {len(target)}", WAY)
        found[f"{part}.x"] = images[: len(target)].contiguous()
        found[f"{part}.y"] = target
    return found


def _photos(files: Sequence[Path]) -> Mapping[str, Tensor]:
    """Each part by itself; a photo and its class have the same place."""
    found: dict[str, Tensor] = {}
    for part in PARTS:
        chosen = [path for path in files if part_of(path.stem) == part]
        images = torch.empty(len(chosen), 3, PHOTO_SIDE, PHOTO_SIDE, dtype=torch.uint8)
        for image, path in zip(images, chosen, strict=True):
            pixels = _pixels(path, str(path), PHOTOS_WAY)
            if pixels.shape != image.shape:
                rule = f"Photos must have {PHOTO_SIDE} by {PHOTO_SIDE} pixels"
                size = f"{pixels.shape[2]} by {pixels.shape[1]}"
                raise broken(rule, f"{path} has {size}", PHOTOS_WAY)
            image.copy_(pixels)
        found[f"{part}.x"] = images
        found[f"{part}.y"] = torch.tensor([CLASSES.index(path.parent.name) for path in chosen])
    return found


def _pixels(file: Path | io.BytesIO, name: str, way: str) -> Tensor:
    """`(3, H, W)` whole numbers up to 255.

    Args:
        file: An image.
        name: What it is called where it is broken.
        way: Says how to get it.
    """
    from PIL import Image  # the binary version of CIFAR-10 does without

    try:
        with Image.open(file) as image:
            return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)
    except OSError as error:
        if error.errno is not None:  # of the disk, not of what is on it
            raise
        raise broken("An image must be whole", f"{name} is cut off or none", way) from error
