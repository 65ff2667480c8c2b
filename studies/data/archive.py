"""Data sets in `.npz` files: arrays `x_train`, `y_train`, `x_test`, `y_test`, and some more."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.source import WAY, broken, needed
from data.split import Pair

Arrays = Mapping[str, Any]

MAIN = ("x_train", "y_train", "x_test", "y_test")
_HEAD = b"PK\x03\x04"  # of every zip file that holds a file


def archive(name: str, title: str, *beside: str) -> Arrays:
    """The arrays of the file `name` in the data folder, which holds `title`.

    Args:
        name: Of the file.
        title: Of the data set, as a sentence begins with it.
        beside: Arrays that are needed beside inputs and class numbers of two parts.

    Raises:
        FileNotFoundError: Where there is none.
        ValueError: When it is no whole archive, or lacks one of these arrays.
    """
    return arrays_of(needed(name, title), title, (*MAIN, *beside))


def arrays_of(path: Path, title: str, names: Sequence[str]) -> Arrays:
    """All arrays of the file at `path`, `names` among them; see `archive`."""
    rule = f"{title} must be in a whole .npz file"
    with path.open("rb") as file:  # by ourselves: numpy leaves one open that it can't read
        if (head := file.read(len(_HEAD))) != _HEAD:
            kind = "is of another kind, like a page of the web" if head else "is empty"
            raise broken(rule, f"{path} {kind}", WAY)
        file.seek(0)
        try:
            with np.load(file) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise broken(rule, f"{path} is cut off or damaged", WAY) from error
    if lacking := [name for name in names if name not in found]:
        raise broken(f"{rule} with {', '.join(names)}", f"{path} lacks {', '.join(lacking)}", WAY)
    return found


def pair(arrays: Arrays, part: str) -> Pair:
    """Inputs, in single precision, and class numbers of a part: "train"."""
    inputs = torch.from_numpy(arrays[f"x_{part}"].astype(np.float32))
    return inputs, torch.from_numpy(arrays[f"y_{part}"].astype(np.int64))


def texts(arrays: Arrays, name: str) -> list[str]:
    """The array `name` as texts."""
    return [str(value) for value in arrays[name]]
