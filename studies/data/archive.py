"""Data sets in `.npz` files: arrays `x_train`, `y_train`, `x_test`, `y_test`, and some more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from data.source import needed
from data.split import Pair

Arrays = Mapping[str, Any]


def archive(name: str, title: str) -> Arrays:
    """The arrays of the file `name` in the data folder, which holds `title`.

    Raises:
        FileNotFoundError: Where there is none.
    """
    arrays: Arrays = np.load(needed(name, title))
    return arrays


def pair(arrays: Arrays, part: str) -> Pair:
    """Inputs, in single precision, and class numbers of a part: "train"."""
    inputs = torch.from_numpy(arrays[f"x_{part}"].astype(np.float32))
    return inputs, torch.from_numpy(arrays[f"y_{part}"].astype(np.int64))


def texts(arrays: Arrays, name: str) -> list[str]:
    """The array `name` as texts."""
    return [str(value) for value in arrays[name]]
